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
    slow: Sequence[Contestant] = (),
    forward_only: Sequence[Contestant] = (),
) -> dict[str, Any]:
    """Forward and backward of all contestants, the first of which is the yardstick.

    ``slow`` ones are timed afterwards in fewer rounds, beside the yardstick again. All rows are multiples of the
    yardstick of the first rounds: in the later ones the memory that a slow contestant has given back spares the
    yardstick its page faults, so that multiples of it could not be compared with those of the fast ones.
    """
    small = inputs.piece(scores, target)
    for contestant in (*contestants, *slow):
        if contestant.formula is not None:
            check(contestant.name, contestant.loss, contestant.formula, *small)
    yardstick = contestants[0].name
    calls = {c.name: _call(c, scores, target) for c in contestants}
    calls |= {f"{c.name}, forward only": _forward(c, scores, target) for c in forward_only}
    rows = timed_rows(calls, yardstick, settings)
    if slow:
        calls = {c.name: _call(c, scores, target) for c in (contestants[0], *slow)}
        base = rows[0]["median"]
        rows += timed_rows(calls, yardstick, settings, slow=True, base=base)[1:]
    scores.grad = None
    return {"input": label, "yardstick": yardstick, "rows": rows}


def _call(contestant: Contestant, scores: Tensor, target: Tensor) -> Callable[[], Tensor]:
    return lambda: both_passes(contestant.loss, scores, target)


def _forward(contestant: Contestant, scores: Tensor, target: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return contestant.loss(scores, target)

    return call
