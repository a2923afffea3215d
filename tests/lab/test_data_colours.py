"""Masks in colours: the table, the void, and what cannot be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from lovasz.lab.data import DatasetInfo
from lovasz.lab.data.colours import colourise, overlay, voc_palette, void_colour
from lovasz.lab.errors import LabError

INFO = DatasetInfo("two", ("a", "b"), ((10, 20, 30), (200, 100, 0)))
MASK = np.array([[0, 1, 255]], np.uint8)


def test_each_class_gets_its_colour_and_void_is_black() -> None:
    assert colourise(MASK, INFO).tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 0]]]


def test_void_has_a_colour_that_no_class_has() -> None:
    palette = voc_palette(21)  # its background is black
    info = DatasetInfo("voc", tuple(map(str, range(21))), palette)
    void = tuple(colourise(MASK, info)[0, 2].tolist())
    assert void == void_colour(palette) == (224, 224, 192)  # as the masks of VOC have it
    every = [void_colour([])]
    while len(every) < 200:
        assert void_colour(every) not in every
        every.append(void_colour(every))


def test_an_overlay_mixes_by_its_opacity_and_leaves_void_as_it_is() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    assert overlay(image, MASK, INFO, 0.5).tolist() == [[[55, 60, 65], [150, 100, 50], [100, 100, 100]]]
    assert np.array_equal(overlay(image, MASK, INFO, 0.0), image)
    assert np.array_equal(overlay(image, MASK, INFO, 1.0)[:, :2], colourise(MASK, INFO)[:, :2])


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(LabError, match="label 2, but two has 2 classes"):
        colourise(np.array([[2]], np.uint8), INFO)


def test_arrays_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(LabError, match=r"mask: got int64 of shape \(1, 3\)"):
        colourise(MASK.astype(np.int64), INFO)
    with pytest.raises(LabError, match=r"image: got uint8 of shape \(3, 1, 3\)"):
        overlay(np.zeros((3, 1, 3), np.uint8), MASK, INFO)
    with pytest.raises(LabError, match="alpha: got 2"):
        overlay(np.zeros((1, 3, 3), np.uint8), MASK, INFO, 2)


def test_the_voc_palette_is_the_known_one_and_never_repeats() -> None:
    colours = voc_palette(256)
    assert colours[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert colours[20] == (0, 64, 128)  # tvmonitor
    assert colours[255] == (224, 224, 192)  # void
    assert len(set(colours)) == 256
