"""What a comparison says: means and spreads per loss, the table with the best values, the result in one sentence.

Apart from the page, so that every stated number can be checked without reading HTML.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from lovasz.lab.cautions import cautions, held_in

METRICS = {"dataset_miou": "dataset mIoU", "image_miou": "image mIoU", "pixel_accuracy": "pixel accuracy"}
SPLITS = {"val": "validation", "test": "test"}
TIMED = 10  # steps of a run from which on its times say something; the first is never measured
_LOSS_NAMES = {
    "cross_entropy": "cross-entropy",
    "weighted_cross_entropy": "weighted cross-entropy",
    "lovasz_softmax": "Lovász-Softmax",
    "weighted_lovasz_softmax": "weighted Lovász-Softmax",
    "lovasz_hinge": "Lovász hinge",
    "lovasz_sigmoid": "Lovász-Sigmoid",
    "hinge": "hinge loss",
    "soft_jaccard": "soft Jaccard",
}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1; None for a single value) of the values of several seeds."""

    mean: float
    deviation: float | None
    count: int

    @staticmethod
    def of(values: Iterable[float | None]) -> Spread | None:
        """Over the values that are there; None when there is none."""
        present = [value for value in values if value is not None and math.isfinite(value)]
        if not present:
            return None
        deviation = statistics.stdev(present) if len(present) > 1 else None
        return Spread(statistics.fmean(present), deviation, len(present))


@dataclass(frozen=True)
class Loss:
    """One loss and its finished runs. `index` is its place in the list of losses, which decides its colour."""

    index: int
    spec: str
    label: str
    runs: tuple[dict[str, Any], ...]

    def by_seed(self, split: str, metric: str = "dataset_miou") -> dict[int, float]:
        """One metric of each run that has it."""
        scores = {run["seed"]: (run["scores"][split] or {}).get(metric) for run in self.runs}
        return {seed: score for seed, score in scores.items() if score is not None}

    def score(self, split: str, metric: str) -> Spread | None:
        """One metric over the runs."""
        return Spread.of(self.by_seed(split, metric).values())

    def class_iou(self, split: str, name: str) -> Spread | None:
        """The IoU of one class over the runs in which it is defined."""
        return Spread.of(((run["scores"][split] or {}).get("per_class_iou") or {}).get(name) for run in self.runs)

    def seconds_per_step(self) -> Spread | None:
        """Time of a whole training step."""
        return Spread.of(run["seconds_per_step"] for run in self.runs)

    @property
    def timed(self) -> bool:
        """Whether its steps were enough for their time to be compared with another loss's."""
        return all(run["steps"] is None or run["steps"] > TIMED for run in self.runs)

    def share_of_step(self) -> Spread | None:
        """Share of a step's time that the loss takes, forward and backward, as a fraction."""
        times = [(run["loss_seconds_per_step"], run["seconds_per_step"]) for run in self.runs]
        return Spread.of(loss / step if loss is not None and step else None for loss, step in times)


@dataclass(frozen=True)
class Cell:
    """One value of the table as it is shown; `best` when no other loss shows a better one."""

    text: str
    deviation: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """`groups` are (title, number of columns); `before` is the row of the common start, without a loss."""

    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Loss, tuple[Cell, ...]], ...]
    before: tuple[Cell, ...] | None


def losses_of(comparison: dict[str, Any]) -> list[Loss]:
    """All losses of the comparison in its order, also those without a finished run."""
    runs = sorted(comparison["runs"], key=lambda run: run["seed"])
    return [
        Loss(index, spec, label_of(spec), tuple(run for run in runs if run["loss"] == spec))
        for index, spec in enumerate(comparison["losses"])
    ]


def label_of(spec: str) -> str:
    """A loss spec in words: "cross_entropy+0.5*lovasz_softmax" → "cross-entropy + 0.5 × Lovász-Softmax"."""
    text = re.sub(r"[A-Za-z_][A-Za-z_0-9]*", lambda match: _LOSS_NAMES.get(match[0], match[0]), spec)
    text = re.sub(
        r">\s*(0?\.\d+)\s*>([^>]*)", lambda match: f">{match[2].strip()} (from {_percent_of(match[1])})", text
    )
    return re.sub(r"\s*([+*>])\s*", lambda match: {"+": " + ", "*": " × ", ">": " → "}[match[1]], text)


def planned_seeds(comparison: dict[str, Any]) -> list[int]:
    """The seeds of the comparison; where it does not name them, those of its finished runs."""
    return comparison["seeds"] or sorted({run["seed"] for run in comparison["runs"]})


def missing_runs(comparison: dict[str, Any]) -> list[tuple[str, int | None]]:
    """(label, seed) of planned runs that have not finished; (label, None) for a loss without any run."""
    seeds = planned_seeds(comparison)
    missing: list[tuple[str, int | None]] = []
    for loss in losses_of(comparison):
        there = {run["seed"] for run in loss.runs}
        missing += [(loss.label, seed) for seed in seeds if seed not in there] if there else [(loss.label, None)]
    return missing


def start_scores(comparison: dict[str, Any], seed: int) -> dict[str, Any]:
    """The scores that the runs of this seed started from, by split: its own first phase, or the common weights."""
    own = [entry["scores"] for entry in comparison["pretraining"] or [] if entry["seed"] == seed]
    return own[0] if own and own[0] else comparison["initial"] or {}


def start_spread(comparison: Mapping[str, Any], split: str, read: Callable[[Any], float | None]) -> Spread | None:
    """A score of the start; over the seeds where each had a first phase of its own."""
    phases = [entry["scores"] for entry in comparison["pretraining"] or [] if entry["scores"]]
    sources = phases or [comparison["initial"] or {}]
    return Spread.of(read(source[split]) for source in sources if source.get(split))


def score_splits(comparison: dict[str, Any]) -> list[str]:
    """The splits that have scores in at least one finished run or at the start."""
    sources = [run["scores"] for run in comparison["runs"]] + [comparison["initial"] or {}]
    return [split for split in SPLITS if any(source.get(split) for source in sources)]


def score_table(comparison: dict[str, Any]) -> Table:
    """Every loss against every score. A best value is one that no other loss beats as shown, to the last digit."""
    losses, splits = losses_of(comparison), score_splits(comparison)
    groups, columns = [], []
    spreads: list[list[Spread | None]] = []
    formats: list[tuple[float, int, Callable[..., float]]] = []  # scale, digits, which end is best
    before: list[Cell] = []
    for split in splits:
        groups.append((f"{SPLITS[split]}, %", len(METRICS)))
        for metric, title in METRICS.items():
            columns.append(title)
            spreads.append([loss.score(split, metric) for loss in losses])
            formats.append((100.0, 1, max))
            start = start_spread(comparison, split, itemgetter(metric))
            before.append(_cell(start, 100.0, 1, best=False))
    steps = [loss.seconds_per_step() for loss in losses]
    seconds = max((step.mean for step in steps if step), default=0.0) >= 1.0
    groups.append(("cost", 2))
    columns += [f"{'s' if seconds else 'ms'} per step", "loss, % of step"]
    spreads += [steps, [loss.share_of_step() for loss in losses]]
    formats += [(1.0, 2, min) if seconds else (1000.0, 1, min), (100.0, 1, min)]
    before += [Cell("–"), Cell("–")]
    cells = [_cells(column, *form) for column, form in zip(spreads, formats, strict=True)]
    if not all(loss.timed for loss in losses):
        cells[-2:] = [[replace(cell, best=False) for cell in column] for column in cells[-2:]]
    rows = tuple((loss, tuple(column[loss.index] for column in cells)) for loss in losses)
    return Table(
        tuple(groups), tuple(columns), rows, tuple(before) if any(cell.text != "–" for cell in before) else None
    )


def best_cells(values: list[float | None], digits: int, best: Callable[..., float] = max) -> list[bool]:
    """Which values are best when rounded to these digits; none is when all that are there are one."""
    shown = [None if value is None else round(value, digits) for value in values]
    present = [value for value in shown if value is not None]
    return [len(set(present)) > 1 and value == best(present) for value in shown]


def _cells(spreads: list[Spread | None], scale: float, digits: int, best: Callable[..., float]) -> list[Cell]:
    marks = best_cells([spread and spread.mean * scale for spread in spreads], digits, best)
    return [_cell(spread, scale, digits, mark) for spread, mark in zip(spreads, marks, strict=True)]


def _cell(spread: Spread | None, scale: float, digits: int, best: bool) -> Cell:
    if spread is None:
        return Cell("–")
    deviation = "" if spread.deviation is None else f"{spread.deviation * scale:.{digits}f}"
    return Cell(f"{spread.mean * scale:.{digits}f}", deviation, best)


def data_cautions(comparison: Mapping[str, Any]) -> list[str]:
    """What the data themselves take from the scores, a sentence each; none where nobody looked."""
    dataset = comparison["dataset"]
    return cautions(dataset["classes"], dataset["images"], dataset.get("absent"), dataset.get("copies"))


def headline(comparison: dict[str, Any]) -> tuple[str, str]:
    """The result in one sentence, and a second line with what a reader needs to weigh it.

    The best loss with a Lovász term stands against the best without one; where all losses are of one kind, the best
    against the second best. For one seed the losses share start and order of images, so both means are over the seeds
    that both have. They are compared on test, or on validation where the masks of test hold one class alone. A mean
    difference no larger than the sample standard deviation of the differences seed by seed (with no seed in common:
    than the larger deviation of the two losses) is called within the spread.
    """
    losses = [loss for loss in losses_of(comparison) if loss.runs]
    if not losses:
        planned = " and ".join(label_of(spec) for spec in comparison["losses"])
        return "No run has finished yet", f"Planned: {planned}. Continue with --resume to fill this page."
    split = "test" if all(loss.by_seed("test") for loss in losses) else "val"
    notes = []
    alone, of_val = _only_class(comparison, split), _only_class(comparison, "val")
    if alone and not of_val and all(loss.by_seed("val") for loss in losses):
        notes.append(f"The test masks hold {alone} alone, so the validation images decide here.")
        split, alone = "val", None
    ranked = sorted(
        (loss for loss in losses if loss.by_seed(split)),
        key=lambda loss: -statistics.fmean(loss.by_seed(split).values()),
    )
    if not ranked:
        return "No scores yet", "The finished runs hold neither validation nor test scores."
    kinds = [[loss for loss in ranked if ("lovasz" in loss.spec) == lovasz] for lovasz in (True, False)]
    winner, other = (kinds[0][0], kinds[1][0]) if all(kinds) else (ranked[0], ranked[1] if ranked[1:] else None)
    mine, theirs = winner.by_seed(split), other.by_seed(split) if other else {}
    shared = sorted(mine.keys() & theirs.keys()) if other else sorted(mine)
    score = statistics.fmean(mine[seed] for seed in shared or mine)
    count = len(shared or mine)
    runs = f"{count} seed{'s' if count > 1 else ''}"
    sentence = f"{_capital(winner.label)}: {100 * score:.1f} % {SPLITS[split]} mIoU"
    if other:
        gain = 100 * (score - statistics.fmean(theirs[seed] for seed in shared or theirs))
        apart = [100 * (mine[seed] - theirs[seed]) for seed in shared]
        spread = _deviation(apart)
        if not shared:
            spread = 100 * max(_deviation(mine.values()), _deviation(theirs.values()))
            notes.append(f"The two losses share no seed: {len(mine)} against {len(theirs)} other seeds.")
        elif len(shared) < max(len(mine), len(theirs)):
            notes.append(f"Compared over the {runs} that both losses have finished; the table takes all runs.")
        within = count > 1 and 0.05 <= abs(gain) <= spread
        sentence += f", {_difference(gain, other.label)}" + (
            f", within the spread of {runs}" if within else f" ({runs})"
        )
        if 1 < count <= 6 and shared:
            notes.append(f"Seed by seed: {', '.join(map(_signed, apart))} points.")
    else:
        sentence += f" ({runs})"
    if count == 1:
        notes.append("One seed cannot show how far a repetition would fall from it.")
    start = start_spread(comparison, split, lambda scores: scores["dataset_miou"])
    if start:
        notes.append(f"The start had {100 * start.mean:.1f} %: {_signed(100 * (score - start.mean))} points since.")
    kept = (comparison["config"] or {}).get("keep")
    if kept == "best":
        notes.append("Each run is scored at its best epoch on the validation images.")
    elif kept == "average":
        notes.append("Each run is scored with the mean of its weights over its later steps; the curves do not show it.")
    if split == "test" and (val := winner.score("val", "dataset_miou")):
        val_other = other.score("val", "dataset_miou") if other else None
        against = f" against {100 * val_other.mean:.1f} %" if val_other else ""
        notes.append(f"On validation images: {100 * val.mean:.1f} %{against}.")
    step, step_other = winner.seconds_per_step(), other.seconds_per_step() if other else None
    if step and step_other and step_other.mean > 0 and winner.timed and other and other.timed:
        notes.append(f"A training step takes {_times(step, step_other)}.")
    if alone:
        notes.insert(0, f"{sentence}.")
        sentence = f"The {SPLITS[split]} masks hold {alone} alone, so they cannot tell which loss is better"
    return sentence, " ".join(notes)


def _only_class(comparison: Mapping[str, Any], split: str) -> str | None:
    """The one class in the masks of a split: its mIoU ranks losses by how few pixels they give to the others."""
    dataset = comparison["dataset"]
    held = held_in(dataset["classes"], dataset.get("absent"), split) or []
    return held[0] if len(held) == 1 < len(dataset["classes"]) else None


def _deviation(values: Iterable[float]) -> float:
    numbers = list(values)
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def _difference(points: float, label: str) -> str:
    if f"{abs(points):.1f}" == "0.0":
        return f"the same as {label}"
    word = "point" if f"{abs(points):.1f}" == "1.0" else "points"
    return f"+{points:.1f} {word} over {label}" if points > 0 else f"{-points:.1f} {word} below {label}"


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def _times(mine: Spread, other: Spread) -> str:
    """One time against another; what a busy machine did to one of the runs is no difference of the losses."""
    words = _time(mine.mean / other.mean)
    spread = max(mine.deviation or 0.0, other.deviation or 0.0)
    return f"{words}, within the spread of the runs" if 0 < abs(mine.mean - other.mean) <= spread else words


def _time(ratio: float) -> str:
    percent = f"{100 * abs(ratio - 1):.0f} %"
    return "the same time" if percent == "0 %" else f"{percent} {'more' if ratio > 1 else 'less'} time"


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]


def _percent_of(fraction: str) -> str:
    return f"{100 * float(fraction):g} %"
