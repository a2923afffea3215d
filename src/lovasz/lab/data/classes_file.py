"""What is said about the classes of a folder: the type `Said`, and the files that say it, classes.json, CVAT's
labelmap.txt and a classes.txt. What follows from it is concluded in classes.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lovasz.lab.data.dataset import Colour
from lovasz.lab.errors import LabError

CALLED = {"palette": "palette_rgb", "void": "void_index", "ignore_index": "void_index"}  # by other programs, here


@dataclass(frozen=True)
class Said:
    """What is stated about the classes; None stands for what is not. void: values, () for "there is none".

    options: what of it the options say; left_out: names of a list that turned out to be void's.
    """

    classes: tuple[str, ...] | None = None
    palette: tuple[Colour, ...] | None = None
    values: tuple[int, ...] | None = None
    void: tuple[int, ...] | None = None
    void_colour: Colour | None = None
    by: str = "auto"
    source: str = "the options"
    options: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()


def read_said(root: Path) -> Said:
    """What the first of these files in `root` says: classes.json, labelmap.txt, classes.txt; nothing where none is."""
    for name, read in (
        ("classes.json", read_classes_file),
        ("labelmap.txt", read_labelmap),
        ("classes.txt", read_class_names),
    ):
        if (root / name).is_file():
            return read(root / name)
    return Said()


def read_labelmap(path: Path) -> Said:
    """Names and colours of CVAT's labelmap.txt: a line NAME:RED,GREEN,BLUE:PARTS:ACTIONS for each class.

    Lines that begin with # are comments. Raises LabError naming the file and the line.
    """
    names: list[str] = []
    palette: list[Colour] = []
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([^:]+):\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(:[^:]*){0,2}", line)
        name = match[1].strip() if match else ""
        colour = (int(match[2]), int(match[3]), int(match[4])) if match else (256, 0, 0)
        if not name or max(colour) > 255:
            raise LabError(
                f"{path}, line {number}: {line!r}; expected NAME:RED,GREEN,BLUE:PARTS:ACTIONS with colours from 0 to "
                "255, such as road:128,64,128::."
            )
        if colour in palette:
            same = names[palette.index(colour)]
            raise LabError(f"{path}, line {number}: {name} has the colour of {same}; give each class its own.")
        _add(names, name, path, number)
        palette.append(colour)
    return Said(classes=_some(names, path), palette=tuple(palette), source=path.name)


def read_class_names(path: Path) -> Said:
    """Names of a classes.txt, one a line; empty lines do not count. Raises LabError naming the file and the line."""
    names: list[str] = []
    lines = _lines(path)
    if lines and all(re.match(r"\d+[\s:,;]+\S", line) for _, line in lines):
        raise LabError(
            f"{path}, line {lines[0][0]}: {lines[0][1]!r}; expected the name alone: its place among the lines is its "
            "mask value. For values other than 0, 1, 2, ... use the options classes and values."
        )
    for number, line in lines:
        _add(names, line, path, number)
    return Said(classes=_some(names, path), source=path.name)


def read_classes_file(path: Path) -> Said:
    """What a classes.json says.

    Keys: "classes": names; "palette_rgb": one [r, g, b] for each; "void_index": the mask value that is void, null for
    none (an entry of "classes" at this place is no class); "void_rgb": its colour; "num_classes": for a check.
    Other keys are left alone. Raises LabError naming the file and the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise LabError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise LabError(f"{path}: expected an object with the keys classes, palette_rgb and void_index.")
    for key, called in CALLED.items():
        if key in content and called not in content:
            raise LabError(f"{path}: {key}: the key is called {called}.")
    names = _names_said(content, path)
    palette = _palette_said(content, path, len(names))
    void_index = content.get("void_index")
    if void_index is not None and not _is_byte(void_index):
        raise LabError(f"{path}: void_index is {void_index!r}; expected a mask value from 0 to 255, or null.")
    void_rgb = content.get("void_rgb")
    if void_rgb is not None and not _is_colour(void_rgb):
        raise LabError(f"{path}: void_rgb is {void_rgb!r}; expected [red, green, blue] from 0 to 255.")
    kept = [k for k in range(len(names)) if k != void_index]
    void_colour = void_rgb
    if void_colour is None and palette and void_index is not None and void_index < len(names):
        void_colour = palette[void_index]
    if content.get("num_classes", len(kept)) != len(kept):
        raise LabError(
            f"{path}: num_classes is {content['num_classes']!r}, but classes holds {len(kept)} names"
            f"{' besides void' if len(kept) < len(names) else ''}; correct one of them."
        )
    return Said(
        classes=tuple(names[k] for k in kept),
        palette=tuple(palette[k] for k in kept) if palette else None,
        values=tuple(kept) if len(kept) < len(names) else None,
        void=() if "void_index" in content and void_index is None else None if void_index is None else (void_index,),
        void_colour=tuple(void_colour) if void_colour is not None else None,  # type: ignore[arg-type]
        source=path.name,
    )


def _names_said(content: Mapping[str, Any], path: Path) -> list[str]:
    if "classes" not in content:
        raise LabError(f"{path}: there is no key classes; expected the list of names under it.")
    names = content["classes"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise LabError(f"{path}: classes is {names!r}; expected a list of names.")
    for name in names:
        if re.search(r"[\x00-\x08\n-\x1f\x7f-\x9f\ud800-\udfff]", name):
            raise LabError(f"{path}: the class {name!r} has a control character or half a character; write it without.")
    return names


def _palette_said(content: Mapping[str, Any], path: Path, count: int) -> list[Colour] | None:
    palette = content.get("palette_rgb")
    if palette is None:
        return None
    if not isinstance(palette, list) or not all(_is_colour(colour) for colour in palette):
        raise LabError(f"{path}: palette_rgb must be a list of [red, green, blue] from 0 to 255.")
    if len(palette) != count:
        raise LabError(f"{path}: palette_rgb holds {len(palette)} colours for {count} classes.")
    return [(red, green, blue) for red, green, blue in palette]


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_colour(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_byte(part) for part in value)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Those that hold something, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark at the beginning
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: cannot be read as text ({error}).") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _add(names: list[str], name: str, path: Path, number: int) -> None:
    if name in names:
        raise LabError(f"{path}, line {number}: the class {name} is there twice; name each once.")
    names.append(name)


def _some(names: list[str], path: Path) -> tuple[str, ...]:
    if not names:
        raise LabError(f"{path}: no class in this file; expected one on each line. Take it away if it is not for this.")
    return tuple(names)
