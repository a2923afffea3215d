"""Void and values beside a list of classes: no name moves to another value, and nothing is confirmed without effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.lab.image_files import coloured, first_row, labels, opened, write_folder

from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError

RED, BLUE, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
NAMES = ["background", "disc", "square"]
COLOURS = [*BLACK, *RED, *BLUE]


def write_names(root: Path, *names: str) -> None:
    (root / "classes.txt").write_text("\n".join(names))


def write_labelmap(root: Path) -> None:
    (root / "labelmap.txt").write_text("background:0,0,0::\ndisc:255,0,0::\nsquare:0,0,255::\n")


@pytest.mark.parametrize("palette", [None, COLOURS])
def test_the_name_of_void_in_a_file_is_left_out_as_by_void_index(tmp_path: Path, palette: list[int] | None) -> None:
    mask = labels(0, 1, 2)
    truth = opened(tmp_path / "a", mask, palette=palette, classes=NAMES, void_index=0)
    assert truth.info.classes == ("disc", "square")
    assert first_row(truth) == [255, 0, 1, 255]
    (tmp_path / "b").mkdir()
    write_names(tmp_path / "b", *NAMES)
    for dataset in (
        opened(tmp_path / "b", mask, palette=palette, options="void=0"),
        opened(tmp_path / "c", mask, palette=palette, options="void=0", classes=NAMES),
    ):
        assert dataset.info.classes == truth.info.classes
        assert np.array_equal(dataset[0].mask, truth[0].mask)
        assert "2 classes (disc, square) from classes." in dataset.describe()
        assert "void 0 (background); mask values 1, 2" in dataset.describe()


def test_a_void_in_the_middle_of_a_file_takes_its_own_name_alone(tmp_path: Path) -> None:
    write_names(tmp_path, "a", "b", "c", "d")
    dataset = opened(tmp_path, labels(0, 1, 2, 3, 255), options="void=1,255")
    assert dataset.info.classes == ("a", "c", "d")
    assert first_row(dataset, count=5) == [0, 255, 1, 2, 255]


def test_a_class_of_a_file_that_no_mask_holds_keeps_its_value_beside_void(tmp_path: Path) -> None:
    write_names(tmp_path, *NAMES, "star")
    dataset = opened(tmp_path, labels(0, 1, 3), options="void=0")
    assert dataset.info.classes == ("disc", "square", "star")
    assert first_row(dataset) == [255, 0, 2, 255]
    assert "no mask holds 2" in dataset.describe()


def test_a_file_without_a_name_for_void_is_asked_about_where_a_label_lies_beyond_it(tmp_path: Path) -> None:
    write_names(tmp_path, "road", "car")
    mask = labels(0, 1, 2)
    with pytest.raises(
        LabError, match=r"0\.png: label 2, but classes\.txt .* 0 to 1, of which 0 \(road\) .*values=1,2;"
    ):
        opened(tmp_path, mask, options="void=0")
    dataset = opened(tmp_path, mask, options="void=0&values=1,2")
    assert (dataset.info.classes, first_row(dataset)) == (("road", "car"), [255, 0, 1, 255])
    write_names(tmp_path, "nothing", "road", "car")
    dataset = opened(tmp_path, mask, options="void=0")
    assert (dataset.info.classes, first_row(dataset)) == (("road", "car"), [255, 0, 1, 255])
    with pytest.raises(LabError, match=r"1\.png: label 7"):
        opened(tmp_path, mask, labels(0, 7), options="void=0")


def test_options_without_a_name_for_void_name_the_other_values(tmp_path: Path) -> None:
    for void in ("0", "0,255"):
        dataset = opened(tmp_path, labels(0, 1, 2, 255), labels(0, 1, 2), options=f"classes=road,car&void={void}")
        assert dataset.info.classes == ("road", "car")
        assert first_row(dataset, 1) == [255, 0, 1, 255]


@pytest.mark.parametrize("void", ["0", "%23000000"])
def test_options_that_may_name_void_or_not_are_a_question_with_both_answers(tmp_path: Path, void: str) -> None:
    """The last class may be one that no mask holds."""
    mask, palette = labels(0, 1, 2), COLOURS if void != "0" else None
    with pytest.raises(LabError) as error:
        opened(tmp_path, mask, palette=palette, options=f"classes=background,disc,square&void={void}")
    assert "void: got 0, but the 3 classes may name the mask values 0 to 2 with void (background)" in str(error.value)
    assert "Say classes=disc,square&values=1,2 in the first case, or say values=1,2,3 in the second." in str(
        error.value
    )
    first = opened(tmp_path, mask, palette=palette, options=f"classes=disc,square&values=1,2&void={void}")
    assert (first.info.classes, first_row(first)) == (("disc", "square"), [255, 0, 1, 255])
    second = opened(tmp_path, mask, palette=palette, options=f"classes=background,disc,square&values=1,2,3&void={void}")
    assert first_row(second) == [255, 0, 1, 255]


def test_two_classes_of_which_one_may_be_void_are_a_question(tmp_path: Path) -> None:
    with pytest.raises(
        LabError, match=r"Leave void out \(one class would remain\) in the first case, or say values=1,2"
    ):
        opened(tmp_path, labels(0, 1), options="classes=background,road&void=0")


@pytest.mark.parametrize("void", ["0", "%23000000"])
def test_the_background_of_a_labelmap_can_be_void_by_value_and_by_colour(tmp_path: Path, void: str) -> None:
    write_labelmap(tmp_path)
    indexed = {"mask": labels(0, 1, 2), "palette": COLOURS}
    for mask, palette in (
        (coloured(BLACK, RED, BLUE), None),
        (indexed["mask"], indexed["palette"]),
        (indexed["mask"], None),
    ):
        dataset = opened(tmp_path, mask, palette=palette, options=f"void={void}")
        assert dataset.info.classes == ("disc", "square")
        assert dataset.info.palette == (RED, BLUE)
        assert first_row(dataset) == [255, 0, 1, 255]
        assert "void 0 and #000000 (background)" in dataset.describe()


def test_void_as_a_colour_is_the_index_that_the_palettes_draw_in_it(tmp_path: Path) -> None:
    mask, palette = labels(0, 1, 2, 3), [*RED, *BLACK, *BLUE, *BLACK]
    for options in ("", "classes=a,b&values=0,2&"):
        dataset = opened(tmp_path, mask, palette=palette, options=f"{options}void=%23000000")
        truth = opened(tmp_path, mask, palette=palette, options=f"{options}void=1,3")
        assert dataset.info.classes == truth.info.classes
        assert first_row(dataset) == first_row(truth) == [0, 255, 1, 255]
        assert "void 1 and 3 and #000000" in dataset.describe()


def test_void_as_a_colour_of_classes_json_counts_in_palette_files(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 1, 2), palette=COLOURS, classes=NAMES, void_rgb=BLACK)
    assert (dataset.info.classes, first_row(dataset)) == (("disc", "square"), [255, 0, 1, 255])


@pytest.mark.parametrize(
    ("mask", "palette", "options", "words"),
    [
        (labels(0, 1, 2), None, "void=%23000000", r"0\.png is read by its values\. Say .* void=VALUE, such as void=0"),
        (
            labels(0, 1, 2),
            None,
            "void=%23ff0000&classes=a,b,c",
            r"read by its values\. Say the mask value, void=VALUE\.",
        ),
        (labels(0, 1, 2), None, "void=%23000000&values=1,2", r"0\.png is read by its values"),
        (coloured((0, 0, 0), (1, 1, 1)), None, "void=%23000000", r"0\.png is read by its values.*such as void=0"),
        (labels(0, 1, 2), COLOURS, "void=%2300ff00", "no mask holds it"),
        (labels(0, 1, 2), COLOURS, "void=%2300ff00&values=0,1,2", "no mask holds it"),
    ],
)
def test_a_void_colour_is_refused_where_no_mask_can_have_it(
    tmp_path: Path, mask: np.ndarray, palette: list[int] | None, options: str, words: str
) -> None:
    with pytest.raises(LabError, match=rf"^void: got the colour #\w+, but .*{words}"):
        opened(tmp_path, mask, palette=palette, options=options)


def test_a_void_colour_is_refused_where_palette_and_grey_files_are_mixed(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1)}, COLOURS)
    write_folder(tmp_path, {"b": labels(0, 1)})
    with pytest.raises(LabError, match=r"void: got the colour #000000, but .*b\.png is read by its values"):
        open_dataset(f"folder:{tmp_path}?void=%23000000", "train")


def test_a_void_colour_is_refused_for_indices_whose_palettes_differ(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1)}, [*BLACK, *RED])
    write_folder(tmp_path, {"b": labels(1, 0)}, [*RED, *BLACK])
    with pytest.raises(LabError, match=r"void: got the colour #000000, .*palettes differ\. Say the mask value"):
        open_dataset(f"folder:{tmp_path}?void=%23000000&coding=index", "train")


@pytest.mark.parametrize("void", ["0", "255", "0,255"])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_void_value_is_refused_where_masks_are_read_by_colour(tmp_path: Path, void: str, indexed: bool) -> None:
    mask, palette = (labels(0, 1, 2), COLOURS) if indexed else (coloured(BLACK, RED, BLUE), None)
    said = "classes=a,b,c&palette=000000,ff0000,0000ff&coding=colour"
    with pytest.raises(LabError, match=rf"^void: got {void}, .*by their colours .*0\.png\)\. Say .*void=#rrggbb"):
        opened(tmp_path, mask, palette=palette, options=f"{said}&void={void}")
    assert first_row(opened(tmp_path, mask, palette=palette, options=f"{said}&void=none")) == [0, 1, 2, 0]


def test_a_void_value_beyond_a_labelmap_is_refused_for_masks_in_colours(tmp_path: Path) -> None:
    write_labelmap(tmp_path)
    with pytest.raises(LabError, match=r"^void: got 255, a mask value, but the masks are read by their colours"):
        opened(tmp_path, coloured(BLACK, RED, BLUE), options="void=255")


def test_values_are_refused_where_masks_are_read_by_colour(tmp_path: Path) -> None:
    said = "classes=a,b,c&palette=000000,ff0000,0000ff&values=0,1,5"
    with pytest.raises(
        LabError, match=r"^values: got 0,1,5, but the masks are read by their colours .*Leave values out"
    ):
        opened(tmp_path, coloured(BLACK, RED, BLUE), options=said)
    numbers = coloured((0, 0, 0), (1, 1, 1), (5, 5, 5))
    assert first_row(opened(tmp_path, numbers, options=f"{said}&coding=index")) == [0, 1, 2, 0]


def test_a_void_index_of_classes_json_is_not_confirmed_for_masks_in_colours(tmp_path: Path) -> None:
    mask = coloured(RED, BLUE)
    said = {"classes": ["a", "b"], "palette_rgb": [RED, BLUE], "void_index": 255}
    assert "no void" in opened(tmp_path, mask, **said).describe()
    said |= {"void_rgb": BLACK}
    assert "void 255 and #000000" in opened(tmp_path, mask, **said).describe()


def test_void_of_the_options_replaces_that_of_classes_json_in_both_forms(tmp_path: Path) -> None:
    said = {"classes": ["a", "b"], "palette_rgb": [RED, BLUE], "void_index": 255, "void_rgb": BLACK}
    mask = coloured(RED, BLUE, BLACK)
    assert first_row(opened(tmp_path, mask, **said)) == [0, 1, 255, 0]
    with pytest.raises(LabError, match="colour #000000"):
        opened(tmp_path, mask, options="void=none", **said)[0]
    dataset = opened(tmp_path, coloured(RED, BLUE, WHITE), options="void=%23ffffff", **said)
    assert first_row(dataset) == [0, 1, 255, 0]
    assert "void #ffffff" in dataset.describe()


def test_void_in_the_colour_of_a_class_is_refused(tmp_path: Path) -> None:
    mask = coloured(BLACK, RED, BLUE)
    with pytest.raises(
        LabError, match=r"^void: #000000 is also the colour of the class a of the options\. Leave a out"
    ):
        opened(tmp_path, mask, options="classes=a,b,c&palette=000000,ff0000,0000ff&void=%23000000")
    said = {"classes": NAMES, "palette_rgb": [BLACK, RED, BLUE], "void_rgb": BLACK}
    with pytest.raises(LabError, match=r"^void: #000000 is also the colour of the class background of classes\.json"):
        opened(tmp_path, mask, **said)
