"""Into how many parts a pass is cut, by its size and torch's threads; `lovasz.loops` has the threads themselves.

More parts than threads where that is possible, for a thread may be late: others may keep its processor busy, or it is
one of the slower ones of two kinds.
"""

from __future__ import annotations

import torch

from lovasz.kernels import bins

_GRAIN = 1 << 16  # errors below which a further thread costs more than it saves
_PIECES = 8  # for each thread, where one that is done early can take another
_MOST = 1 << 16


def split(units: int, errors: int) -> list[int]:
    """Bounds of parts of about equal size: as many as threads where that pays, and none beyond a packed bin's range."""
    parts = max(1, min(torch.get_num_threads(), errors // _GRAIN))
    if units > parts * bins.CHUNK:
        parts *= -(-units // (parts * bins.CHUNK))  # as many for each thread
    return [units * i // parts for i in range(parts + 1)]


def pieces(units: int, errors: int, most: int = _MOST) -> list[int]:
    """The same for a pass whose parts have nothing large of their own to add up in the end: more than there are
    threads, but at most ``most`` of them if these are enough."""
    bounds = split(units, errors)
    parts = len(bounds) - 1
    if parts > 1:
        parts = max(parts, min(_PIECES * torch.get_num_threads(), errors // (4 * _GRAIN), most))
    return [units * i // parts for i in range(parts + 1)]
