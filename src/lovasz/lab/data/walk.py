"""The files below a person's folder: links to folders are followed, loops of links are cut, hidden ones left out."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from lovasz.lab.errors import LabError


def files_below(folder: Path, skip: Collection[Path] = ()) -> Iterator[Path]:
    """All files at any depth, in no order; skip: the real paths of folders below to leave out.

    Raises LabError for a folder that cannot be read, whose files would else be missing in silence.
    """

    def refuse(error: OSError) -> None:
        raise LabError(
            f"{error.filename}: the folder cannot be read ({error.strerror}). Allow it, or move it elsewhere."
        ) from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(place)
        above = {(folder / parent).resolve() for parent in (here / "x").relative_to(folder).parents}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (real := (here / name).resolve()) not in skip and real not in above
        ]
        yield from (here / name for name in files if not name.startswith("."))


def require_utf8(path: Path) -> Path:
    """The path, whose name can be written into lists, JSON and reports. Raises LabError for one that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LabError(
            f"{os.fsencode(path)!r}: this name is not UTF-8, as an old archive may leave it (or the locale is not: "
            "LANG=C.UTF-8). Rename it; convmv does whole folders."
        ) from None
    return path
