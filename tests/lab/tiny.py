"""A data set of a few small images in memory, so that tests of training depend on no reader of files."""

from __future__ import annotations

import numpy as np
import torch

from lovasz.lab.data import IGNORE_INDEX, DatasetInfo, Sample, SegmentationDataset

INFO = DatasetInfo("tiny", ("ground", "square", "dot"), ((90, 90, 90), (255, 0, 0), (0, 0, 255)))
SIZES = {"train": 10, "val": 4, "test": 3}


class TinyDataset(SegmentationDataset):
    """Squares (class 1) and dots (class 2) on the ground (class 0), one void row; noisy colours."""

    def __init__(self, split: str, *, size: int | None = None, varying: bool = False) -> None:
        self.info, self.split, self.size, self.varying = INFO, split, size or SIZES[split], varying

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        random = np.random.default_rng([index, *self.split.encode()])
        height, width = 32, 32 + (8 * (index % 2) if self.varying else 0)
        mask = np.zeros((height, width), np.uint8)
        y, x = random.integers(0, 16, 2)
        mask[y : y + 14, x : x + 14] = 1
        y, x = random.integers(0, 28, 2)
        mask[y : y + 4, x : x + 4] = 2
        mask[-1] = IGNORE_INDEX
        colours = np.array([*INFO.palette, *[(0, 0, 0)] * 253], np.int64)[mask]
        image = np.clip(colours + random.integers(-80, 80, colours.shape), 0, 255).astype(np.uint8)
        return Sample(
            torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask), f"{self.split}_{index}"
        )

    def describe(self) -> str:
        return "Tiny."


def use_tiny_data(setattr_, **options) -> None:
    """Let a run open TinyDataset for every spec; `setattr_` is monkeypatch.setattr or the builtin."""
    import lovasz.lab.splits as splits

    setattr_(splits, "open_dataset", lambda spec, split, **_: TinyDataset(split, **options))
    setattr_(splits, "available_splits", lambda spec, **_: ("train", "val", "test"))
