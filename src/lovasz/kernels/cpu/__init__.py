"""The binned kernel for the CPU, compiled by Numba; importing it loads numba."""

from lovasz.kernels.cpu.passes import loss

__all__ = ["loss"]
