"""The binned kernel for NVIDIA GPUs, in Triton and, for many pixels, CUDA C++; importing it loads triton."""

from lovasz.kernels.gpu.passes import loss
from lovasz.kernels.gpu.shared_memory import fuses

__all__ = ["fuses", "loss"]
