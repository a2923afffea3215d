"""Torch's own threads, sent home before others start: after an operation they keep the processors busy for a while.

Apart from `loops.py` because it is about a library of another's; only GNU's, which torch for Linux brings, needs it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_SOFT = 1  # omp_pause_soft: settings stay
_FORKED = 0x40  # PF_FORKNOEXEC among a process's flags
_allowed = True


def _forbid() -> None:
    global _allowed
    _allowed = False


# A forked child has the list of its parent's threads but not the threads: who asks them to end waits for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forbid)


def rest() -> None:
    """End the threads that wait for the calling thread's next operation of torch, which then starts new ones.

    For some five milliseconds after its last operation they ask for the next one without a pause (libgomp's manual,
    GOMP_SPINCOUNT), each on a processor that another thread would have to share. To start new ones costs less.
    """
    if _allowed:
        pause = _pause()
        if pause is not None:
            pause(_SOFT)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """``omp_pause_resource_all`` (OpenMP 5.0, section 3.2.44) of the GNU library that torch computes with, if any."""
    if not sys.platform.startswith("linux") or _is_forked():
        return None
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":  # then they sleep at once
        return None
    folder = Path(torch.__file__).parent
    for path in (*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*"), "libgomp.so.1"):
        try:  # only if it is loaded already
            return ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW).omp_pause_resource_all
        except (OSError, AttributeError):  # GCC has it since its version 9
            continue
    return None


def _is_forked() -> bool:
    """Whether this process is a copy of another that may have had such threads, also before this module was there."""
    try:
        flags = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return True
    return bool(flags & _FORKED)
