"""Bars show how far the work is, and none is left of it: not when it is done, and not when it raises or is left."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
from rich.progress import Progress
from tests.lab.tiny import TinyDataset, use_tiny_data
from torch import Tensor, nn

from lovasz.lab import averaging, comparison, evaluation, progress
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.paper import everything, synthetic
from lovasz.lab.paper.crops import draw_crops
from lovasz.lab.paper.everything import Part
from lovasz.lab.training import train

CPU = torch.device("cpu")


class Broken(Exception):
    """Stands for whatever may go wrong in the work."""


class Watching(nn.Module):
    """Notes the bars at each call; breaks at call `until`."""

    def __init__(self, shown: Progress, until: int = -1) -> None:
        super().__init__()
        self.shown, self.until, self.seen = shown, until, []

    def forward(self, images: Tensor) -> Tensor:
        self.seen += [bars(self.shown)]
        if len(self.seen) == self.until:
            raise Broken
        return torch.zeros(len(images), 3, *images.shape[2:])


@pytest.fixture
def shown() -> Progress:
    """Nothing is drawn, but all bars are held."""
    return Progress(disable=True)


def bars(shown: Progress) -> list[tuple[str, float, float | None]]:
    return [(task.description, task.completed, task.total) for task in shown.tasks]


def test_a_bar_moves_has_a_note_and_is_gone_after_its_work(shown) -> None:
    with progress.bar(9, "work", shown, completed=2) as done:
        assert bars(shown) == [("work", 2, 9)]
        assert shown.tasks[0].fields == {"note": ""}
        done.advance()
        done.advance(3)
        done.note("soon")
        assert bars(shown) == [("work", 6, 9)]
        assert shown.tasks[0].fields == {"note": "soon"}
    assert not shown.tasks


def test_a_bar_is_gone_after_its_work_raised_and_another_stays(shown) -> None:
    with progress.bar(2, "outer", shown) as outer:
        with pytest.raises(Broken), progress.bar(9, "work", shown):
            raise Broken
        outer.advance()
        assert bars(shown) == [("outer", 1, 2)]


def test_without_a_display_the_work_is_the_same() -> None:
    with progress.bar(9, "work", None, completed=2) as done:
        done.advance()
        done.note("soon")
    assert list(progress.tracked("abc", 3, "letters", None)) == ["a", "b", "c"]


def test_tracked_items_advance_the_bar_when_the_next_is_asked_for(shown) -> None:
    seen = [bars(shown) for _ in progress.tracked("abc", 3, "letters", shown)]
    assert seen == [[("letters", done, 3)] for done in range(3)]
    assert not shown.tasks
    resumed = [bars(shown) for _ in progress.tracked("c", 3, "letters", shown, completed=2)]
    assert resumed == [[("letters", 2, 3)]]


def test_the_bar_is_gone_when_the_loop_over_tracked_items_ends_early(shown) -> None:
    for letter in progress.tracked("abc", 3, "letters", shown):
        if letter == "b":
            break
    assert not shown.tasks

    def loop() -> None:
        for letter in progress.tracked("abc", 3, "letters", shown):
            if letter == "b":
                raise Broken

    with pytest.raises(Broken) as held:  # its traceback holds the frame
        loop()
    assert held.tb is not None
    assert not shown.tasks


def test_the_bar_is_gone_when_tracked_items_are_closed(shown) -> None:
    with closing(progress.tracked("abc", 3, "letters", shown)) as letters:
        assert next(letters) == "a"
        assert shown.tasks
    assert not shown.tasks


def test_the_bar_is_gone_when_the_items_themselves_raise(shown) -> None:
    def items():
        yield 1
        raise Broken

    with pytest.raises(Broken):
        list(progress.tracked(items(), 2, "items", shown))
    assert not shown.tasks


def test_an_evaluation_counts_images_and_leaves_no_bar_behind(shown, monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "PIXELS_AT_ONCE", 3 * 32 * 32)
    network = Watching(shown)
    evaluation.evaluate(network, TinyDataset("val", size=7), progress=shown)
    assert network.seen == [[("evaluating val", done, 7)] for done in (0, 3, 6)]
    assert not shown.tasks
    with pytest.raises(Broken):
        evaluation.evaluate(Watching(shown, until=2), TinyDataset("val", size=7), progress=shown)
    assert not shown.tasks


def test_a_search_for_crops_that_breaks_leaves_no_bar(shown, tmp_path) -> None:
    networks: dict[str, nn.Module] = {"one": Watching(shown, until=2), "other": Watching(shown)}
    with pytest.raises(Broken) as held:
        draw_crops(
            None, networks, ("one", "other"), TinyDataset("val"), tmp_path / "crops.png", device=CPU, progress=shown
        )
    assert held.tb is not None
    assert networks["one"].seen == [[("crops", done, 4)] for done in range(2)]
    assert not shown.tasks


def test_a_part_that_breaks_leaves_no_bar(shown, tmp_path) -> None:
    def run(folder, resume, inner):
        assert bars(inner) == [("parts", 0, 1)]
        assert inner.tasks[0].fields == {"note": "first"}
        raise Broken  # no LabError: all parts end

    with pytest.raises(Broken):
        everything.run_all(tmp_path, {"first": lambda: Part({}, run)}, shown)
    assert not shown.tasks


def test_an_experiment_in_the_display_of_another_leaves_no_bar(shown, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    synthetic.run(tmp_path, synthetic.Setting(draws=1, images=2, size=16, radius=(2, 4)), progress=shown)
    assert not shown.tasks


def test_a_comparison_that_breaks_leaves_no_bar(shown, tmp_path, monkeypatch) -> None:
    use_tiny_data(monkeypatch.setattr)
    seen = []

    def breaking(*_, **__):
        seen.append(bars(shown))
        raise Broken

    monkeypatch.setattr(comparison, "run_once", breaking)
    config = ComparisonConfig(
        run=RunConfig(data="tiny", model="unet", epochs=1, batch_size=4),
        losses=("cross_entropy", "lovasz_softmax"),
        out=str(tmp_path / "out"),
    )
    with pytest.raises(Broken):
        comparison.compare(config, progress=shown)
    assert seen == [[("runs", 0, 2)]]
    assert not shown.tasks


@pytest.mark.usefixtures("one_thread")
def test_a_pass_for_batch_normalisation_that_breaks_leaves_no_bar(shown, tmp_path, monkeypatch) -> None:
    use_tiny_data(monkeypatch.setattr)
    seen = []

    def breaking(network, batches, *_):
        next(iter(batches))
        seen.append([name for name, *_ in bars(shown)])
        raise Broken

    monkeypatch.setattr(averaging, "measure_batch_norm", breaking)
    config = RunConfig(data="tiny", model="unet", epochs=1, batch_size=4, keep="average", out=str(tmp_path / "out"))
    with pytest.raises(Broken) as held:  # its traceback holds the batches
        train(config, progress=shown)
    assert held.tb is not None
    assert [name.rpartition(": ")[2] for (name,) in seen] == ["batch normalisation"]
    assert not shown.tasks
