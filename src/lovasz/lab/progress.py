"""The one progress display of the lab, on stderr. Apart, because nested work (runs, steps, scores) must share it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


def speaks() -> bool:
    """Whether this process may write to the terminal: of several for one run (`lovasz.lab.processes`) the first."""
    several = "TORCHELASTIC_RUN_ID" in os.environ or "LOVASZ_STORE_PORT" in os.environ
    return not several or os.environ["RANK"] == "0"


@contextmanager
def loading() -> Iterator[None]:
    """On a terminal: a line while PyTorch and Lightning are imported, which takes seconds; it is gone after it."""
    console = Console(stderr=True)
    if console.is_terminal and speaks():
        with console.status("Loading PyTorch ..."):
            yield
    else:
        yield


@contextmanager
def display(progress: Progress | bool) -> Iterator[Progress | None]:
    """A running display: the one given, a new one for True, None for False. Without a terminal only lines show.

    Of several processes for one run only the first has one.
    """
    if isinstance(progress, Progress):
        yield progress
    elif progress and speaks():
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)
        ) as new:
            yield new
    else:
        yield None


def plain(text: str) -> str:
    """Without control characters but the end of a line: names in files could write over the terminal with them."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def say(progress: Progress | None, line: str) -> None:
    """One line above the bars that stays."""
    if progress is not None:
        progress.console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def tracked(items: Iterable[Item], total: int, description: str, progress: Progress | None) -> Iterator[Item]:
    """The items, with a bar that is gone after the last of them."""
    bar = None if progress is None else progress.add_task(description, total=total, note="")
    for item in items:
        yield item
        if progress is not None and bar is not None:
            progress.advance(bar)
    if progress is not None and bar is not None:
        progress.remove_task(bar)
