"""The report's figures: valid plotly, values against numpy, order, colours and gaps."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.lab.comparison_folder import CLASSES, LOSSES, comparison, content_of, draw_examples, write
from tests.lab.page_reader import read

from lovasz.lab import charts
from lovasz.lab.summary import losses_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = comparison()
    draw_examples(tmp_path, content, count=2, size=(48, 36))
    return write(tmp_path, content)


def test_the_figures_are_valid_plotly(folder: Path) -> None:
    content = content_of(folder)
    figures = read(folder).figures()
    assert set(figures["curves"]) == {"dataset_miou", "image_miou", "pixel_accuracy"}
    assert set(figures["classes"]) == {f"{split} {order}" for split in ("val", "test") for order in ("listed", "apart")}
    for figure in [*figures["curves"].values(), *figures["classes"].values()]:
        go.Figure(figure)  # raises on a wrong name or value
    assert len(figures["curves"]["dataset_miou"]["data"]) == len(LOSSES) * (
        1 + len({r["seed"] for r in content["runs"]})
    )


def test_the_mean_curve_starts_at_the_common_start_and_is_the_mean_over_seeds(folder: Path) -> None:
    content = content_of(folder)
    figure = charts.validation_curves(content)["dataset_miou"]
    for index, loss in enumerate(LOSSES):
        runs = [run for run in content["runs"] if run["loss"] == loss]
        values = np.array([[entry["val"]["dataset_miou"] for entry in run["history"]] for run in runs])
        expected = 100 * np.concatenate([[content["initial"]["val"]["dataset_miou"]], values.mean(0)])
        mean = figure["data"][4 * index + 3]
        assert mean["x"] == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose(mean["y"], expected, atol=1e-3)


@pytest.mark.parametrize(("epochs", "step"), [(1, 1), (10, 1), (11, None)])
def test_few_epochs_have_a_tick_each(epochs: int, step: int | None) -> None:
    content = comparison()
    for run in content["runs"]:
        run["history"] = [run["history"][0] | {"epoch": epoch} for epoch in range(1, epochs + 1)]
    assert charts.validation_curves(content)["dataset_miou"]["layout"]["xaxis"].get("dtick") == step


def test_epochs_without_validation_leave_no_point() -> None:
    content = comparison(losses=("lovasz_softmax",), seeds=(0, 1))
    content["initial"] = None
    content["runs"][0]["history"][1]["val"] = None
    content["runs"][1]["history"][0]["train_loss"] = float("nan")
    thin, other, mean = charts.validation_curves(content)["dataset_miou"]["data"]
    assert (thin["x"], other["x"], mean["x"]) == ([1, 3, 4, 5], [1, 2, 3, 4, 5], [1, 3, 4, 5])


def test_a_class_without_iou_has_no_bar_and_says_so(tmp_path: Path) -> None:
    content = comparison()
    for run in content["runs"]:
        run["scores"]["test"]["per_class_iou"]["road"] = None
    content["runs"][0]["scores"]["test"]["per_class_iou"]["pole"] = None  # in one seed only: the others count
    page = read(write(tmp_path, content))
    figure = page.figures()["classes"]["test listed"]
    bars = [trace for trace in figure["data"] if trace["type"] == "bar"]
    assert [bar["x"][1] for bar in bars] == [None] * 3
    assert [note["y"] for note in figure["layout"]["annotations"]] == [1]
    others = [run["scores"]["test"]["per_class_iou"]["pole"] for run in content["runs"][1:3]]
    assert bars[0]["x"][4] == pytest.approx(100 * np.mean(others), abs=1e-3)
    apart = page.figures()["classes"]["test apart"]["layout"]
    assert apart["yaxis"]["ticktext"][-1] == "road"  # classes that cannot differ come last


def test_the_classes_that_differ_most_come_first(folder: Path) -> None:
    content = content_of(folder)
    figure = charts.class_bars(content)["test apart"]
    means = [
        [
            np.mean([run["scores"]["test"]["per_class_iou"][name] for run in content["runs"] if run["loss"] == loss])
            for loss in LOSSES
        ]
        for name in CLASSES
    ]
    order = np.argsort(-np.ptp(np.array(means), axis=1), kind="stable")
    assert list(order) != sorted(order)  # else this shows nothing
    np.testing.assert_allclose(figure["data"][0]["x"], [100 * means[i][0] for i in order], atol=1e-3)


def test_a_loss_keeps_its_colour_through_the_page(folder: Path) -> None:
    figures = read(folder).figures()
    for loss in losses_of(content_of(folder)):
        colour = f"var(--loss-{loss.index})"
        traces = [t for f in (figures["curves"]["image_miou"], figures["classes"]["val listed"]) for t in f["data"]]
        own = [trace for trace in traces if trace["legendgroup"] == str(loss.index)]
        assert {(trace.get("line") or trace["marker"])["color"] for trace in own} == {colour}
