"""Files in, arrays out: every kind of image and mask that is read, and every kind that is refused by name."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.lab.image_files import labels, picture, write

from lovasz.lab.data.masks import image_size, mask_kind, mask_size, read_image, read_mask
from lovasz.lab.errors import LabError


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_an_image_comes_back_pixel_for_pixel(tmp_path: Path, ending: str) -> None:
    lossless = {"lossless": True} if ending == ".webp" else {}
    path = write(tmp_path / f"a{ending}", picture(), **lossless)
    assert np.array_equal(read_image(path), picture())
    assert image_size(path) == (6, 8)


def test_a_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", np.full((8, 8, 3), (200, 50, 20), np.uint8), quality=95)
    assert np.abs(read_image(path).astype(int) - (200, 50, 20)).max() < 8


def test_grey_is_repeated_and_alpha_is_dropped(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    assert np.array_equal(read_image(write(tmp_path / "grey.png", grey)), np.stack([grey] * 3, -1))
    with_alpha = np.concatenate([picture(), picture(1)[..., :1]], -1)
    assert np.array_equal(read_image(write(tmp_path / "alpha.png", with_alpha)), picture())


def test_a_palette_image_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", labels(0, 1), [255, 0, 0, 0, 255, 0], transparency=b"\x00\x80")
    assert np.array_equal(read_image(path)[0, :2], [[255, 0, 0], [0, 255, 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8] = 255  # top left
    stored = {  # how a camera held otherwise stores the same scene
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    path = write(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert image_size(path) == (8, 16)


def test_the_size_of_a_png_is_known_without_its_pixels_also_where_its_exif_lies_behind_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = write(tmp_path / "plain.png", picture(0, 200, 300)).read_bytes()
    tagged = write(tmp_path / "tagged.png", picture(0, 200, 300), exif=exif).read_bytes()
    start = tagged.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(tagged[start : start + 4], "big")  # with its length, name and checksum
    cut = plain.index(b"IDAT") + 100
    broken = plain[:cut] + bytes(1000) + plain[cut + 1000 :]
    (tmp_path / "broken.png").write_bytes(broken)
    assert image_size(tmp_path / "broken.png") == (200, 300)
    with pytest.raises(LabError, match=r"broken\.png: the image cannot be read"):
        read_image(tmp_path / "broken.png")
    last = plain.index(b"IEND") - 4
    (tmp_path / "behind.png").write_bytes(plain[:last] + tagged[start:end] + plain[last:])
    assert image_size(tmp_path / "behind.png") == read_image(tmp_path / "behind.png").shape[:2] == (300, 200)


def test_a_file_that_is_no_picture_is_named_without_pythons_names_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(LabError, match=r"a\.png: the image cannot be read \(unknown content\)\. The file may be"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_tiff_is_an_upright_image_and_no_mask(tmp_path: Path, orientation: int, compression: str) -> None:
    stored = np.random.default_rng(0).integers(0, 200, (20, 30), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.tif"
    Image.fromarray(stored).save(path, exif=exif, compression=compression)
    upright = np.rot90(stored, {3: 2, 6: 3, 8: 1}[orientation])
    np.testing.assert_array_equal(read_image(path)[..., 0], upright)
    assert image_size(path) == upright.shape
    for read in (read_mask, mask_size):
        with pytest.raises(LabError, match=rf"a TIFF mask with the orientation {orientation}; save it upright"):
            read(path)


@pytest.mark.parametrize(("ending", "options"), [(".png", {}), (".webp", {"lossless": True})])
def test_a_mask_of_any_format_that_would_be_turned_is_refused(tmp_path: Path, ending: str, options: dict) -> None:
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        path = write(tmp_path / f"{orientation}{ending}", labels(0, 1), exif=exif, **options)
        for read in (read_mask, mask_size):
            with (
                nullcontext()
                if orientation == 1
                else pytest.raises(
                    LabError, match=rf"a {ending[1:].upper()} mask with the orientation 6; save it upright"
                )
            ):
                read(path)
    if ending == ".png":  # with the tag behind the pixels
        whole = path.read_bytes()
        start = whole.index(b"eXIf") - 4
        size = 12 + int.from_bytes(whole[start : start + 4], "big")
        path.write_bytes(whole[:start] + whole[start + size : -12] + whole[start : start + size] + whole[-12:])
        with pytest.raises(LabError, match="a PNG mask with the orientation 6"):
            read_mask(path)


@pytest.mark.parametrize("mask", [labels(0, 1), labels(0, 1) > 0])
def test_a_tiff_mask_whose_labels_would_be_inverted_is_refused(tmp_path: Path, mask: np.ndarray) -> None:
    kept = write(tmp_path / "kept.tif", mask, tiffinfo={262: 1})
    assert np.array_equal(read_mask(kept).values, labels(0, 1))
    inverted = write(tmp_path / "inverted.tif", mask, tiffinfo={262: 0})
    for read in (read_mask, mask_size):
        with pytest.raises(LabError, match=r"inverted\.tif: a TIFF mask stored white-is-zero.*save it black-is-zero"):
            read(inverted)


@pytest.mark.parametrize("content", [b"P5 4 1 3\n\0\1\2\3", b"P2 4 1 3\n0 1 2 3\n", b"P2 4 1 1023\n0 1 2 3\n"])
def test_a_pgm_mask_whose_labels_would_be_stretched_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(content)
    for read in (read_mask, mask_size):
        with pytest.raises(LabError, match=r"a\.pgm: a mask that says (3|1023) is its largest value.*Save it as PNG"):
            read(path)
    for largest, labels_of_it in ((255, b"\0\1\2\3"), (65535, b"\0\0\0\1\0\2\0\3")):
        path.write_bytes(b"P5 4 1 %d\n" % largest + labels_of_it)
        assert read_mask(path).values.tolist() == [[0, 1, 2, 3]]
        path.write_bytes(b"P2 4 1 %d\n0 1 2 3\n" % largest)
        assert read_mask(path).values.tolist() == [[0, 1, 2, 3]]


def test_an_image_of_16_bits_is_refused_and_not_clipped(tmp_path: Path) -> None:
    path = write(tmp_path / "deep.png", np.full((4, 4), 3000, np.uint16))
    with pytest.raises(LabError, match=r"deep\.png.*8 bits"):
        read_image(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_truncated_file_is_an_error_with_its_name(tmp_path: Path, ending: str, read) -> None:
    path = write(tmp_path / f"cut{ending}", picture(height=64, width=64))
    content = path.read_bytes()
    for part in (0, 1, 10, len(content) // 2):
        path.write_bytes(content[:part])
        with pytest.raises(LabError, match=rf"cut\{ending}"):
            read(path)


def test_bytes_that_are_no_picture_are_an_error_with_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("hello, I am no picture")
    with pytest.raises(LabError, match=r"text\.png.*cannot be read"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"gone\.png: there is no such image file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
@pytest.mark.parametrize("read", [read_image, read_mask, image_size, mask_size])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(LabError, match=rf"{name}: not a regular file"):
            read(tmp_path / name)


def png(path: Path, width: int, height: int, pixels: bytes, *, bits: int = 8, colours: int = 0) -> Path:
    """A PNG by hand: Pillow writes no grey of 4 bits and no colours of 16. colours: 0 grey, 2 RGB, 4 grey and alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))
    return path


def huge_png(path: Path, width: int, height: int) -> Path:
    """A few hundred bytes that claim to be a picture of this size."""
    return png(path, width, height, b"\0" * 99)


@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (4, 2)])
def test_colours_of_16_bits_are_refused_and_never_cut_to_their_high_byte(
    tmp_path: Path, colours: int, channels: int
) -> None:
    path = png(
        tmp_path / "deep.png", 1, 1, b"\0" + struct.pack(f">{channels}H", *[199] * channels), bits=16, colours=colours
    )
    with pytest.raises(LabError, match=r"deep\.png: the image has more than 8 bits a channel"):
        read_image(path)
    with pytest.raises(LabError, match=r"deep\.png: a colour mask of 16 bits a channel"):
        read_mask(path)


def test_a_ppm_of_16_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.ppm"
    path.write_bytes(b"P6 1 1 65535\n" + struct.pack(">3H", 1, 2, 3))
    with pytest.raises(LabError, match="more than 8 bits a channel"):
        read_image(path)


@pytest.mark.parametrize(("bits", "pixels", "expected"), [(4, b"\x01\x2f", [0, 1, 2, 15]), (2, b"\x1b", [0, 1, 2, 3])])
def test_labels_of_less_than_8_bits_are_those_of_the_file(
    tmp_path: Path, bits: int, pixels: bytes, expected: list[int]
) -> None:
    assert read_mask(png(tmp_path / "small.png", 4, 1, b"\0" + pixels, bits=bits)).values.tolist() == [expected]


@pytest.mark.parametrize("side", [10_000, 60_000])  # above Pillow's warning, above its error
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, side: int, read) -> None:
    path = huge_png(tmp_path / "bomb.png", side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a program that hides warnings
        with pytest.raises(LabError, match=r"bomb\.png.*pixels"):
            read(path)


@pytest.mark.parametrize("kind", ["PCX", "EPS", "ICO"])
def test_decoders_that_images_do_not_need_are_never_tried(tmp_path: Path, kind: str) -> None:
    """Whatever the file's ending says, its bytes would choose the decoder; that of EPS starts another program."""
    Image.fromarray(picture(height=16, width=16)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(LabError, match=r"a\.png.*cannot be read.*expected JPEG, PNG"):
        read_image(tmp_path / "a.png")


def test_a_file_of_several_pictures_is_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(picture(0)), Image.fromarray(picture(1))
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    with pytest.raises(LabError, match=r"two\.tif.*2 pictures"):
        read_image(tmp_path / "two.tif")


def test_mask_values_are_never_converted(tmp_path: Path) -> None:
    mask = labels(0, 1, 2, 255)
    assert np.array_equal(read_mask(write(tmp_path / "grey.png", mask)).values, mask)
    raw = read_mask(write(tmp_path / "palette.png", labels(0, 1, 2), [9, 9, 9, 0, 0, 0, 200, 0, 0]))
    assert np.array_equal(raw.values, labels(0, 1, 2))
    assert raw.palette is not None
    assert raw.palette[:3].tolist() == [[9, 9, 9], [0, 0, 0], [200, 0, 0]]


@pytest.mark.parametrize("ending", [".png", ".gif", ".bmp", ".tif"])
def test_the_head_of_a_palette_mask_has_the_palette_that_reading_finds(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}", labels(0, 1, 2), [9, 8, 7, 0, 1, 2, 200, 0, 3])
    palette = read_mask(path).palette
    assert palette is not None
    assert palette[:3].tolist() == [[9, 8, 7], [0, 1, 2], [200, 0, 3]]
    assert mask_kind(path) == ("palette", palette.tobytes())


def test_the_head_of_a_mask_tells_grey_from_colours(tmp_path: Path) -> None:
    for mask in (labels(0, 1), labels(0, 1) > 0, labels(0, 1).astype(np.uint16)):
        assert mask_kind(write(tmp_path / "grey.png", mask)) == ("grey", b"")
    assert mask_kind(write(tmp_path / "rgb.png", picture())) == ("colours", b"")


def test_a_1_bit_mask_holds_0_and_1(tmp_path: Path) -> None:
    assert np.array_equal(read_mask(write(tmp_path / "bits.png", labels(0, 1) > 0)).values, labels(0, 1))


def test_a_16_bit_mask_keeps_its_values(tmp_path: Path) -> None:
    mask = labels(0, 1).astype(np.uint16) * 1000
    assert np.array_equal(read_mask(write(tmp_path / "deep.png", mask)).values, mask)


def test_opaque_alpha_is_dropped_and_transparency_is_refused(tmp_path: Path) -> None:
    mask = np.concatenate([picture(), np.full((6, 8, 1), 255, np.uint8)], -1)
    assert np.array_equal(read_mask(write(tmp_path / "opaque.png", mask)).values, picture())
    mask[0, 0, 3] = 0
    with pytest.raises(LabError, match=r"clear\.png.*transparent"):
        read_mask(write(tmp_path / "clear.png", mask))


def test_a_jpeg_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"a\.jpg: a JPEG mask.*PNG"):
        read_mask(write(tmp_path / "a.jpg", labels(0, 255)))


def test_a_mask_that_other_formats_compress_with_loss_is_refused(tmp_path: Path) -> None:
    mask = Image.fromarray(labels(0, 255))
    mask.save(tmp_path / "a.tif", compression="jpeg")
    mask.save(tmp_path / "a.webp")
    for name, kind in (("a.tif", "JPEG-compressed TIFF"), ("a.webp", "lossy WebP")):
        with pytest.raises(LabError, match=rf"{name}: a {kind} mask.*PNG"):
            read_mask(tmp_path / name)
    mask.save(tmp_path / "b.tif", compression="tiff_lzw")
    mask.save(tmp_path / "b.webp", lossless=True)
    for name in ("b.tif", "b.webp"):
        assert set(np.unique(read_mask(tmp_path / name).values)) == {0, 255}


def test_a_palette_mask_with_transparency_keeps_its_indices(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", labels(0, 1), [255, 0, 0, 0, 255, 0], transparency=0)
    assert np.array_equal(read_mask(path).values, labels(0, 1))
