"""What all masks of a folder hold together: read once, for classes that nobody stated, or only their heads, for what is
checked of all folders. Apart from the conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from lovasz.lab.data.dataset import IGNORE_INDEX, Colour
from lovasz.lab.data.labels import colours_seen, hexadecimal
from lovasz.lab.data.masks import mask_kind, read_mask
from lovasz.lab.errors import LabError
from lovasz.lab.progress import display, tracked


@dataclass
class Survey:
    """What all masks together hold: each value and each colour with the first file that has it; palette colours.

    tripled: those of the values that stand in three equal channels, which may be read as colours. conflict: what is
    wrong with palettes that differ, where it matters; empty if they agree. one_and_255: whether any file has both;
    only_255: the first that has 0 and 255 and no 1.
    """

    values: dict[int, Path] = field(default_factory=dict)
    tripled: dict[int, Path] = field(default_factory=dict)
    colours: dict[Colour, Path] = field(default_factory=dict)
    palette: dict[int, tuple[Colour, Path]] = field(default_factory=dict)
    grey_files: int = 0
    conflict: str = ""
    one_and_255: bool = False
    only_255: Path | None = None

    def add(self, path: Path) -> None:
        """Read one more mask."""
        raw = read_mask(path)
        grey = raw.grey
        if grey is None:
            for colour in colours_seen(raw.values):
                self.colours.setdefault(colour, path)
            return
        self.grey_files += raw.palette is None
        found = np.flatnonzero(np.bincount(grey.ravel())).tolist()
        self.one_and_255 |= {1, IGNORE_INDEX} <= set(found)
        if self.only_255 is None and {0, IGNORE_INDEX} <= set(found) and 1 not in found:
            self.only_255 = path
        for value in found:
            self.values.setdefault(value, path)
            if raw.values.ndim == 3:
                self.tripled.setdefault(value, path)
            if raw.palette is not None and value < len(raw.palette):
                red, green, blue = raw.palette[value].tolist()
                before, other = self.palette.setdefault(value, ((red, green, blue), path))
                if before != (red, green, blue) and not self.conflict:
                    self.conflict = (
                        f"{path}: index {value} is drawn in {hexadecimal((red, green, blue))}, but in {other} in "
                        f"{hexadecimal(before)}: the palettes differ, so an index may mean two classes. Give "
                        "classes=... and palette=#rrggbb,... with coding=colour to go by the colours, or "
                        "coding=index to go by the indices."
                    )

    def palette_of(self, values: Sequence[int]) -> tuple[Colour, ...] | None:
        """The colours that the files' palettes give these values; None unless all have one and they differ."""
        if self.conflict:
            return None
        colours = [self.palette[value][0] for value in values if value in self.palette]
        complete = len(colours) == len(values) == len(set(colours)) and not self.grey_files
        return tuple(colours) if complete else None


@dataclass
class Heads:
    """What the heads of all masks tell: the first grey file, palette file and file in colours.

    palette: the longest; differ: whether an index, used or not, has another colour in another file.
    """

    grey: Path | None = None
    indexed: Path | None = None
    coloured: Path | None = None
    palette: bytes = b""
    differ: bool = False

    def add(self, path: Path) -> None:
        """Read one more head."""
        kind, palette = mask_kind(path)
        if kind == "grey":
            self.grey = self.grey or path
        elif kind == "colours":
            self.coloured = self.coloured or path
        else:
            self.indexed = self.indexed or path
            shorter, longer = sorted((self.palette, palette), key=len)
            self.differ |= not longer.startswith(shorter)
            self.palette = longer


def read_heads(masks: Sequence[Path]) -> Heads:
    """The heads of all masks, without their pixels where the format allows; remembered as `survey` is."""
    return _heads(tuple((path, *_state(path)) for path in masks))


def survey(masks: Sequence[Path]) -> Survey:
    """Read all masks, with a progress bar; remembered as long as no file changes, as splits are opened one by one."""
    return _survey(tuple((path, *_state(path)) for path in masks))


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise LabError(f"{path}: the mask cannot be read ({error}).") from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _survey(files: tuple[tuple[Path, int, int], ...]) -> Survey:
    seen = Survey()
    with display(True) as progress:
        for path, *_ in tracked(files, len(files), "reading the labels of all masks", progress):
            seen.add(path)
    return seen


@lru_cache(maxsize=4)
def _heads(files: tuple[tuple[Path, int, int], ...]) -> Heads:
    heads = Heads()
    with display(True) as progress:
        for path, *_ in tracked(files, len(files), "reading the heads of all masks", progress):
            heads.add(path)
    return heads
