"""Into how many parts a pass is cut, by its size and torch's threads; `lovasz.loops` has the threads themselves."""

from __future__ import annotations

import torch

from lovasz.kernels import bins

_GRAIN = 1 << 16  # errors below which a further thread costs more than it saves


def split(units: int, errors: int) -> list[int]:
    """Bounds of parts of about equal size: as many as threads where that pays, and none beyond a packed bin's range."""
    parts = max(1, min(torch.get_num_threads(), errors // _GRAIN))
    if units > parts * bins.CHUNK:
        parts *= -(-units // (parts * bins.CHUNK))  # as many for each thread
    return [units * i // parts for i in range(parts + 1)]
