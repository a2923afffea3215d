"""The binned kernel for NVIDIA GPUs, in Triton; importing it loads triton."""

from lovasz.kernels.gpu.passes import loss

__all__ = ["loss"]
