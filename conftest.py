"""What must be loaded before anything that is tested, the doctests of src/ among it."""

import contextlib

# TensorFlow and Triton each carry an LLVM; loaded in the other order the process crashes (Triton 3.7, TensorFlow 2.21).
with contextlib.suppress(ImportError):
    import triton  # noqa: F401
