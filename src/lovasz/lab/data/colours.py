"""Masks in the colours of their data set, alone and over the image. Apart, because only reports and people need it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lovasz.lab.data.dataset import IGNORE_INDEX, Colour, DatasetInfo
from lovasz.lab.errors import LabError


def colourise(mask: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """uint8 (H, W) of class indices to uint8 (H, W, 3) of `info.palette`, void (255) in that of `void_colour`.

    Raises LabError for an index that is neither a class nor void.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise LabError(f"mask: got {mask.dtype} of shape {mask.shape}; expected uint8 (H, W).")
    table = np.zeros((256, 3), np.uint8)
    table[: info.num_classes] = info.palette
    table[IGNORE_INDEX] = void_colour(info.palette)
    seen = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    wrong = seen[(seen >= info.num_classes) & (seen != IGNORE_INDEX)]
    if wrong.size:
        raise LabError(f"mask: label {wrong[0]}, but {info.name} has {info.num_classes} classes.")
    return table[mask]  # (H, W, 3)


def void_colour(palette: Sequence[Sequence[int]]) -> Colour:
    """Black, or what Pascal VOC draws it in, or the first grey, where a class has that colour already."""
    taken = {tuple(colour) for colour in palette}
    greys = ((grey, grey, grey) for grey in range(255, 0, -1))
    return next(colour for colour in ((0, 0, 0), (224, 224, 192), *greys) if colour not in taken)


def overlay(image: np.ndarray, mask: np.ndarray, info: DatasetInfo, alpha: float = 0.5) -> np.ndarray:
    """The mask's colours laid over the image with opacity `alpha`; where the mask is void the image stays as it is.

    image: uint8 (H, W, 3), mask: uint8 (H, W); returns uint8 (H, W, 3).
    """
    if image.shape != (*mask.shape, 3) or image.dtype != np.uint8:
        raise LabError(
            f"image: got {image.dtype} of shape {image.shape}; expected uint8 {(*mask.shape, 3)} as the mask has it."
        )
    if not 0 <= alpha <= 1:
        raise LabError(f"alpha: got {alpha}, expected an opacity from 0 to 1.")
    mixed = image * (1 - alpha) + colourise(mask, info) * alpha
    return np.where(mask[..., None] == IGNORE_INDEX, image, (mixed + 0.5).astype(np.uint8))


def voc_palette(count: int) -> tuple[Colour, ...]:
    """The colour map of Pascal VOC for class indices 0..count-1 (count at most 256): the bits of the index, dealt out
    in turn to red, green and blue from the highest bit down. Used where a data set brings no colours of its own."""
    colours = []
    for index in range(count):
        red = green = blue = 0
        for place in range(8):
            bits = index >> (3 * place)
            red |= (bits & 1) << (7 - place)
            green |= (bits >> 1 & 1) << (7 - place)
            blue |= (bits >> 2 & 1) << (7 - place)
        colours.append((red, green, blue))
    return tuple(colours)
