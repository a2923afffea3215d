"""Ctrl-C while a network trains: heard once, by the main process, and never lost. Apart from the training loop.

A terminal sends it to the workers that read images too, which would die of it, and Python loses a KeyboardInterrupt
that comes while an object is being deleted, such as the loader of the last epoch.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def leave_to_the_main_process(worker: int) -> None:  # noqa: ARG001
    """For DataLoader's worker_init_fn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Interrupts:
    """Notes that Ctrl-C came, beside what Python does then; `check` raises what got lost."""

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within it; of another thread, or where it is ignored or not Python's own to handle, nothing changes."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.came = True
            before(number, frame)

        report = sys.unraisablehook

        def reported(lost: Any) -> None:
            if lost.exc_type is not KeyboardInterrupt and not self.came:  # then half-made objects are let go, too
                report(lost)

        signal.signal(signal.SIGINT, note)
        sys.unraisablehook = reported
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            sys.unraisablehook = report

    def check(self) -> None:
        """Raise KeyboardInterrupt if it came."""
        if self.came:
            raise KeyboardInterrupt
