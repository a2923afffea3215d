"""The threads that share a pass: ours, not torch's, because they must survive a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from lovasz.kernels import bins

_GRAIN = 1 << 16  # errors below which a further thread costs more than it saves
_pools: dict[int, ThreadPoolExecutor] = {}
# A forked child has the pool's object but not its threads: it starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def split(units: int, errors: int) -> list[int]:
    """Bounds of parts of about equal size: as many as threads where that pays, and none beyond a packed bin's range."""
    parts = max(1, min(torch.get_num_threads(), errors // _GRAIN))
    if units > parts * bins.CHUNK:
        parts *= -(-units // (parts * bins.CHUNK))  # as many for each thread
    return [units * i // parts for i in range(parts + 1)]


def in_threads(run: Callable[[int], None], parts: int) -> None:
    """Call ``run(0)`` to ``run(parts - 1)`` on as many threads as torch uses; compiled code runs without the GIL."""
    threads = torch.get_num_threads()
    if parts == 1 or threads == 1:
        for i in range(parts):
            run(i)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="lovasz")

    def work(first: int) -> None:
        for i in range(first, parts, threads):
            run(i)

    others = [pool.submit(work, first) for first in range(1, min(threads, parts))]
    try:
        work(0)  # the calling thread would only wait
    finally:
        wait(others)
    for other in others:
        other.result()
