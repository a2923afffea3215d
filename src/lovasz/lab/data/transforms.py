"""Random scaling, cropping and flipping of an image together with its mask, and other light, for training.

Apart from the data sets, whose samples never change: here the same image differs from epoch to epoch, by a function
of (seed, epoch, index) alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from lovasz.lab.data.dataset import IGNORE_INDEX, Sample, SegmentationDataset
from lovasz.lab.errors import LabError

PADDING_COLOUR = (124, 116, 104)  # ImageNet's mean, which the networks' normalisation takes to about zero


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image.

    crop: (height, width) in pixels of the window cut out after scaling, None for the whole image. Where the image is
    smaller than the window, it lies at a random place in it: image padding is PADDING_COLOUR, mask padding is void.
    scale: both sides are multiplied by one factor, drawn uniformly from this range; (1, 1) leaves every pixel alone.
    flip: mirror left and right, for half of the images.
    color_jitter: brightness, contrast and saturation are each multiplied by a factor drawn uniformly from
    1 - color_jitter to 1 + color_jitter; 0 leaves every colour alone.
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.crop is not None and not (len(self.crop) == 2 and all(side >= 1 for side in self.crop)):
            raise LabError(f"crop: got {self.crop}, expected (height, width) of at least one pixel, or None.")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise LabError(f"scale: got {self.scale}, expected (smallest, largest) with 0 < smallest <= largest.")
        if not 0 <= self.color_jitter <= 1:
            raise LabError(f"color_jitter: got {self.color_jitter}, expected 0 (colours as they are) to at most 1.")


class TrainingView(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set as training sees it in one epoch: item i is (image uint8 (3, h, w), target int64 (h, w)).

    Without `crop`, sizes are those of the images (times the random factor). Item (i, k) is image i as it comes after k
    times before in the epoch: each time its random changes are others. i alone is (i, 0).
    """

    def __init__(self, dataset: SegmentationDataset, augmentation: Augmentation, seed: int) -> None:
        if seed < 0:
            raise LabError(f"seed: got {seed}, expected a number of at least 0.")
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed
        # Shared memory: worker processes that outlive an epoch would never hear of a new one in a plain attribute.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose randomness the following items have. Call it before iterating over a loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        index, before = item if isinstance(item, tuple) else (item, 0)
        rng = np.random.default_rng((self.seed, int(self._epoch), index, *([before] if before else [])))
        image, mask = augment(self.dataset[index], self.augmentation, rng)
        return image, mask.long()


def augment(sample: Sample, augmentation: Augmentation, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One random version of a sample: image uint8 (3, h, w) and mask uint8 (h, w)."""
    image, mask = sample.image, sample.mask
    factor = float(rng.uniform(*augmentation.scale))
    place = rng.random(2)  # drawn always, so that each choice below changes nothing else
    mirrored = augmentation.flip and rng.random() < 0.5
    height, width = (max(1, round(side * factor)) for side in mask.shape)
    crop_height, crop_width = augmentation.crop or (height, width)
    top, rows = _window(height, crop_height, place[0])
    left, columns = _window(width, crop_width, place[1])
    inside = (left, top, left + columns, top + rows)
    if (height, width) == tuple(mask.shape):
        image = image[:, top : top + rows, left : left + columns]
        mask = mask[top : top + rows, left : left + columns]
    else:
        image, mask = _resample(image, mask, (height, width), inside)
    if (rows, columns) != (crop_height, crop_width):
        image, mask = _pad(image, mask, (crop_height, crop_width), place)
    if mirrored:
        image, mask = image.flip(-1), mask.flip(-1)
    if augmentation.color_jitter:
        image = _in_other_light(image, *(1 + augmentation.color_jitter * rng.uniform(-1, 1, 3)))
    return image.contiguous(), mask.contiguous()


def _in_other_light(image: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """Colours times the first, their distance from the mean grey times the second, from their own grey the third."""
    colours = image.float() * brightness  # (3, h, w)
    mean = _grey(colours).mean()
    colours = mean + contrast * (colours - mean)
    grey = _grey(colours)
    colours = grey + saturation * (colours - grey)
    return colours.round().clamp(0, 255).to(torch.uint8)


def _grey(colours: torch.Tensor) -> torch.Tensor:
    """Luma of RGB as television has it (ITU-R BT.601)."""
    red, green, blue = colours
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _window(side: int, crop: int, place: float) -> tuple[int, int]:
    """Start and length of the part of `side` that a crop shows."""
    return (math.floor(place * (side - crop + 1)), crop) if side > crop else (0, side)


def _resample(
    image: torch.Tensor, mask: torch.Tensor, size: tuple[int, int], inside: tuple[int, int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The window `inside` (left, top, right, bottom) of the pair scaled to `size`, without making the rest.

    Bilinear (averaging when it shrinks) for the image, nearest for the mask. Pillow takes both at pixel centres, so
    they stay aligned; torch's "nearest" does not.
    """
    down, across = mask.shape[0] / size[0], mask.shape[1] / size[1]
    left, top, right, bottom = inside
    box = (left * across, top * down, min(right * across, mask.shape[1]), min(bottom * down, mask.shape[0]))
    shape = (right - left, bottom - top)
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())  # (H, W, 3)
    labels = Image.fromarray(mask.contiguous().numpy())
    pixels = pixels.resize(shape, Image.Resampling.BILINEAR, box=box)
    labels = labels.resize(shape, Image.Resampling.NEAREST, box=box)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1), torch.from_numpy(np.array(labels))


def _pad(
    image: torch.Tensor, mask: torch.Tensor, size: tuple[int, int], place: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = mask.shape
    top = math.floor(place[0] * (size[0] - rows + 1))
    left = math.floor(place[1] * (size[1] - columns + 1))
    canvas = torch.tensor(PADDING_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, *size)  # (3, h, w)
    labels = torch.full(size, IGNORE_INDEX, dtype=torch.uint8)
    canvas[:, top : top + rows, left : left + columns] = image
    labels[top : top + rows, left : left + columns] = mask
    return canvas, labels
