"""A data set at one size. Apart from the random changes of `transforms`: these samples are the same in every epoch."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from lovasz.lab.data.dataset import Sample, SegmentationDataset

CACHE = 2**29  # bytes of resized images that are kept


class Resized(SegmentationDataset):
    """A data set whose images and masks are resized to `size` (height, width), or left as they are with None.

    Images bilinearly (averaging when they shrink), masks by the nearest pixel. What was read is kept, up to `cache`
    bytes: every epoch and every loss reads the same images again.
    """

    def __init__(self, dataset: SegmentationDataset, size: tuple[int, int] | None, *, cache: int = CACHE) -> None:
        self.info, self.split, self.dataset, self.size = dataset.info, dataset.split, dataset, size
        self._cache = cache
        self._kept: dict[int, Sample] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        if self.size is not None:
            shape = self.size[1], self.size[0]
            image = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())  # (H, W, 3)
            image = np.array(image.resize(shape, Image.Resampling.BILINEAR))
            mask = np.array(Image.fromarray(sample.mask.numpy()).resize(shape, Image.Resampling.NEAREST))
            pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()  # (3, h, w)
            sample = Sample(pixels, torch.from_numpy(mask), sample.name)
        self._bytes += sample.image.numel() + sample.mask.numel()
        if self._bytes <= self._cache:
            self._kept[index] = sample
        return sample

    def describe(self) -> str:
        """As the data set says it."""
        return self.dataset.describe()
