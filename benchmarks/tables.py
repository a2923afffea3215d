"""One table: check every contestant on a piece of the input, time them in turn, divide by the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.checks import both_passes, check
from benchmarks.contestants import Contestant
from benchmarks.settings import Settings
from benchmarks.timing import timed_rows


def table(
    label: str,
    contestants: Sequence[Contestant],
    scores: Tensor,
    target: Tensor,
    settings: Settings,
    *,
    forward_only: Sequence[Contestant] = (),
) -> dict[str, Any]:
    """Forward and backward of all contestants, the first of which is the yardstick."""
    _check(contestants, scores, target)
    calls = {c.name: _call(c, scores, target) for c in contestants}
    calls |= {f"{c.name}, forward only": _forward(c, scores, target) for c in forward_only}
    rows = timed_rows(calls, contestants[0].name, settings)
    return {"input": label, "yardstick": contestants[0].name, "rows": rows}


def beside_slow(
    label: str,
    contestants: Sequence[Contestant],
    slow: Sequence[Contestant],
    scores: Tensor,
    target: Tensor,
    settings: Settings,
) -> dict[str, Any]:
    """A table of fewer rounds in which those that take seconds a call take part.

    Apart from the other: the memory that a slow contestant gives back spares those after it their page faults, so that
    times of these rounds compare with one another alone.
    """
    _check(slow, scores, target)
    calls = {c.name: _call(c, scores, target) for c in (*contestants, *slow)}
    rows = timed_rows(calls, contestants[0].name, settings, slow=True)
    return {"input": f"{label}, beside slow ones", "yardstick": contestants[0].name, "rows": rows}


def _check(contestants: Sequence[Contestant], scores: Tensor, target: Tensor) -> None:
    piece, corner = inputs.piece(scores, target), inputs.corner(scores, target)
    for contestant in contestants:
        if contestant.formula is not None:
            check(contestant.name, contestant.loss, contestant.formula, *(piece if contestant.ours else corner))


def _call(contestant: Contestant, scores: Tensor, target: Tensor) -> Callable[[], Tensor]:
    return lambda: both_passes(contestant.loss, scores, target)


def _forward(contestant: Contestant, scores: Tensor, target: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return contestant.loss(scores, target)

    return call
