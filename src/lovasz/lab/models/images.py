"""What every network of the lab asks of the images it is given; apart from the networks, so that all say the same."""

from __future__ import annotations

from torch import Tensor

from lovasz.lab.errors import LabError


def require_image(image: Tensor) -> None:
    """Raise LabError unless it is (N, 3, H, W), floating and not empty."""
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 1:
        raise LabError(f"image has shape {tuple(image.shape)}; expected (N, 3, H, W), RGB.")
    if not image.is_floating_point():
        raise LabError(f"image is {image.dtype}; expected floating RGB in [0, 1]: divide 8-bit values by 255.")
