"""The one error that the lab raises for bad input; the command line prints it without a traceback. And which of others'
errors say that the memory is full, for the command line and `predict` alike."""


class LabError(ValueError):
    """Something the user gave cannot be used. The message names what came, what was expected and the remedy."""


def memory_full(error: Exception) -> bool:
    """On a GPU torch has a class of its own for that, on the CPU only a text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
