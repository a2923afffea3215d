"""The dense Gaussian CRF of Krähenbühl and Koltun (2011) behind a network, as DeepLab-v2 has it; by pydensecrf2."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lovasz.lab.errors import LabError


@dataclass(frozen=True)
class CRF:
    """The energy's parameters; the defaults are those of DeepLab-v2's ResNet-101 (as kazuto1011/deeplab-pytorch has
    them, configs/voc12.yaml): weights, and standard deviations in pixels and in 0..255 colours."""

    iterations: int = 10
    smoothness_weight: float = 3.0
    smoothness_pixels: float = 1.0
    appearance_weight: float = 4.0
    appearance_pixels: float = 67.0
    appearance_colours: float = 3.0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise LabError(f"iterations: got {self.iterations}, expected at least 1.")
        for name in ("smoothness_pixels", "appearance_pixels", "appearance_colours"):
            if not getattr(self, name) > 0:
                raise LabError(f"{name}: got {getattr(self, name)}, expected more than 0.")

    def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Mean-field marginals float32 (C, H, W) of an image uint8 (H, W, 3) and the network's probabilities (C, H, W).

        Raises LabError for shapes that do not match, and where pydensecrf2 is not installed.
        """
        classes, height, width = probabilities.shape
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise LabError(f"image: got {image.dtype} {image.shape}; expected uint8 {(height, width, 3)}.")
        densecrf = require_densecrf()
        field = densecrf.DenseCRF2D(width, height, classes)
        unary = -np.log(np.clip(probabilities, 1e-5, None))  # as pydensecrf's own unary_from_softmax clips
        field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(classes, -1), np.float32))
        field.addPairwiseGaussian(sxy=self.smoothness_pixels, compat=self.smoothness_weight)
        field.addPairwiseBilateral(
            sxy=self.appearance_pixels,
            srgb=self.appearance_colours,
            rgbim=np.ascontiguousarray(image),
            compat=self.appearance_weight,
        )
        return np.array(field.inference(self.iterations), np.float32).reshape(classes, height, width)


class WithCRF(nn.Module):
    """A network followed by the CRF on its softmax; runs on the CPU, image by image.

    Shapes: image (N, 3, H, W) to log-marginals (N, C, H, W).
    """

    def __init__(self, network: nn.Module, crf: CRF | None = None) -> None:
        super().__init__()
        require_densecrf()  # before the images are read
        self.network, self.crf = network, crf or CRF()

    def forward(self, image: Tensor) -> Tensor:
        probabilities = self.network(image).float().softmax(1).cpu().numpy()
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        refined = np.stack([self.crf.refine(*pair) for pair in zip(pixels, probabilities, strict=True)])
        return torch.from_numpy(refined).clamp_min(1e-30).log().to(image.device)


def require_densecrf() -> Any:
    """pydensecrf2's module. Raises LabError where it is not installed: ask before long work that ends with the CRF."""
    try:
        return importlib.import_module("pydensecrf.densecrf")  # compiled, so without types
    except ImportError as error:
        raise LabError("the CRF needs pydensecrf2, which is not installed. Run: pip install 'lovasz[crf]'") from error
