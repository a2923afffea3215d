"""The one progress display of the lab, on stderr. Apart, because nested work (runs, steps, scores) must share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def display(progress: Progress | bool) -> Iterator[Progress | None]:
    """A running display: the one given, a new one for True, None for False. Without a terminal only lines show."""
    if isinstance(progress, Progress):
        yield progress
    elif progress:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)
        ) as new:
            yield new
    else:
        yield None


def say(progress: Progress | None, line: str) -> None:
    """One line above the bars that stays."""
    if progress is not None:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
