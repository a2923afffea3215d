"""Palettes that differ from file to file, in which an index may mean two classes: refused whatever else is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.lab.image_files import coloured, first_row, labels, opened, picture, write, write_folder

from lovasz.lab.data import open_dataset, survey
from lovasz.lab.errors import LabError

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
COLOURS = [*BLACK, *RED, *BLUE]


def write_differing(root: Path) -> None:
    """One scene in two files, whose palettes have the same colours at other indices."""
    write_folder(root, {"a": labels(0, 1, 2)}, [*BLACK, *RED, *BLUE])
    write_folder(root, {"b": labels(1, 0, 2)}, [*RED, *BLACK, *BLUE])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?classes=a,b,c&void=255", None),
        ("?classes=a,b,c&void=none", None),
        ("?values=0,1,2", None),
        ("?values=0,1,2&classes=a,b,c", None),
        ("?classes=a,b,c&palette=010101,020202,030303&void=255", None),
        ("", {"classes": ["a", "b", "c"], "void_index": 255}),
        ("", {"classes": ["a", "b", "c", "void"], "void_index": 3}),
        ("", {"classes": ["a", "b", "c"], "void_index": None}),
        ("?void=%23000000", None),
    ],
)
def test_palettes_that_differ_are_refused_whatever_is_said_but_the_coding(
    tmp_path: Path, options: str, said: dict | None
) -> None:
    write_differing(tmp_path)
    if said is not None:
        (tmp_path / "classes.json").write_text(json.dumps(said))
    with pytest.raises(
        LabError, match=r"b\.png: index 0 is drawn in #ff0000, .*a\.png in #000000: the palettes differ"
    ):
        open_dataset(f"folder:{tmp_path}{options}", "train")
    if "%23" in options:
        return  # a void colour needs palettes that agree
    by_index = f"folder:{tmp_path}{options}{'&' if options else '?'}coding=index"
    rows = {sample.name: sample.mask[0, :3].tolist() for split in ("train", "val") for sample in _all(by_index, split)}
    assert rows == {"a": [0, 1, 2], "b": [1, 0, 2]}


def _all(spec: str, split: str) -> list:
    dataset = open_dataset(spec, split)
    return [dataset[i] for i in range(len(dataset))]


def test_coding_index_alone_goes_by_the_indices_and_takes_no_colours_of_one_file(tmp_path: Path) -> None:
    write_differing(tmp_path)
    dataset = open_dataset(f"folder:{tmp_path}?coding=index", "train")
    assert dataset.info.palette == (BLACK, (128, 0, 0), (0, 128, 0))  # of VOC


def test_palettes_that_a_program_chose_for_each_file_are_refused(tmp_path: Path) -> None:
    for stem, colours in (("a", (BLACK, RED, BLUE)), ("b", (BLACK, BLUE))):
        write(tmp_path / "images" / f"{stem}.png", picture())
        (tmp_path / "masks").mkdir(exist_ok=True)
        scene = Image.fromarray(coloured(*colours))
        scene.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "masks" / f"{stem}.png")
    with pytest.raises(LabError, match="the palettes differ"):
        open_dataset(f"folder:{tmp_path}?classes=background,disc,square&void=255", "train")


def test_palettes_may_differ_in_colours_that_no_pixel_has(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1)}, [*BLACK, *RED, *BLUE])
    write_folder(tmp_path, {"b": labels(0, 1)}, [*BLACK, *RED, *GREEN])
    assert len(open_dataset(f"folder:{tmp_path}?classes=a,b&void=255", "train")) == 1


@pytest.mark.parametrize("palette", [None, COLOURS])
def test_no_mask_is_read_for_palettes_that_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, palette: list[int] | None
) -> None:
    monkeypatch.setattr(survey, "read_mask", lambda path: pytest.fail(f"{path} was read"))
    assert first_row(opened(tmp_path, labels(0, 1, 2), palette=palette, options="classes=a,b,c&void=2,9&values=0,1,5"))
