"""How loops become machine code and which threads run them, for the CPU kernel and the lab's networks; loads numba.

The threads are ours, not torch's, because they must survive a fork.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
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
    how: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        loop: Any = nb.njit(cache=True, **how)(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache can be written, as in some containers
        return nb.njit(**how)(function)
    # None with NUMBA_DISABLE_JIT=1. A later Numba may know its files otherwise: then it keeps code its own way.
    files = getattr(getattr(loop, "_cache", None), "_cache_file", None)
    if all(hasattr(files, name) for name in ("save", "_index_name", "_data_name", "_source_stamp")):
        _keep_apart(files)
    return loop


def _keep_apart(files: Any) -> None:
    """Make sure that machine code on the disk is that of the source as it is, and of the types that it is looked up by.

    Numba takes code for current as long as the file of the loop itself is unchanged, but what the loop calls is part of
    the code: after a ``git pull`` old code of one file would meet new tables of another. And two processes that keep
    the code for two types at once may both give it the same file, whose code then runs for either type.
    """
    save, begin = files.save, files._index_name.removesuffix(".nbi")

    def save_by_types(key: Any, code: Any) -> None:
        types = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        files._data_name = lambda number: f"{begin}-{types}-{number}.nbc"
        save(key, code)

    files.save = save_by_types
    files._source_stamp = files._source_stamp, _sources()


@functools.cache
def _sources() -> str:
    """A hash of all files with something that another's loops may call, or were given as a constant."""
    here = Path(__file__).parent
    files = Path(__file__), here / "kernels" / "bins.py", *sorted((here / "kernels" / "cpu").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def in_threads(run: Callable[[int], None], parts: int) -> None:
    """Call ``run(0)`` to ``run(parts - 1)`` on as many threads as torch uses; compiled code runs without the GIL.

    Each thread takes the next part when it is done with one: processors of two speeds, or one that another program
    uses, too, do not keep the others waiting.
    """
    threads = torch.get_num_threads()
    if parts == 1 or threads == 1:
        for i in range(parts):
            run(i)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="lovasz")
    left, taking = iter(range(parts)), Lock()

    def work() -> None:
        while True:
            with taking:
                i = next(left, None)
            if i is None:
                return
            run(i)

    others = []
    try:
        for _ in range(min(threads, parts) - 1):
            others.append(pool.submit(work))
    except RuntimeError as error:
        if "cannot schedule" not in str(error):
            raise
        # The interpreter ends and takes no more work, while a thread of the user's still trains: that thread does it.
    try:
        work()  # the calling thread would only wait
    finally:  # one that another call still keeps from beginning is not needed any more
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()
