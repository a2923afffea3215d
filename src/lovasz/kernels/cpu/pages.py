"""Large pages for the gradient: its first touch is a quarter of the loss's time in pages of 4 KiB. Apart from the
passes because it speaks to the operating system."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

from torch import Tensor

LARGE_PAGE = 2 << 20  # bytes, on x86-64 and most arm64
MADV_HUGEPAGE = 14  # of Linux's sys/mman.h
MOST = 128 << 20  # bytes: for more, Linux spent longer on finding large pages than they saved (four times at 1.4 GB)


def ask_for_large_pages(tensor: Tensor) -> None:
    """Ask Linux to back memory that was just allocated with pages of 2 MiB; where it will not, nothing changes.

    Only whole large pages inside the tensor's memory are asked for, so it takes no more memory than before; for
    tensors beyond ``MOST`` none are.
    """
    storage = tensor.untyped_storage()
    first = -(-storage.data_ptr() // LARGE_PAGE) * LARGE_PAGE
    end = (storage.data_ptr() + storage.nbytes()) // LARGE_PAGE * LARGE_PAGE
    if 0 < end - first <= MOST and (advise := _madvise()):
        advise(first, end - first, MADV_HUGEPAGE)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return function
