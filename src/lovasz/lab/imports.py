"""Quicker imports of large packages. Apart, with the standard library alone: it is there before anything is loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Look for no garbage meanwhile, and never again among what is made meanwhile: modules stay.

    Python's collector goes through all objects again and again as their number grows, a quarter of the time that
    Lightning takes to import, and once more when the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
