"""Reading images and masks from files that may be anything: truncated, huge, of the wrong kind, or hostile.

Apart from the data sets, so that every picture enters the lab through one door. All errors name the file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lovasz.lab.errors import LabError

# Only these decoders are ever tried, whatever the file's first bytes say.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".jpg", ".jpeg")
SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, eq=False)
class RawMask:
    """A mask as its file has it.

    values: (H, W) uint8 or uint16 of grey values or palette indices, or (H, W, 3) uint8 of colours.
    palette: uint8 (K, 3), the colours of indices 0..K-1, for palette images.
    """

    values: np.ndarray
    palette: np.ndarray | None = None

    @property
    def grey(self) -> np.ndarray | None:
        """The values as one number a pixel: indices as they are, colours with three equal channels; None for others."""
        if self.values.ndim == 2:
            return self.values
        red = self.values[..., 0]
        equal = np.array_equal(red, self.values[..., 1]) and np.array_equal(red, self.values[..., 2])
        return red if equal else None


def read_image(path: Path) -> np.ndarray:
    """An image as uint8 (H, W, 3) RGB, upright: an EXIF orientation is applied, as viewers and labelling tools do.

    Grey is repeated three times, an alpha channel is dropped, CMYK is converted. Raises LabError for a file that is
    missing, damaged, larger than Pillow's limit on pixels, or of 16 or 32 bits (which to stretch is not ours to guess).
    """
    with _opened(path, "image") as image:
        _refuse_deep(image, path)
        image = ImageOps.exif_transpose(image)
        if "transparency" in image.info:  # Pillow warns when the transparent colour of a palette is dropped at once
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) that `read_image` gives, from the file's head, which must have at most 8 bits a channel."""
    with _opened(path, "image") as image:
        _refuse_deep(image, path)
        # For a PNG without the tag before its pixels Pillow would read them all, to look behind them.
        look = image.format != "PNG" or _has_tag(image) or _has_chunk(path, b"eXIf")
        orientation = image.getexif().get(_ORIENTATION, 1) if look else 1
        if image.format == "TIFF" and orientation != 1:  # which versions of Pillow turn when the file is opened differs
            upright = ImageOps.exif_transpose(image)
            return upright.height, upright.width
        return (image.width, image.height) if orientation in (5, 6, 7, 8) else (image.height, image.width)


_ORIENTATION, _PHOTOMETRIC = 0x0112, 262  # tags of EXIF and of TIFF


def mask_size(path: Path) -> tuple[int, int]:
    """(height, width) that `read_mask` gives, from the file's head, which must be of a lossless picture."""
    with _opened(path, "mask") as image:
        _refuse_unclear(image, path)
        return image.height, image.width


def mask_kind(path: Path) -> tuple[str, bytes]:
    """ "grey", "palette" or "colours" and the palette as RGB bytes, from the head of a file that `read_mask` reads."""
    with _opened(path, "mask") as image:
        _refuse_unclear(image, path)
        if image.mode == "P":
            written, palette = image.palette.getdata() if image.palette else ("RGB", b"")
            # Other orders than PNG's and GIF's are left to Pillow, which reads the pixels for that.
            return "palette", bytes(palette if written == "RGB" else image.getpalette("RGB") or b"")
        return ("grey" if image.mode in ("1", "L", *SIXTEEN_BITS) else "colours"), b""


def read_mask(path: Path) -> RawMask:
    """A mask as stored: class indices are never passed through a colour conversion, and no orientation is applied.

    Raises LabError as `read_image` does, and for lossy files, for transparency that is in use, and for values that are
    no whole numbers from 0 to 65535.
    """
    with _opened(path, "mask") as image:
        _refuse_unclear(image, path)
        palette, stored = None, _stored_mode(image)
        if _cut_to_eight_bits(image):
            raise LabError(
                f"{path}: a colour mask of 16 bits a channel (mode {stored}); expected 8. Save it as 8-bit RGB, or as "
                "grey, which may have 16."
            )
        if image.mode == "P":
            colours = image.getpalette("RGB")
            palette = np.array(colours, np.uint8).reshape(-1, 3) if colours else None
            values = np.array(image)
        elif image.mode in ("1", "L"):
            values = np.array(image, np.uint8)  # 1-bit: 0 and 1
            values //= {"L;2": 85, "L;4": 17}.get(stored, 1)  # which Pillow stretches to 0..255
        elif image.mode in SIXTEEN_BITS:
            wide = np.array(image).astype(np.int64)
            if wide.min() < 0 or wide.max() > 65535:
                raise LabError(f"{path}: mask values from {wide.min()} to {wide.max()}; expected 0 to 65535.")
            values = wide.astype(np.uint16)
        elif image.mode in ("RGB", "RGBA", "LA"):
            if image.mode != "RGB" and image.getextrema()[-1] != (255, 255):  # type: ignore[index]
                raise LabError(
                    f"{path}: the mask has transparent pixels, whose label is unclear; save it without alpha."
                )
            values = np.array(image.convert("RGB"))
        else:
            raise LabError(f"{path}: a mask of mode {image.mode}; expected grey, palette or RGB.")
        _refuse_turned(image, path, read=True)
        return RawMask(values, palette)


def _refuse_deep(image: Image.Image, path: Path) -> None:
    if image.mode in (*SIXTEEN_BITS, "F") or _cut_to_eight_bits(image):
        raise LabError(
            f"{path}: the image has more than 8 bits a channel (mode {_stored_mode(image)}); expected 8. "
            "Save it as 8-bit grey or RGB, stretched as you want the network to see it."
        )


def _refuse_unclear(image: Image.Image, path: Path) -> None:
    """What the head tells of a mask whose pixels would not be the labels in its file."""
    _refuse_lossy(image, path)
    _refuse_turned(image, path)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        raise LabError(
            f"{path}: a TIFF mask stored white-is-zero, whose labels would be inverted; save it black-is-zero."
        )
    largest = (_decoding(image) or (None,))[-1] if image.format == "PPM" else None  # a number where Pillow needs it
    if isinstance(largest, int) and largest not in (255, 65535) and not _cut_to_eight_bits(image):
        raise LabError(
            f"{path}: a mask that says {largest} is its largest value, by which others would be stretched to 0 to 255 "
            "or 65535. Save it as PNG, or with one of these two as its largest."
        )


def _refuse_lossy(image: Image.Image, path: Path) -> None:
    if _is_lossy(image, path):
        raise LabError(
            f"{path}: a {_kind(image)} mask. Its compression changes labels along every edge; expected a lossless "
            "file. Save masks as PNG."
        )


def _refuse_turned(image: Image.Image, path: Path, *, read: bool = False) -> None:
    """An image with this tag is turned; whether its labels are meant turned too, nobody has said.

    read: the pixels are, behind which a PNG may have the tag too; Pillow would read them all to look there.
    """
    if image.format == "PNG" and not read and not _has_tag(image):
        return
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        raise LabError(
            f"{path}: a {image.format} mask with the orientation {orientation}; save it upright, without this tag."
        )


def _has_tag(image: Image.Image) -> bool:
    """Whether a PNG has EXIF before its pixels."""
    return bool(image.info.keys() & {"exif", "Raw profile type exif"})


def _decoding(image: Image.Image) -> tuple[Any, ...]:
    """What Pillow tells its decoder about the pixels in the file; empty where it needs nothing."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _is_lossy(image: Image.Image, path: Path) -> bool:
    if image.format == "TIFF":
        return image.info.get("compression") in ("jpeg", "tiff_jpeg")
    return image.format in ("JPEG", "MPO") or (image.format == "WEBP" and _has_chunk(path, b"VP8 "))


def _kind(image: Image.Image) -> str:
    return {"TIFF": "JPEG-compressed TIFF", "WEBP": "lossy WebP"}.get(image.format or "", "JPEG")


def _has_chunk(path: Path, name: bytes) -> bool:
    """Whether a WebP or PNG file has such a part: of a WebP "VP8 " is a lossy picture, "VP8L" a lossless one."""
    with path.open("rb") as file:
        png = file.read(8) == b"\x89PNG\r\n\x1a\n"
        file.seek(8 if png else 12)
        while len(head := file.read(8)) == 8:
            if (head[4:] if png else head[:4]) == name:
                return True
            size = int.from_bytes(head[:4], "big") + 4 if png else int.from_bytes(head[4:], "little")  # 4 check it
            file.seek(size if png else size + size % 2, os.SEEK_CUR)
    return False


def _stored_mode(image: Image.Image) -> str:
    """Pillow's name of how the pixels lie in the file, such as "RGB;16B"; its mode where the file does not say."""
    return next((part for part in _decoding(image) if isinstance(part, str)), image.mode)


def _cut_to_eight_bits(image: Image.Image) -> bool:
    """Whether the file has more bits a channel than the picture that Pillow makes of it."""
    if image.mode in SIXTEEN_BITS:
        return False
    largest = _decoding(image)[-1:] if image.format == "PPM" else ()
    return ";16" in _stored_mode(image) or any(isinstance(value, int) and value > 255 for value in largest)


def _reason(error: Exception) -> str:
    """Pillow's own words, but not how Python writes a file that it was given open."""
    return "unknown content" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """The open picture; whatever goes wrong in the decoder becomes one LabError with the file's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if path.exists() and not path.is_file():
                raise LabError(f"{path}: not a regular file; expected a picture. Take it away.")  # a pipe would hang
            # By a file: of a path Pillow may map the memory, and mixes up the sides of a TIFF that is turned.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                # A phone's JPEG may carry a preview as a second frame (MPO); anything else with several is unclear.
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if frames > 1:
                    raise LabError(f"{path}: the {what} file holds {frames} pictures; expected one.")
                yield image
    except LabError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise LabError(
            f"{path}: the {what} has more than {Image.MAX_IMAGE_PIXELS} pixels, which may be an attack by a small file "
            "that unpacks to fill the memory. Cut it into parts."
        ) from error
    except FileNotFoundError as error:
        raise LabError(f"{path}: there is no such {what} file.") from error
    except PermissionError as error:
        raise LabError(f"{path}: the {what} may not be read ({error.strerror}). Allow it to be read.") from error
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        raise LabError(
            f"{path}: the {what} cannot be read ({_reason(error)}). "
            "The file may be truncated or no picture; expected " + ", ".join(FORMATS) + "."
        ) from error
