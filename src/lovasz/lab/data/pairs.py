"""A data set whose samples are pairs of files, an image and a mask. Apart from the layouts that find the files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lovasz.lab.data.dataset import DatasetInfo, Sample, SegmentationDataset
from lovasz.lab.data.labels import LabelCoding
from lovasz.lab.data.masks import image_size, mask_size, read_image, read_mask
from lovasz.lab.data.sbd import read_sbd_mask
from lovasz.lab.errors import LabError

LONGEST_NAME = 120  # bytes; a file system allows 255, of which endings and what a caller adds need some


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and the stem that names both (relative, with / between folders)."""

    stem: str
    image: Path
    mask: Path


class PairDataset(SegmentationDataset):
    """Reads an image and its mask at each access. Raises LabError naming the file when one of them is unusable."""

    def __init__(
        self, info: DatasetInfo, split: str, pairs: Sequence[Pair], coding: LabelCoding, description: str
    ) -> None:
        self.info, self.split = info, split
        self.pairs, self.coding, self._description = tuple(pairs), coding, description
        self._names = sample_names([pair.stem for pair in pairs])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)  # (H, W, 3)
        raw = read_sbd_mask(pair.mask) if pair.mask.suffix.lower() == ".mat" else read_mask(pair.mask)
        mask = self.coding.decode(raw, pair.mask)  # (H, W)
        _refuse_two_sizes(pair, image.shape[:2], mask.shape)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()  # (3, H, W)
        return Sample(pixels, torch.from_numpy(mask), self._names[index])

    def check_heads(self, index: int) -> None:
        """Raise what access to this pair would, as far as the heads of the two files tell: much quicker than reading.

        Masks in MATLAB's format are left out, which have no head that tells their size.
        """
        pair = self.pairs[index]
        size = image_size(pair.image)
        if pair.mask.suffix.lower() != ".mat":
            _refuse_two_sizes(pair, size, mask_size(pair.mask))

    def describe(self) -> str:
        """What was understood of the files."""
        return self._description


def _refuse_two_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """LabError unless both are one (height, width)."""
    (height, width), (rows, columns) = image, mask
    if (height, width) != (rows, columns):
        turned = " (after the turn its EXIF orientation asks for)" if (height, width) == (columns, rows) else ""
        raise LabError(
            f"{pair.mask}: the mask is {columns} x {rows} pixels (width x height), its image {pair.image} is "
            f"{width} x {height}{turned}; expected one size."
        )


def sample_names(stems: Sequence[str]) -> tuple[str, ...]:
    """Stems as names of files, all different: folders joined by "__", what a file system may refuse as "_".

    Of a long one the end is kept, behind a hash of the whole.
    """
    names: list[str] = []
    taken: set[str] = set()
    for stem in stems:
        plain = re.sub(r"[^\w.-]", "_", stem.replace("/", "__")).strip(".") or "_"
        if len(plain.encode()) > LONGEST_NAME:
            tail = plain.encode()[-100:].decode(errors="ignore")
            plain = f"{hashlib.sha256(stem.encode(errors='surrogatepass')).hexdigest()[:8]}-{tail}"
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)
