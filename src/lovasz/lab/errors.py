"""The error that the lab raises for bad input; the command line prints it without a traceback. And what errors mean
that others raise or pass on, for all who meet them."""

from __future__ import annotations


class LabError(ValueError):
    """Something the user gave cannot be used. The message names what came, what was expected and the remedy."""


class Diverged(LabError):
    """A training ended with numbers that are none. Of several trainings the others can still be of use."""


def as_raised(error: LabError) -> LabError:
    """The error of a process that loads images as it was there: torch raises it anew, with a traceback for a text."""
    message = str(error)
    if message.startswith("Caught LabError in DataLoader worker"):
        return LabError(message.rpartition(f"{LabError.__module__}.LabError: ")[2].strip())
    return error


def worker_ended(error: Exception) -> bool:
    """Whether a process that loads images is gone; torch has no class of its own for that."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def memory_full(error: Exception) -> bool:
    """On a GPU torch has a class of its own for that, on the CPU only a text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
