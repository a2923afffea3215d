"""What the values of a mask mean: which class each grey value, palette index or colour is, and which are void.

Apart from finding that out (classes.py), so that decoding is one pure function of a mask and a coding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lovasz.lab.data.dataset import IGNORE_INDEX, Colour
from lovasz.lab.data.masks import RawMask
from lovasz.lab.errors import LabError

MOST_CLASSES = IGNORE_INDEX  # labels are one byte, and 255 is void


@dataclass(frozen=True)
class LabelCoding:
    """The meaning of mask values.

    classes: names, for messages. values: the mask value of each class; void: mask values that mean void.
    colours: the colour of each class, None where nobody stated any; void_colour: likewise.
    by: "index" reads values, "colour" reads colours (through the palette of palette files), "auto" takes values for
    grey and palette files and colours for RGB files (values where no colours are stated), and refuses palette files
    whose two readings disagree.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    void: tuple[int, ...] = ()
    colours: tuple[Colour, ...] | None = None
    void_colour: Colour | None = None
    by: str = "auto"

    def decode(self, raw: RawMask, path: Path) -> np.ndarray:
        """uint8 (H, W) of class indices and IGNORE_INDEX. Raises LabError naming the file and the first wrong value."""
        if raw.values.ndim == 2 and self.by != "colour":
            self._refuse_contradiction(raw, path)
            return self._from_values(raw.values, path)
        if raw.values.ndim == 2:
            if raw.palette is None:
                raise LabError(f"{path}: a grey mask, where colours were asked for (coding=colour); expected RGB.")
            return self._from_colours(raw.palette[raw.values], path)
        grey = raw.grey
        if grey is not None and (self.by == "index" or (self.by == "auto" and self.colours is None)):
            return self._from_values(grey, path)  # class indices saved as RGB with three equal channels
        if self.by == "index":
            raise LabError(f"{path}: a mask in colours, where indices were asked for (coding=index).")
        return self._from_colours(raw.values, path)

    @cached_property
    def _table(self) -> np.ndarray:
        """Class of each mask value, -1 for unknown ones: (256,) or longer, int16."""
        table = np.full(max(255, *self.values, *self.void) + 1, -1, np.int16)
        table[list(self.values)] = np.arange(len(self.values))
        table[list(self.void)] = IGNORE_INDEX
        return table

    @cached_property
    def _labels_of_codes(self) -> dict[int, int]:
        """Class of each colour as one number."""
        known = {_code(colour): label for label, colour in enumerate(self.colours or ())}
        if self.void_colour is not None:
            known[_code(self.void_colour)] = IGNORE_INDEX
        return known

    def _from_values(self, values: np.ndarray, path: Path) -> np.ndarray:
        table = self._table
        highest = int(values.max(initial=0))
        labels = table[values] if highest < len(table) else table[np.minimum(values, len(table) - 1)]
        wrong = (labels < 0) | (values >= len(table))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise self._unknown_label(int(values[row, column]), f" at row {row}, column {column}", path)
        return labels.astype(np.uint8)

    def refuse_others(self, seen: Mapping[int, Path], source: str) -> None:
        """LabError for the smallest mask value in `seen` (with a file that holds it) that is neither class nor void.

        source: of the classes, for the message.
        """
        for value in sorted(set(seen) - {*self.values, *self.void}):
            raise self._unknown_label(value, "", seen[value], f" of {source}")

    def _unknown_label(self, label: int, place: str, path: Path, of: str = "") -> LabError:
        void = f"void {', '.join(map(str, self.void))}" if self.void else "no void"
        return LabError(
            f"{path}: label {label}{place}, but the data set has {len(self.classes)} classes (mask values "
            f"{_ranges(self.values)}; {void}). Correct the mask or the class list{of}; void=VALUE names a value to "
            "leave out, values=... those of the classes."
        )

    def _from_colours(self, colours: np.ndarray, path: Path) -> np.ndarray:
        if self.colours is None:
            raise LabError(
                f"{path}: a mask in colours, whose classes are unknown; give them with classes=... and "
                "palette=#rrggbb,... or in classes.json (keys classes and palette_rgb)."
            )
        codes = _codes(colours)  # (H, W)
        known = self._labels_of_codes
        order = np.array(sorted(known), np.int32)
        labels = np.array([known[code] for code in order.tolist()], np.uint8)
        nearest = np.minimum(np.searchsorted(order, codes), len(order) - 1)
        wrong = order[nearest] != codes
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise LabError(
                f"{path}: colour {hexadecimal(colours[row, column])} at row {row}, column {column}, which is the "
                f"colour of none of the {len(self.classes)} classes; expected "
                f"{', '.join(map(hexadecimal, self.colours))}. Correct the mask or the palette; "
                "void=#rrggbb names a colour to leave out; coding=index reads class numbers saved as RGB."
            )
        return labels[nearest]

    def _refuse_contradiction(self, raw: RawMask, path: Path) -> None:
        """A palette file whose colours are all colours of classes, but of other classes than its indices say."""
        if self.by != "auto" or self.colours is None or raw.palette is None:
            return
        for value in np.flatnonzero(np.bincount(raw.values.ravel())).tolist():
            if value >= len(raw.palette):
                return
            drawn = self._labels_of_codes.get(_code(raw.palette[value]))
            meant = int(self._table[value]) if value < len(self._table) else -1
            if drawn is None or drawn == meant:
                continue
            raise LabError(
                f"{path}: index {value} is drawn in {hexadecimal(raw.palette[value])}, the colour of "
                f"{self._name(drawn)}, but as an index it is {self._name(meant)}. Say which counts with coding=index "
                "or coding=colour."
            )

    def _name(self, label: int) -> str:
        if label == IGNORE_INDEX:
            return "void"
        return f"class {label} ({self.classes[label]})" if label >= 0 else "no class"


def _code(colour: Sequence[int] | np.ndarray) -> int:
    red, green, blue = (int(part) for part in colour)
    return red << 16 | green << 8 | blue


def _codes(colours: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) to int32 (...)."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def colours_seen(colours: np.ndarray) -> set[Colour]:
    """The different colours of a uint8 (H, W, 3) mask."""
    return {(code >> 16, code >> 8 & 255, code & 255) for code in np.unique(_codes(colours)).tolist()}


def hexadecimal(colour: Sequence[int] | np.ndarray) -> str:
    """(255, 0, 128) -> "#ff0080"."""
    return f"#{_code(colour):06x}"


def _ranges(values: Sequence[int]) -> str:
    """(0, 1, 2, 3) -> "0 to 3", others with commas."""
    if len(values) > 2 and list(values) == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
