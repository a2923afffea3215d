"""The kernels for the CPU, compiled by Numba, which importing this loads. ``loss`` bins; ``sorting.loss`` sorts."""

from lovasz.kernels.cpu.passes import loss

__all__ = ["loss"]
