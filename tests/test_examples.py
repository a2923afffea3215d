"""Every file of examples/ runs as it stands, learns what its data show, and is the code on its page of docs."""

import contextlib
import functools
import json
import os
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
PAGES = REPOSITORY / "docs" / "integrations"


@functools.cache
def ran(name: str) -> dict[str, Any]:
    """What the example leaves behind. Once for all tests: it starts from its own seed, whatever ran before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small images cost more in waiting for a second thread than in arithmetic
    try:
        with contextlib.redirect_stdout(None):
            return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


def test_a_plain_loop_with_all_its_parts_lowers_the_loss() -> None:
    found = ran("pytorch_loop")
    assert 0 < found["last"] < 0.2 * found["first"]


def test_lovasz_after_cross_entropy_gains_more_than_cross_entropy_goes_on_to() -> None:
    pytest.importorskip("torchmetrics")
    found = ran("fine_tuning")
    assert found["lovasz_softmax"] > found["at_branch"]
    assert found["lovasz_softmax"] > found["cross_entropy"]


def test_each_of_the_overlapping_labels_is_learned() -> None:
    found = ran("multi_label")
    assert (found["before"] < 0.2).all()
    assert (found["after"] > 0.6).all()


def test_points_are_learned_and_those_without_label_left_out() -> None:
    pytest.importorskip("torchmetrics")
    found = ran("pointcept_loss")
    assert 0 < found["losses"][-1] < 0.3 * found["losses"][0]
    assert found["metric"].compute() > 0.8
    assert int(found["metric"].confusion.sum()) == int((found["labels"] >= 0).sum())


def test_the_loss_for_mmsegmentation_trains_and_refuses_pixel_weights() -> None:
    found = ran("mmsegmentation_loss")
    assert 0 < found["losses"][-1] < 0.2 * found["losses"][0]
    criterion, logits, masks = found["criterion"], torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    assert criterion.loss_name.startswith("loss_")  # else mmseg would log it and not descend it
    masks[0] = 7
    without = torch.cat([logits[1:]]), masks[1:]
    torch.testing.assert_close(criterion(logits, masks, ignore_index=7), criterion(*without, ignore_index=7))
    half = found["LovaszSoftmax"](loss_weight=0.5)
    torch.testing.assert_close(2 * half(*without), criterion(*without))
    with pytest.raises(ValueError, match="sampler"):
        criterion(logits, masks, weight=torch.ones(2, 8, 8))


class _Registry(dict):
    """What a registry of mmengine and of Pointcept does with `register_module(module=...)` and `build`."""

    def register_module(self, name: str | None = None, force: bool = False, module: type | None = None) -> None:
        assert module is not None
        assert force or module.__name__ not in self
        self[name or module.__name__] = module

    def build(self, cfg: dict[str, Any]) -> Any:
        options = dict(cfg)
        return self[options.pop("type")](**options)


@pytest.mark.parametrize(
    ("name", "package", "home", "registry", "config"),
    [
        ("mmsegmentation_loss", "mmseg", "mmseg.registry", "MODELS", "loss_decode"),
        ("pointcept_loss", "pointcept", "pointcept.models.losses", "LOSSES", "criteria"),
    ],
)
def test_the_config_builds_our_loss_from_the_registry(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, home: str, registry: str, config: str
) -> None:
    if name == "pointcept_loss":
        pytest.importorskip("torchmetrics")
    entries = _Registry()
    parts = home.split(".")
    for i in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:i]))
        module.__spec__, module.__path__ = types.SimpleNamespace(name=module.__name__), []  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    setattr(sys.modules[home], registry, entries)
    with contextlib.redirect_stdout(None):
        found = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    loss = entries.build(found[config][1])
    logits, target = torch.randn(50, 3), torch.randint(0, 3, (50,))
    torch.testing.assert_close(loss(logits, target), found["LovaszSoftmaxLoss"]()(logits, target))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
def test_the_lightning_module_raises_the_validation_miou() -> None:
    pytest.importorskip("lightning")
    found = ran("lightning_module")
    assert found["before"] < 0.4 < 0.8 < found["after"]


@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true")
def test_segformer_learns_from_our_loss_in_the_trainer() -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found = ran("transformers_trainer")
    assert found["before"] < 0.4 < 0.8 < found["after"]


@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true")
def test_the_trainer_does_not_multiply_the_loss_by_the_number_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    found = ran("transformers_trainer")
    model, image = found["trainer"].model.eval(), found["Squares"](1)[0]
    inputs = {name: value.unsqueeze(0) for name, value in image.items()}
    with torch.no_grad():
        expected = found["criterion"](
            found["upsampled"](model(inputs["pixel_values"]).logits, (64, 64)), inputs["labels"]
        )
        monkeypatch.setattr(accelerate.Accelerator, "num_processes", 4)
        loss = found["trainer"].compute_loss(model, inputs, num_items_in_batch=torch.tensor(64 * 64))
    torch.testing.assert_close(loss, expected)


@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true")
def test_the_trainer_keeps_class_indices_for_the_metric_not_logits() -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found = ran("transformers_trainer")
    with contextlib.redirect_stdout(None):
        predictions = found["trainer"].predict(found["Squares"](3)).predictions
    assert predictions.shape == (3, 64, 64)
    assert predictions.dtype == "int64"


class _Linear(torch.nn.Module):
    """The least network that the Trainer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 3, 1)

    def forward(self, pixel_values: torch.Tensor, labels: Any = None) -> Any:
        return types.SimpleNamespace(logits=self.convolution(pixel_values))


@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true")
@pytest.mark.parametrize("batches", [1, 2])  # of the two that are accumulated: the last step of an epoch may have one
def test_the_trainer_descends_the_mean_of_the_accumulated_batches(tmp_path: Path, batches: int) -> None:
    pytest.importorskip("torchmetrics")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found = ran("transformers_trainer")
    image = found["Squares"](1)[0]
    model, same = _Linear(), _Linear()
    same.load_state_dict(model.state_dict())
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        learning_rate=1.0,
        optim="sgd",
        lr_scheduler_type="constant",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    data = [image] * (2 * batches)  # all batches are equal, so the mean of their gradients is that of one
    trainer = transformers.Trainer(model, arguments, train_dataset=data, compute_loss_func=found["compute_loss"])
    found["compute_loss"].__globals__["trainer"] = trainer
    with contextlib.redirect_stdout(None):
        trainer.train()
    logits = found["upsampled"](same(torch.stack([image["pixel_values"]] * 2)).logits, (64, 64))
    found["criterion"](logits, torch.stack([image["labels"]] * 2)).backward()
    for moved, old in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(old - moved, old.grad, rtol=1e-4, atol=1e-6)


def test_volumes_of_monai_are_learned() -> None:
    pytest.importorskip("monai")
    found = ran("monai_volumes")
    assert found["before"] < 0.2 < 0.4 < found["after"]


def test_networks_of_smp_train_with_both_losses(vision: dict[str, str]) -> None:
    code = """
import json, runpy, sys
from benchmarks.libraries import make_torchvision_importable
make_torchvision_importable()
found = runpy.run_path(sys.argv[1], run_name="__main__")
print(json.dumps([found["losses"], found["binary"], float(found["metric"].compute())]))
"""
    example = str(EXAMPLES / "segmentation_models.py")
    done = subprocess.run(
        [sys.executable, "-c", code, example], env=vision, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    losses, binary, miou = json.loads(done.stdout.splitlines()[-1])
    assert losses[-1] < 0.5 * losses[0]
    assert binary[-1] < 0.5 * binary[0]
    assert miou > 0.8


def test_two_processes_descend_one_loss_the_same_as_one_process_does() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(Path(__file__).with_name("to_its_end.py")), str(EXAMPLES / "global_batch.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r"process (\d) of 2: loss of the whole batch ([\d.]+) at first, ([\d.]+) at last", done.stdout)
    assert sorted(rank for rank, *_ in said) == ["0", "1"]
    assert len({(first, last) for _, first, last in said}) == 1  # one number, whoever says it
    alone = ran("global_batch")
    first, last = (float(value) for value in said[0][1:])
    assert last < 0.3 * first
    assert first == pytest.approx(alone["first"], rel=1e-4)
    assert last == pytest.approx(alone["last"], rel=1e-2)  # after forty steps of float32


def code_of(page: str) -> str:
    """The Python blocks of a page, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))


def lines_of(code: str) -> list[str]:
    """The lines that do something."""
    return [line for line in code.splitlines() if line.strip()]


@pytest.mark.parametrize("example", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_the_page_of_an_example_shows_its_code_and_no_other(example: str) -> None:
    pages = [page for page in PAGES.glob("*.md") if f"examples/{example}.py" in page.read_text(encoding="utf-8")]
    assert len(pages) == 1, f"examples/{example}.py is named on {len(pages)} pages of {PAGES}"
    source = (EXAMPLES / f"{example}.py").read_text(encoding="utf-8").split('"""', 2)[2]
    assert lines_of(code_of(pages[0].read_text(encoding="utf-8"))) == lines_of(source)
