"""How time is taken: interleaved rounds, medians and quartiles, always beside a yardstick of the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.settings import Settings

QUICK, SLOW = 0.5, 2.0  # seconds of a call
QUICK_CALLS = 9  # of a quick contestant in a round beside a slow one; of three, one with cold caches weighs too much


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant: median and quartiles over its calls, ``rounds`` of them; of two, both of them."""

    median: float
    low: float
    high: float
    rounds: int

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high, "rounds": self.rounds}


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    limit: float | None,
    quick_calls: int = QUICK_CALLS,
    before: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Call each contestant once to warm up, then all of them in turn, ``rounds`` times.

    Beside a slow one those that are quick are called ``quick_calls`` times in a row: after seconds of other work the
    first call finds cold caches, as it would not in a training step. After ``limit`` seconds no further round starts,
    but two are always finished if two were asked for. ``before`` is called before each call, outside the clock.

    With ``quick_calls=1`` and no limit the number of calls depends on no clock: processes that wait for one another
    within a call need that, or one of them waits for a call that the other never makes.
    """
    began = time.perf_counter()
    first = {name: _seconds(call, before) for name, call in contestants.items()}
    slow = max(first.values()) > SLOW
    times = {name: quick_calls if slow and once < QUICK else 1 for name, once in first.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for done in range(rounds):
        if limit is not None and done >= 2 and time.perf_counter() - began > limit:
            break
        for name, call in contestants.items():
            seconds[name] += [_seconds(call, before) for _ in range(times[name])]
    return {name: _summary(values) for name, values in seconds.items()}


def _seconds(call: Callable[[], Any], before: Callable[[], Any] | None) -> float:
    if before is not None:
        before()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed_rows(
    contestants: Mapping[str, Callable[[], Any]], yardstick: str, settings: Settings, slow: bool = False
) -> list[dict[str, Any]]:
    """Rows of a table: seconds, and the median as a multiple of the yardstick's in the same rounds."""
    rounds = settings.slow_rounds if slow else (1 if settings.quick else settings.rounds)
    result = interleaved(contestants, rounds, settings.table_seconds)
    base = result[yardstick].median
    return [{"name": name, **timing.as_json(), "ratio": timing.median / base} for name, timing in result.items()]


def _summary(values: list[float]) -> Timing:
    if len(values) < 3:
        return Timing(statistics.median(values), min(values), max(values), len(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, low, high, len(values))
