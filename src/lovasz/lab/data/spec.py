"""Data sets as people type them, "shapes" or "folder:PATH?void=255&classes=cat,dog", and text to typed options.

Apart from the data sets, which take typed arguments only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lovasz.lab.data.dataset import Colour
from lovasz.lab.errors import LabError

# Which options each data set has; those with a path need one.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "shapes": ("size", "train", "val", "test"),
    "camvid": (),
    "voc": ("sbd",),
    "cityscapes": (),
    "ade20k": (),
    "folder": ("images", "masks", "classes", "palette", "values", "void", "coding"),
}
NEED_PATH = ("camvid", "voc", "cityscapes", "ade20k", "folder")


def parse_spec(spec: str, options: Mapping[str, Any]) -> tuple[str, Path | None, dict[str, Any]]:
    """Name, path and typed options of a data set.

    spec: NAME, NAME:PATH or either followed by ?OPTION=VALUE&OPTION=VALUE; in a value, %26 stands for & and so on. The
    last ? counts, so a path that holds one needs another at its end. options: the same by keyword, text or typed.
    Raises LabError for what is unknown, missing, said twice or unreadable.
    """
    if not isinstance(spec, str):
        raise LabError(f"data: got {spec!r}, expected a text such as 'shapes' or 'folder:PATH'.")
    head, mark, query = spec.rpartition("?")
    name, colon, path = (head if mark else spec).partition(":")
    if name not in OPTIONS:
        own = spec if spec and Path(spec).exists() else "PATH"
        raise LabError(
            f"data {spec!r}: there is no data set {name!r}; known are {', '.join(sorted(OPTIONS))}. "
            f"For a folder of your own write folder:{own}."
        )
    if name in NEED_PATH and not path:
        raise LabError(f"data {spec!r}: expected a path, {name}:PATH.")
    if name not in NEED_PATH and colon:
        raise LabError(f"data {spec!r}: {name} takes no path; options are written {name}?OPTION=VALUE.")
    given: dict[str, Any] = {}
    for part in filter(None, query.split("&") if mark else ()):
        key, equals, value = part.partition("=")
        if not equals:
            whole = Path(spec.partition(":")[2]).expanduser()
            hint = f" A path that holds a ? needs another at its end: {spec}?" if colon and whole.exists() else ""
            raise LabError(f"data {spec!r}: {part!r}; expected OPTION=VALUE.{hint}")
        if key in given:
            raise LabError(f"data {spec!r}: the option {key} is there twice.")
        given[key] = unquote(value)
    for key, value in options.items():
        if key in given:
            raise LabError(f"data {spec!r}: the option {key} is also given apart ({value!r}); keep one.")
        given[key] = value
    for key in given:
        if key not in OPTIONS[name]:
            known = ", ".join(OPTIONS[name]) or "none"
            raise LabError(f"data {spec!r}: {name} has no option {key!r}; its options: {known}.")
    typed: dict[str, Any] = {}
    for key, value in given.items():
        typed |= _READERS[key](key, value)
    return name, Path(path).expanduser() if path else None, typed


def _number(least: int) -> Callable[[str, Any], dict[str, Any]]:
    def read(key: str, value: Any) -> dict[str, Any]:
        return {key: _whole(key, value, least)}

    return read


def _whole(key: str, value: Any, least: int = 0, most: int = 65535) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,6}", text) or not least <= int(text) <= most:
        raise LabError(f"{key}: got {value!r}, expected a whole number from {least} to {most}.")
    return int(text)


def _text(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or not value:
        raise LabError(f"{key}: got {value!r}, expected the name of a folder.")
    return {key: value}


def _coding(key: str, value: Any) -> dict[str, Any]:
    if value not in ("auto", "index", "colour"):
        raise LabError(f"{key}: got {value!r}, expected auto, index or colour.")
    return {key: value}


def _names(key: str, value: Any) -> dict[str, Any]:
    names = [str(item).strip() for item in _items(value)]
    if not all(names):
        raise LabError(f"{key}: got {value!r}, expected names with commas between them.")
    return {key: tuple(names)}


def _numbers(key: str, value: Any) -> dict[str, Any]:
    return {key: tuple(_whole(key, item) for item in _items(value))}


def _void(key: str, value: Any) -> dict[str, Any]:
    """Mask values, "none", or one colour."""
    if value is None or value == "none":
        return {"void": ()}
    if isinstance(value, str) and value.startswith("#"):
        return {"void_colour": _colour(key, value)}
    return {"void": tuple(_whole(key, item) for item in _items(value))}


def _palette(key: str, value: Any) -> dict[str, Any]:
    return {key: tuple(_colour(key, item) for item in _items(value))}


def _colour(key: str, value: Any) -> Colour:
    if isinstance(value, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", value.strip()):
        code = int(value.strip().removeprefix("#"), 16)
        return code >> 16, code >> 8 & 255, code & 255
    if isinstance(value, list | tuple) and len(value) == 3:
        red, green, blue = (_whole(key, part, 0, 255) for part in value)
        return red, green, blue
    raise LabError(f"{key}: got {value!r}, expected a colour such as #ff8000.")


def _items(value: Any) -> list[Any]:
    """Text with commas, a sequence, or one value alone."""
    if isinstance(value, str):
        return value.split(",")
    return list(value) if isinstance(value, list | tuple) else [value]


_READERS: Mapping[str, Callable[[str, Any], dict[str, Any]]] = {
    "size": _number(16),
    "train": _number(1),
    "val": _number(1),
    "test": _number(0),
    "sbd": _text,
    "images": _text,
    "masks": _text,
    "classes": _names,
    "palette": _palette,
    "values": _numbers,
    "void": _void,
    "coding": _coding,
}
