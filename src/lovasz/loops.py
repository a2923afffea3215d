"""How loops become machine code and which threads run them, for the CPU kernel and the lab's networks; loads numba.

The threads are ours, not torch's, because they must survive a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numba as nb
import torch

_pools: dict[int, ThreadPoolExecutor] = {}
# A forked child has the pool's object but not its threads: it starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def compiled(function: Callable[..., Any], *, any_order: bool = False) -> Any:
    """A loop that runs without the GIL; its machine code is kept for the next process where a folder can be written.

    any_order: whether sums may be taken in the order that suits the processor.
    """
    fastmath = {"contract", "reassoc", "nsz"} if any_order else {"contract"}
    how: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        return nb.njit(cache=True, **how)(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache can be written, as in some containers
        return nb.njit(**how)(function)


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
