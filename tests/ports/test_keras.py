"""`lovasz.keras` on its three backends, each in a process of its own: a backend is chosen once, on import."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import xla

CHECKS = Path(__file__).with_name("keras_checks.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module", params=["tensorflow", "jax", "torch"])
def rows(request, tmp_path_factory) -> dict[str, dict]:
    """What the checks print, by name."""
    for package in ("keras", request.param):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, CHECKS, tmp_path_factory.mktemp("keras")],
        env=os.environ
        | {
            "KERAS_BACKEND": request.param,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(SOURCE),
            "OMP_NUM_THREADS": "1",
            "XLA_FLAGS": xla.quick_flags() if request.param == "jax" else "",  # test_jax.py has what they leave out
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


def test_value_and_gradient_are_the_authors(rows: dict[str, dict]) -> None:
    assert rows["golden binned"]["value"] <= 1e-5
    assert rows["golden binned"]["gradient"] <= 1e-3
    if "golden exact" in rows:
        assert rows["golden exact"]["value"] <= 1e-5
        assert rows["golden exact"]["gradient"] <= 1e-5


@pytest.mark.parametrize("method", ["exact", "binned"])
def test_a_pixel_of_weight_two_is_two_pixels(rows: dict[str, dict], method: str) -> None:
    row = rows[f"pixel weights {method}"]
    assert row["actual"] == pytest.approx(row["expected"], rel=1e-5)


@pytest.mark.parametrize("name", ["flat weights 1", "flat weights 2", "flat hinge weights"])
def test_weights_of_flat_inputs_are_those_of_pixels(rows: dict[str, dict], name: str) -> None:
    assert rows[name]["actual"] == pytest.approx(rows[name]["expected"], rel=1e-5)


@pytest.mark.parametrize("name", ["several labels 2", "several labels 3", "several labels 4", "light image"])
def test_weights_are_of_pixels_whatever_their_labels_and_of_each_image_alone(rows: dict[str, dict], name: str) -> None:
    assert rows[name]["actual"] == pytest.approx(rows[name]["expected"], rel=1e-4)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_a_weight_of_an_image_multiplies_its_loss(rows: dict[str, dict], reduction: str) -> None:
    row = rows[f"image weights {reduction}"]
    assert row["actual"] == pytest.approx(row["expected"], rel=1e-5)


def test_as_many_equal_errors_as_one_likes_are_counted_exactly(rows: dict[str, dict]) -> None:
    # Whatever the foreground, the loss of errors that are all the same is that error: J of the whole set is 1.
    found = {name: row["actual"] for name, row in rows.items() if name.startswith("equal weights")}
    assert "equal weights 0.1" in found
    assert found == pytest.approx(dict.fromkeys(found, 0.5), rel=1e-5)


def test_a_mask_is_a_weight_of_nought_and_one(rows: dict[str, dict]) -> None:
    assert rows["mask"]["actual"] == pytest.approx(rows["mask"]["expected"], rel=1e-5)


def test_a_layer_can_take_the_loss_before_the_images_are_counted(rows: dict[str, dict]) -> None:
    assert 0 < rows["inside"]["loss"] < 1


def test_a_model_trains_and_comes_back_with_its_loss(rows: dict[str, dict]) -> None:
    assert 0 < rows["training"]["loss"] < 1
    assert rows["training"]["moved"] > 0
    assert rows["loading"]["same"]
    assert rows["loading"]["kind"] == "LovaszSoftmaxLoss"
    assert rows["function"]["loss"] == "lovasz_softmax"
    assert rows["half precision"]["dtype"] == "float32"
    assert rows["half precision"]["finite"]


def test_replicas_of_a_strategy_train_as_one_with_their_images(rows: dict[str, dict]) -> None:
    found = [row for name, row in rows.items() if name.startswith("replicas ")]
    if not found:
        pytest.skip("strategies are TensorFlow's")
    assert len(found) == 2
    for row in found:
        alone, both = row["losses"]
        assert both == pytest.approx(alone, rel=1e-5)
        assert 0.1 < alone < 1
        assert row["apart"] < 1e-6


def test_bad_input_is_named(rows: dict[str, dict]) -> None:
    assert "holds label 3, beyond its 3 classes" in rows["stray label"]["message"]
    assert "beyond its 3 classes" in rows["64 bits"]["message"]
    assert "ignore_class" in rows["stray label"]["message"]
    assert "holds a fraction, or a label of 32 bits or more, beyond its 3 classes" in rows["fraction"]["message"]
    assert rows["one-hot"]["message"].startswith("y_true must have shape (1, 2, 2) to match y_pred (1, 2, 2, 3), got")
    assert rows["swapped"]["message"].startswith("y_pred must be floating-point, got int32")
    assert rows["nothing"]["message"] == "y_true must be an array, got None"
    assert "reduction must be one of" in rows["reduction"]["message"]
    assert "'presnt'" in rows["classes"]["message"]  # when it is built, before any data are loaded
    assert "method must be one of 'binned', 'exact', got 'fast'" in rows["method"]["message"]
    assert "weight must be a list of numbers, one per class" in rows["class weight"]["message"]
    assert "got 'abc'" in rows["text for class weights"]["message"]
    assert "weight must be finite and not negative, got [-1.0" in rows["negative class weights"]["message"]
    assert "(1, 3)" in rows["weights"]["message"]
    assert "its 4 pixels, (1, 2, 2), got shape (1, 2, 2, 3)" in rows["weights of labels"]["message"]
    assert "sample_weight holds a number that is negative" in rows["negative weights"]["message"]
    assert "sample_weight holds a number that is negative, infinite" in rows["infinite weights"]["message"]
    assert "for each image, (1,)" in rows["weights of other images"]["message"]
    assert "for each of its 6 pixels, (1, 2, 3), got shape (1, 3, 2)" in rows["weights of another layout"]["message"]
