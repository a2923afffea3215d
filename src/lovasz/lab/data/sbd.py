"""Masks of SBD's release: MATLAB files of a structure GTcls, whose field Segmentation holds the class of each pixel.

Apart from `masks.py`: SciPy is needed, and a .mat file unpacks; how far is checked before SciPy sees it.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lovasz.lab.data.masks import RawMask
from lovasz.lab.errors import LabError

LARGEST_FILE = 16 * 2**20  # bytes; those of the release have some ten thousand
LARGEST_CONTENT = 64 * 2**20  # bytes, unpacked
_HEADER, _COMPRESSED = 128, 15  # of MATLAB's level 5 format: bytes of the file's head, number of a packed element


def read_sbd_mask(path: Path) -> RawMask:
    """Class indices uint8 (H, W) of a file cls/*.mat. Raises LabError naming the file when it is missing, damaged, of
    another content, or larger than such a file can be."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise LabError(
            f"{path}: MATLAB files need SciPy, which is not installed. Run: pip install 'lovasz[paper]'"
        ) from error
    content = _unpacked(path)
    try:
        found: Any = loadmat(io.BytesIO(content), variable_names=["GTcls"], struct_as_record=True)
        labels = np.asarray(found["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # SciPy raises nearly everything on damaged bytes
        raise LabError(
            f"{path}: not a class mask of SBD ({error or type(error).__name__}); expected a structure GTcls with a "
            "field Segmentation. The file may be truncated, or be one of inst/ instead of cls/."
        ) from error
    if labels.ndim != 2 or labels.dtype != np.uint8 or not labels.size:
        raise LabError(f"{path}: Segmentation is {labels.dtype} of shape {labels.shape}; expected uint8 (H, W).")
    return RawMask(np.ascontiguousarray(labels))


def _unpacked(path: Path) -> bytes:
    """The file with its packed elements unpacked, none of which may be larger than LARGEST_CONTENT."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise LabError(f"{path}: {path.stat().st_size} bytes; a mask of SBD has far less than {LARGEST_FILE}.")
        data = path.read_bytes()
    except OSError as error:
        raise LabError(f"{path}: the mask cannot be read ({error.strerror}).") from error
    head = data[:_HEADER]
    if len(head) < _HEADER or head[126:128] not in (b"IM", b"MI"):
        raise LabError(f"{path}: not a MATLAB file of level 5; expected a mask of SBD's cls/.")
    order = "little" if head[126:128] == b"IM" else "big"
    parts, place, room = [head], _HEADER, LARGEST_CONTENT
    while place + 8 <= len(data):
        kind, length = (int.from_bytes(data[place + i : place + i + 4], order) for i in (0, 4))
        body = data[place + 8 : place + 8 + length]
        if len(body) < length:
            raise LabError(f"{path}: the file is truncated; copy it again.")
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                element = unpacker.decompress(body, room)
            except zlib.error as error:
                raise LabError(f"{path}: the file is damaged ({error}); copy it again.") from error
            if unpacker.unconsumed_tail:
                raise LabError(f"{path}: it unpacks to more than {LARGEST_CONTENT} bytes, which no mask of SBD does.")
        else:
            element = data[place : place + 8] + body
        room -= len(element)
        if room < 0:
            raise LabError(f"{path}: it holds more than {LARGEST_CONTENT} bytes, which no mask of SBD does.")
        parts.append(element)
        place += 8 + length
    return b"".join(parts)
