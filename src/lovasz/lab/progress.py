"""The one progress display of the lab, on stderr. Apart, because nested work (runs, steps, scores) must share it."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lovasz.lab.imports import lasting

Item = TypeVar("Item")


def speaks() -> bool:
    """Whether this process may write to the terminal: of several for one run (`lovasz.lab.processes`) the first."""
    several = "TORCHELASTIC_RUN_ID" in os.environ or "LOVASZ_STORE_PORT" in os.environ
    return not several or os.environ["RANK"] == "0"


@contextmanager
def loading() -> Iterator[None]:
    """On a terminal: a line while PyTorch and Lightning are imported, which takes seconds; it is gone after it."""
    console = Console(stderr=True)
    shown = console.is_terminal and speaks()
    with console.status("Loading PyTorch ...") if shown else nullcontext(), lasting():
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


@dataclass(frozen=True)
class Bar:
    """What `bar` yields. Without a display it does nothing, so that no caller has to ask for one."""

    progress: Progress | None
    task: TaskID

    def advance(self, steps: int = 1) -> None:
        """So many more are done."""
        if self.progress is not None:
            self.progress.advance(self.task, steps)

    def note(self, text: str) -> None:
        """Words at the bar's end, in place of the last ones."""
        if self.progress is not None:
            self.progress.update(self.task, note=text)


@contextmanager
def bar(total: int, description: str, progress: Progress | None, *, completed: int = 0) -> Iterator[Bar]:
    """A bar that is gone after the work, also where that raises: what stays on the terminal are lines."""
    if progress is None:
        yield Bar(None, TaskID(0))
        return
    task = progress.add_task(description, total=total, completed=completed, note="")
    try:
        yield Bar(progress, task)
    finally:
        progress.remove_task(task)


def tracked(
    items: Iterable[Item], total: int, description: str, progress: Progress | None, *, completed: int = 0
) -> Generator[Item, None, None]:
    """The items, with a bar that is gone after the last of them, or when a loop over them ends early.

    Whoever keeps the generator under a name closes it (`contextlib.closing`), or an error's traceback keeps the bar.
    """
    with bar(total, description, progress, completed=completed) as done:
        for item in items:
            yield item
            done.advance()
