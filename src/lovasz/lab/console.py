"""What the commands print on the terminal: errors, score tables, the table of a comparison. Apart from the commands,
so that these are read from plain dicts and tested without training anything. No colours where there is no terminal."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lovasz.lab.errors import LabError, memory_full, worker_ended
from lovasz.lab.progress import plain
from lovasz.lab.summary import Spread, best_cells, data_cautions, losses_of, start_spread

if TYPE_CHECKING:
    from lovasz.lab.config import RunConfig
    from lovasz.lab.predict import Predictions

PAPER = ("surfaces", "synthetic", "networks", "binary", "finetune", "multiclass", "batches", "all")
RESUMABLE = ("compare", "train", *(("paper", name) for name in PAPER))

NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # a full disk, a limit on the size of files, a full quota


def message_of(error: Exception) -> str | None:
    """What a person can do about the error; None for a fault of the program, which keeps its traceback."""
    if isinstance(error, LabError):
        return str(error)
    number, resumes = _system_error(error), _can_resume(sys.argv[1:])
    name = getattr(error, "filename", None)
    if number in NO_SPACE:
        rest = ", then go on with --resume" if resumes else ""
        where = f"{name}: " if name else ""
        return f"{where}{os.strerror(number)}: a file could not be written. Free space or lift the limit{rest}."
    if isinstance(error, OSError) and name is not None:  # without a file to name it tells a person nothing
        return f"{name}: {error.strerror}."
    if worker_ended(error):
        return (
            "A process that loads images was ended by the system, mostly for want of memory or of room in /dev/shm "
            f"(of Docker's, --shm-size). Take fewer --workers, or 0{', then go on with --resume' if resumes else ''}."
        )
    if memory_full(error):
        return "The memory is full. Take smaller steps (--batch-size), smaller crops (--crop) or smaller images."
    return None


def _text(content: str, style: str = "") -> Text:
    return Text(plain(content), style)


def _system_error(error: Exception) -> int | None:
    """The system's number; safetensors gives it in its text alone."""
    if type(error).__name__ == "SafetensorError" and (match := re.search(r"\(os error (\d+)\)", str(error))):
        return int(match[1])
    return error.errno if isinstance(error, OSError) else None


def _can_resume(arguments: Sequence[str]) -> bool:
    return bool(arguments) and (arguments[0] in RESUMABLE or tuple(arguments[:2]) in RESUMABLE)


def print_error(message: str) -> None:
    """One red paragraph on stderr; the message is printed as it is, without markup (paths may hold brackets)."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), (plain(message), "red")), highlight=False)


def print_interrupted() -> None:
    """Says how to go on: the same command with `--resume`, where the command can resume."""
    arguments = sys.argv[1:]
    console = Console(stderr=True, soft_wrap=True)
    if _can_resume(arguments):
        if "--resume" not in arguments:
            arguments = [*arguments, "--resume"]
        command = shlex.join(["lovasz", *arguments])
        console.print(_text(f"Interrupted. To go on from the last checkpoint:\n    {command}"), highlight=False)
    else:
        console.print(_text("Interrupted."), highlight=False)


def print_notes(notes: Sequence[str]) -> None:
    """On stderr, a line each: what a reader of the scores must know."""
    for note in notes:
        Console(stderr=True, soft_wrap=True).print(_text(note), highlight=False)


def print_plan(run: RunConfig, losses: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """On stderr: what will be trained, for how long, on what, and where it goes, also where the user chose nothing."""
    pretraining = f"{_epochs(run.pretrain_epochs)} of cross-entropy, then " if run.pretrain_epochs else ""
    each = f" with each of {', '.join(losses)}" if len(losses) > 1 else f" with {losses[0]}"
    if len(seeds) > 1:
        each += f" and each of the seeds {', '.join(map(str, seeds))}"
    on = "whole images" if run.crop is None else f"crops of {run.crop[0]} x {run.crop[1]} pixels"
    if run.resize_training and run.size is not None:
        on += (
            f" of images resized to {run.size[0]} x {run.size[1]}" if run.crop else f" at {run.size[0]} x {run.size[1]}"
        )
    step = f"{run.batch_size}" if run.devices == 1 else f"{run.devices} x {run.batch_size} in {run.devices} processes"
    text = f"{run.data}: {pretraining}{_epochs(run.epochs)}{each}, on {on}, in steps of {step}. Into {folder}"
    Console(stderr=True, soft_wrap=True).print(_text(text), highlight=False)


def print_no_switch(loss: str, default: str) -> None:
    """On stderr: that the run is too short for the loss that it has where the user names none."""
    text = f"Too few steps to switch losses: {loss} alone, and not {default}, which more --epochs would give."
    Console(stderr=True, soft_wrap=True).print(_text(text), highlight=False)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def percent(value: float | None, spread: float | None = None) -> str:
    """A fraction as per cent with one decimal, `-` for a missing one; with the spread over seeds where there is one."""
    if value is None or math.isnan(value):
        return "-"
    text = f"{100 * value:.1f}"
    return text if spread is None else f"{text} ± {100 * spread:.1f}"


def new_table(*columns: str) -> Table:
    """The one look of all tables: a line under the heads and no frame."""
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False)


def print_table(console: Console, title: str, table: Table) -> None:
    """The title on its own line, as rich would break it to the width of a narrow table; then the table and a gap."""
    console.print(_text(title, style="bold"), soft_wrap=True)
    console.print(table)
    console.print()


def print_scores(scores: Mapping[str, Any], title: str) -> None:
    """The totals, then the IoU of each class, from the JSON form of `Scores` (fractions in [0, 1])."""
    console = Console()
    totals, classes = new_table("score"), new_table("class")
    for table in (totals, classes):
        table.add_column("%", justify="right", no_wrap=True)
    names = {"dataset_miou": "mean IoU over the data set", "image_miou": "mean IoU per image"}
    for key, name in (names | {"pixel_accuracy": "pixel accuracy"}).items():
        totals.add_row(name, percent(scores[key]))
    for name, value in scores["per_class_iou"].items():
        classes.add_row(_text(name), percent(value))
    print_table(console, title, totals)
    print_table(console, "IoU per class", classes)


def print_comparison(comparison: Mapping[str, Any], report: Path) -> None:
    """The table, and where the page is."""
    console = Console()
    title = f"{comparison['dataset']['name']}, {comparison['model']}: scores in %"
    print_table(console, title, comparison_table(comparison, console.width))
    for caution in data_cautions(comparison):
        console.print(_text(f"Note: {caution}"), highlight=False, soft_wrap=True)
    console.print(_text(f"Report: {report}"), highlight=False, soft_wrap=True)


def print_predictions(done: Predictions) -> None:
    """Where the files are and which files have none. Raises LabError naming the images that could not be read."""
    console = Console(soft_wrap=True)
    overlays = f" and {_count(done.overlays, 'overlay')}" if done.overlays else ""
    console.print(_text(f"{_count(done.masks, 'mask')}{overlays} in {done.out}"), highlight=False)
    if done.stale:
        words = f"Of an earlier call, and not of this one: {_first_of(done.stale, whole=True)}"
        console.print(_text(words), highlight=False)
    if done.other_files:
        console.print(_text(f"Left out, no images by their ending: {_first_of(done.other_files)}"), highlight=False)
    if done.unreadable:
        reasons = "\n".join(f"  {reason}" for reason in done.unreadable.values())  # each names its file
        many = "1 image has" if len(done.unreadable) == 1 else f"{len(done.unreadable)} images have"
        raise LabError(f"{many} no mask, because the file could not be used:\n{reasons}")


def _count(things: Sequence[object], name: str) -> str:
    return f"1 {name}" if len(things) == 1 else f"{len(things)} {name}s"


def _first_of(paths: Sequence[Path], *, whole: bool = False) -> str:
    shown = 3
    names = ", ".join(str(path) if whole else path.name for path in paths[:shown])
    return names + (f" and {len(paths) - shown} more" if len(paths) > shown else "")


def comparison_table(comparison: Mapping[str, Any], width: int = 120) -> Table:
    """One row per loss of comparison.json: mean over seeds, ± standard deviation where there are several; best bold.

    What does not fit a narrow terminal is left out, the mean IoU last of all; the report has everything.
    """
    columns = [("val", "dataset_miou", "val mIoU")]
    if any(run["scores"].get("test") for run in comparison["runs"]):
        columns.insert(0, ("test", "dataset_miou", "test mIoU"))
    if width >= 90:
        columns += [("val", "image_miou", "val image mIoU"), ("val", "pixel_accuracy", "val pixel acc.")]
    table = new_table()
    table.add_column("loss", overflow="fold")
    if width >= 60:
        table.add_column("seeds", justify="right")
    for _, _, title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    if width >= 60:
        table.add_column("s/step", justify="right")

    losses = losses_of(dict(comparison))
    start = [start_spread(comparison, split, itemgetter(key)) for split, key, _ in columns]
    scores = [[loss.score(split, key) for loss in losses] for split, key, _ in columns]  # by column, then by loss
    best = [best_cells([spread and 100 * spread.mean for spread in column], 1) for column in scores]

    def add(name: str, runs: str, texts: list[Text], speed: str) -> None:
        table.add_row(*([_text(name), runs, *texts, speed] if width >= 60 else [_text(name), *texts]))

    if any(start):
        add("(start)", "", [_text(_spread(spread)) for spread in start], "")
    for row, loss in enumerate(losses):
        texts = [
            _text(_spread(column[row]), style="bold green" if marks[row] else "")
            for column, marks in zip(scores, best, strict=True)
        ]
        step = loss.seconds_per_step()
        add(loss.spec, str(len(loss.runs)), texts, f"{step.mean:.2f}" if step else "-")
    return table


def _spread(spread: Spread | None) -> str:
    return percent(spread.mean, spread.deviation) if spread else percent(None)
