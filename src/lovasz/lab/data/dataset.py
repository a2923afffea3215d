"""What every data set of the lab gives: its classes and colours, and samples of one image with one mask.

Apart from the readers, so that training, evaluation and the report depend on these types and on no file format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

IGNORE_INDEX = 255  # the void label: every data set maps its own void to this one
SPLITS = ("train", "val", "test")

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class DatasetInfo:
    """Names and RGB colours of the classes 0..C-1 (C at most 255). Void (255) is no class and has no such colour.

    found: nobody said the classes; they are those in the masks, of which there may be more elsewhere.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    found: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False)  # eq=False: comparing tensors gives a tensor, not a truth value
class Sample:
    """One image with its labels.

    image: uint8 (3, H, W), RGB. mask: uint8 (H, W), class indices 0..C-1 or IGNORE_INDEX.
    name: unique within the split and safe as the name of a file.
    """

    image: torch.Tensor
    mask: torch.Tensor
    name: str


class SegmentationDataset(Dataset[Sample], ABC):
    """One split of a data set. Samples may differ in size; the same index always gives the same sample."""

    info: DatasetInfo
    split: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def describe(self) -> str:
        """What was understood of the data, in a few plain sentences: classes, void, sizes of the splits."""
