"""What mask values mean, from what is said, from a file of classes, or from the masks; wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.lab.image_files import coloured, first_row, labels, opened, write, write_folder

from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def test_masks_of_0_and_255_are_background_and_foreground(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 255), labels(0))
    assert dataset.info.classes == ("background", "foreground")
    assert first_row(dataset) == [0, 1, 0, 1]
    assert "no void; mask values 0, 255 in this order" in dataset.describe()


def test_masks_of_0_and_255_keep_both_classes_when_two_are_named(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 255), options="classes=ground,road")
    assert dataset.info.classes == ("ground", "road")
    assert first_row(dataset) == [0, 1, 0, 1]


@pytest.mark.parametrize("mask", [labels(0, 1), labels(0, 1) > 0])
def test_masks_of_0_and_1_are_background_and_foreground(tmp_path: Path, mask: np.ndarray) -> None:
    dataset = opened(tmp_path, mask)
    assert dataset.info.classes == ("background", "foreground")
    assert first_row(dataset) == [0, 1, 0, 1]


@pytest.mark.parametrize("value", [2, 7, 128, 254])
def test_masks_of_0_and_one_other_value_are_background_and_foreground(tmp_path: Path, value: int) -> None:
    dataset = opened(tmp_path, labels(0, value), labels(0))
    assert dataset.info.classes == ("background", "foreground")
    assert first_row(dataset) == [0, 1, 0, 1]
    assert f"no void; mask values 0, {value} in this order" in dataset.describe()
    assert not dataset.info.found  # weights of the classes 0, 1, 2 must not take the foreground for their class 1
    assert opened(tmp_path, labels(0, value), options="classes=a,b").info.classes == ("a", "b")


def test_255_beside_other_labels_is_void(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 1, 255), labels(0, 2))
    assert dataset.info.classes == ("class 0", "class 1", "class 2")
    assert first_row(dataset) == [0, 1, 255, 0]
    assert "void 255" in dataset.describe()


def test_the_whole_folder_decides_and_not_one_split(tmp_path: Path) -> None:
    """Train alone holds 0 and 255; a label 1 beside 255 in val shows that 255 is void."""
    write_folder(tmp_path, {"a": labels(0, 255), "b": labels(0, 1, 255)})
    (tmp_path / "train.txt").write_text("a")
    (tmp_path / "val.txt").write_text("b")
    assert open_dataset(f"folder:{tmp_path}", "train")[0].mask.unique().tolist() == [0, 255]


def test_void_none_makes_255_a_label_like_others(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"0\.png.*look like greys"):
        opened(tmp_path, labels(0, 1, 255), options="void=none")


def test_a_void_in_the_middle_of_the_labels_is_left_out(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 1, 2, 3), options="void=0")
    assert dataset.info.classes == ("class 1", "class 2", "class 3")
    assert first_row(dataset) == [255, 0, 1, 2]


def test_class_numbers_without_the_background_keep_their_numbers_as_names(tmp_path: Path) -> None:
    assert opened(tmp_path, labels(0, 1, 2), options="void=0").info.classes == ("class 1", "class 2")


def test_a_label_that_no_mask_holds_keeps_its_place_and_is_told(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 1, 3))
    assert dataset.info.num_classes == 4
    assert first_row(dataset) == [0, 1, 3, 0]
    assert "no mask holds 2" in dataset.describe()


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 85, 170), (0, 1, 2, 254), tuple(range(0, 256, 2))])
def test_greys_for_the_eye_are_not_taken_for_class_numbers(tmp_path: Path, values: tuple[int, ...]) -> None:
    with pytest.raises(LabError, match=r"0\.png: the masks hold the values 0, .*look like greys.*values="):
        opened(tmp_path, labels(*values, width=len(values)))


def test_smoothed_edges_of_a_binary_mask_are_not_taken_for_classes(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="look like greys"):
        opened(tmp_path, labels(*range(256), width=256))


def test_one_smoothed_mask_among_binary_ones_is_named_and_not_made_classes_of(tmp_path: Path) -> None:
    smoothed = labels(0, *range(8, 248, 3), 255, width=90)
    binary = labels(0, 255, width=90)
    with pytest.raises(LabError, match=r"masks.1\.png: the masks hold the values .*smoothed edges.*classes="):
        opened(tmp_path, binary, smoothed, binary)


def test_many_classes_are_found_where_the_masks_hold_every_one(tmp_path: Path) -> None:
    assert opened(tmp_path, labels(*range(150), 255, width=151)).info.num_classes == 150
    with pytest.raises(LabError, match="look like greys"):
        opened(tmp_path, labels(*range(40), *range(41, 150), width=149))


def test_said_values_give_greys_their_class(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 128, 200, 255), options="values=0,200,128&classes=a,b,c&void=255")
    assert first_row(dataset) == [0, 2, 1, 255]


def test_masks_with_one_label_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no label but 0; there is nothing to tell apart"):
        opened(tmp_path, labels(0))


def test_a_label_beyond_the_class_list_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"masks.1\.png: label 5, but the data set has 3 classes \(mask values 0 to 2"):
        opened(tmp_path, labels(0, 1), labels(0, 5), options="classes=a,b,c")
    dataset = opened(tmp_path, labels(0, 1), labels(0, 5), options="classes=a,b,c&void=255")
    with pytest.raises(LabError, match=r"masks.1\.png: label 5 at row 0, column 1, .*3 classes .*void 255"):
        dataset[1]


def test_a_label_above_a_byte_is_named_and_not_wrapped(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1), "b": labels(0, 1)})
    for name in "ab":
        write(tmp_path / "masks" / f"{name}.png", labels(0, 1).astype(np.uint16) * 257)
    with pytest.raises(LabError, match="label 257"):
        open_dataset(f"folder:{tmp_path}?classes=a,b&void=none", "train")[0]


def test_palette_masks_bring_their_indices_and_colours(tmp_path: Path) -> None:
    dataset = opened(tmp_path, labels(0, 1, 2), palette=[*GREEN, *RED, *BLUE])
    assert first_row(dataset) == [0, 1, 2, 0]
    assert dataset.info.palette == (GREEN, RED, BLUE)


def test_grey_masks_get_different_colours(tmp_path: Path) -> None:
    assert opened(tmp_path, labels(0, 1, 2)).info.palette == (BLACK, (128, 0, 0), (0, 128, 0))


def test_palettes_that_differ_between_files_are_refused_with_both_names(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1)}, [*BLACK, *RED])
    write_folder(tmp_path, {"b": labels(0, 1)}, [*RED, *BLACK])
    with pytest.raises(LabError, match=r"b\.png: index 0 is drawn in #ff0000, but in .*a\.png in #000000"):
        open_dataset(f"folder:{tmp_path}", "train")
    for void in ("", "&void=none"):
        by_colour = f"folder:{tmp_path}?classes=a,b&palette=000000,ff0000&coding=colour{void}"
        masks = [open_dataset(by_colour, split)[0].mask for split in ("train", "val")]
        assert np.array_equal(masks[0] + masks[1], np.ones_like(masks[0]))


def test_masks_of_0_and_1_beside_masks_of_0_and_255_are_a_question(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1)})
    write_folder(tmp_path, {"b": labels(0, 255)})
    write_folder(tmp_path, {"d": labels(255)})  # void throughout, or foreground
    with pytest.raises(LabError, match=r"a\.png: a mask with the label 1, but .*b\.png is of 0 and 255.*Say void=255"):
        open_dataset(f"folder:{tmp_path}", "train")
    assert open_dataset(f"folder:{tmp_path}?void=255", "train").info.num_classes == 2
    write_folder(tmp_path, {"c": labels(0, 1, 255)})  # here 255 stands beside the foreground
    assert open_dataset(f"folder:{tmp_path}", "train").info.num_classes == 2


def test_a_classes_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": labels(0, 1), "b": labels(0, 1)})
    text = json.dumps({"classes": ["sky", "sea"], "void_index": None})
    (tmp_path / "classes.json").write_text(text, encoding="utf-8-sig")
    assert open_dataset(f"folder:{tmp_path}", "train").info.classes == ("sky", "sea")


def test_indices_and_colours_that_contradict_each_other_are_a_question(tmp_path: Path) -> None:
    said = {"classes": ["sky", "sea"], "palette_rgb": [RED, BLUE], "void_index": None}
    mask, palette = labels(0, 1), [*BLUE, *RED]
    with pytest.raises(LabError, match=r"index 0 is drawn in #0000ff, the colour of class 1 \(sea\).*class 0 \(sky\)"):
        opened(tmp_path, mask, palette=palette, **said)[0]
    assert first_row(opened(tmp_path, mask, palette=palette, options="coding=index")) == [0, 1, 0, 1]
    assert first_row(opened(tmp_path, mask, palette=palette, options="coding=colour")) == [1, 0, 1, 0]


def test_masks_in_colours_follow_classes_json(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path,
        coloured(BLUE, WHITE, RED),
        classes=["land", "sea"],
        palette_rgb=[RED, BLUE],
        void_index=255,
        void_rgb=WHITE,
    )
    assert first_row(dataset) == [1, 255, 0, 1]
    assert dataset.info.palette == (RED, BLUE)


def test_masks_in_colours_follow_the_options(tmp_path: Path) -> None:
    options = "classes=land,sea&palette=#ff0000,0000ff&void=#ffffff"
    assert first_row(opened(tmp_path, coloured(BLUE, WHITE, RED), options=options)) == [1, 255, 0, 1]


def test_a_mask_in_colours_that_holds_only_a_grey_class_is_read_by_colour(tmp_path: Path) -> None:
    """One mask is all grey (128, 128, 128): its three channels are equal, but 128 is no index."""
    grey = (128, 128, 128)
    dataset = opened(tmp_path, coloured(RED, grey), coloured(grey), options=f"classes=a,b&palette=ff0000,{'80' * 3}")
    assert first_row(dataset, 1) == [1, 1, 1, 1]


@pytest.mark.parametrize("void", ["", "&void=none"])
def test_a_black_mask_among_coloured_ones_is_no_class_where_black_is_none(tmp_path: Path, void: str) -> None:
    options = f"classes=a,b,c&palette=#ff0000,#00ff00,#0000ff{void}"
    with pytest.raises(LabError, match=r"1\.png: colour #000000 at row 0.*void=#rrggbb.*coding=index"):
        opened(tmp_path, coloured(RED, GREEN, BLUE), coloured(BLACK), options=options)[1]  # void: no survey


def test_class_numbers_saved_as_rgb_beside_stated_colours_are_read_where_asked(tmp_path: Path) -> None:
    numbers = coloured((0, 0, 0), (1, 1, 1))
    assert first_row(opened(tmp_path, numbers, options="classes=a,b&palette=ff0000,0000ff&coding=index")) == [
        0,
        1,
        0,
        1,
    ]


def test_class_numbers_saved_as_rgb_are_read_as_numbers(tmp_path: Path) -> None:
    assert first_row(opened(tmp_path, coloured((0, 0, 0), (1, 1, 1), (2, 2, 2)))) == [0, 1, 2, 0]


def test_masks_in_colours_without_classes_are_refused_with_the_colours_found(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"0\.png: a mask in colours.*2 colours were found: #0000ff,#ff0000.*palette="):
        opened(tmp_path, coloured(BLUE, RED))


def test_a_colour_of_no_class_is_named_with_its_file_and_place(tmp_path: Path) -> None:
    options = "classes=a,b&palette=ff0000,0000ff"
    with pytest.raises(LabError, match=r"1\.png: colour #00ff00 at row 0, column 1.*expected #ff0000, #0000ff"):
        opened(tmp_path, coloured(RED, BLUE), coloured(RED, GREEN), options=options)  # of the train split, yet unread


@pytest.mark.parametrize(
    ("mask", "coding", "words"),
    [
        (coloured(RED, GREEN), "auto", "colour #00ff00"),
        (coloured(BLACK), "auto", "colour #000000"),
        (labels(0, 1, 7), "auto", "label 7"),
        (labels(0, 1, 7), "index", "label 7"),
        (coloured(RED), "index", "a mask in colours"),
        (labels(0, 1), "colour", "a grey mask"),
    ],
)
def test_a_mask_that_cannot_be_read_as_said_is_named_when_another_split_is_opened(
    tmp_path: Path, mask: np.ndarray, coding: str, words: str
) -> None:
    good = labels(0, 1) if coding == "index" else coloured(RED, BLUE)
    write_folder(tmp_path, {"0": good, "1": good, "2": mask})
    for split, stem in (("train", "0"), ("val", "1"), ("test", "2")):
        (tmp_path / f"{split}.txt").write_text(stem)
    options = f"classes=a,b&palette=ff0000,0000ff&coding={coding}"
    with pytest.raises(LabError, match=rf"2\.png: {words}"):
        open_dataset(f"folder:{tmp_path}?{options}", "train")
    write(tmp_path / "masks" / "2.png", good)
    assert first_row(open_dataset(f"folder:{tmp_path}?{options}", "test")) == [0, 1, 0, 1]  # type: ignore[arg-type]


def test_classes_json_names_the_classes_and_leaves_void_out(tmp_path: Path) -> None:
    """As CamVid's: the void is an entry of the list, beyond num_classes."""
    dataset = opened(
        tmp_path,
        labels(0, 1, 2),
        classes=["sky", "road", "unlabelled"],
        palette_rgb=[BLUE, RED, BLACK],
        num_classes=2,
        void_index=2,
    )
    assert dataset.info.classes == ("sky", "road")
    assert first_row(dataset) == [0, 1, 255, 0]
    assert "2 classes (sky, road) from classes.json; void 2 and #000000" in dataset.describe()


def test_options_go_before_classes_json(tmp_path: Path) -> None:
    said = {"classes": ["a", "b", "c"], "void_index": 255}
    dataset = opened(tmp_path, labels(0, 1, 2, 9), options="void=9", **said)
    assert dataset.info.classes == ("a", "b", "c")
    assert first_row(dataset) == [0, 1, 2, 255]
    assert opened(tmp_path, labels(0, 1), options="classes=x,y").info.classes == ("x", "y")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"classes": "cat"}, "classes is 'cat'; expected a list of names"),
        ({"classes": ["a", 3]}, "expected a list of names"),
        ({"classes": []}, "expected a list of names"),
        ({"names": ["a", "b"]}, "there is no key classes"),
        ({"classes": ["a", "b"], "void": 255}, "void: the key is called void_index"),
        ({"classes": ["a", "b"], "ignore_index": 255}, "ignore_index: the key is called void_index"),
        ({"classes": ["a", "\x1b[2Jb"]}, "has a control character or half a character"),
        ({"classes": ["a", "\ud800"]}, "has a control character or half a character"),
        ({"classes": ["a", "b"], "palette_rgb": [[0, 0, 0]]}, "1 colours for 2 classes"),
        ({"classes": ["a", "b"], "palette_rgb": [[0, 0, 0], [0, 0, 300]]}, "palette_rgb must be a list"),
        ({"classes": ["a", "b"], "void_index": "255"}, "void_index is '255'"),
        ({"classes": ["a", "b"], "void_index": True}, "void_index is True"),
        ({"classes": ["a", "b"], "void_rgb": [1, 2]}, "void_rgb is"),
        ({"classes": ["a", "b"], "num_classes": 3}, "num_classes is 3, but classes holds 2 names"),
    ],
)
def test_a_wrong_classes_json_is_named_with_the_wrong_key(tmp_path: Path, said: dict, message: str) -> None:
    with pytest.raises(LabError, match=rf"classes\.json: .*{message}"):
        opened(tmp_path, labels(0, 1), **said)


def test_a_palette_under_another_key_than_palette_rgb_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]]}')
    with pytest.raises(LabError, match=r"classes\.json: palette: the key is called palette_rgb"):
        opened(tmp_path, labels(0, 1))


LABELMAP = "# label:color_rgb:parts:actions\n\nsky:0,0,0::\nroad: 255,0,0:wheel,door:run\nsea:0,0,255\n"


def test_a_labelmap_of_cvat_names_the_classes_by_their_colours(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    dataset = opened(tmp_path, coloured(BLUE, BLACK, RED))
    assert dataset.info.classes == ("sky", "road", "sea")
    assert dataset.info.palette == (BLACK, RED, BLUE)
    assert first_row(dataset) == [2, 0, 1, 2]
    assert "3 classes (sky, road, sea) from labelmap.txt" in dataset.describe()


def test_a_list_of_class_names_names_the_mask_values(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffsky\r\nthe road\r\n\r\nsea\r\n".encode())
    dataset = opened(tmp_path, labels(2, 0, 1, 255))
    assert dataset.info.classes == ("sky", "the road", "sea")
    assert first_row(dataset) == [2, 0, 1, 255]
    assert "from classes.txt" in dataset.describe()
    with pytest.raises(LabError, match=r"0\.png: label 3, .*Correct the mask or the class list of classes\.txt"):
        opened(tmp_path, labels(0, 1, 2, 3))


def test_options_go_before_classes_json_and_that_before_the_files_of_other_tools(tmp_path: Path) -> None:
    mask = labels(0, 1, 2)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert opened(tmp_path, mask).info.classes == ("a", "b", "c")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    assert opened(tmp_path, mask).info.classes == ("sky", "road", "sea")
    assert opened(tmp_path, mask, classes=["d", "e", "f"]).info.classes == ("d", "e", "f")
    assert opened(tmp_path, mask, options="classes=x,y,z").info.classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labelmap.txt", "sky:0,0,0::\n# x\nroad:1,2::\n", r"labelmap\.txt, line 3: 'road:1,2::'; expected NAME:RED"),
        ("labelmap.txt", "sky:0,0,256::\n", r"labelmap\.txt, line 1: .*from 0 to 255"),
        ("labelmap.txt", "sky\n", r"labelmap\.txt, line 1: 'sky'; expected NAME:RED"),
        ("labelmap.txt", " :1,2,3::\n", r"labelmap\.txt, line 1: .*expected NAME:RED"),
        ("labelmap.txt", "a:1,2,3::\nb:1,2,3::\n", r"labelmap\.txt, line 2: b has the colour of a"),
        ("labelmap.txt", "a:1,2,3::\na:1,2,4::\n", r"labelmap\.txt, line 2: the class a is there twice"),
        ("labelmap.txt", "# nothing\n", r"labelmap\.txt: no class in this file"),
        ("classes.txt", "a\n\nb\na\n", r"classes\.txt, line 4: the class a is there twice"),
        ("classes.txt", "0 bg\n1 cat\n", r"classes\.txt, line 1: '0 bg'; expected the name alone"),
        ("classes.txt", "bg, cat, dog", r"classes: got 1 \(bg, cat, dog\) from classes\.txt, .*a line for each"),
        ("classes.txt", "\n", r"classes\.txt: no class in this file"),
        ("classes.txt", "\udcff\n", r"classes\.txt: cannot be read as text"),
    ],
)
def test_a_wrong_line_of_a_class_file_is_named_with_its_number(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LabError, match=message):
        opened(tmp_path, labels(0, 1, 2))


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[" * 100_000, "\x00"])
def test_a_classes_json_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(LabError, match=r"classes\.json"):
        opened(tmp_path, labels(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("classes=a,a", "one stands twice"),
        ("classes=a&void=none", r"got 1 \(a\) from the options, expected 2 to 255.*with commas between them"),
        ("classes=a,b&values=0,1,2", "3 mask values for 2 classes"),
        ("classes=a,b&values=1,1", "one stands twice"),
        ("classes=a,b&values=0,255&void=255", "void: 255 is also"),
        ("classes=a,b&palette=ff0000", "1 colours for 2 classes"),
    ],
)
def test_options_that_do_not_fit_one_another_are_named(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        opened(tmp_path, labels(0, 1), options=options)


def test_masks_changed_after_opening_are_read_again(tmp_path: Path) -> None:
    assert opened(tmp_path, labels(0, 1)).info.num_classes == 2
    assert opened(tmp_path, labels(0, 1, 2, 3)).info.num_classes == 4


def test_every_class_number_up_to_254_can_be_a_class(tmp_path: Path) -> None:
    names = ",".join(f"c{number}" for number in range(255))
    dataset = opened(tmp_path, labels(*range(256), width=256), options=f"classes={names}&void=255")
    assert dataset[0].mask[0].tolist() == list(range(256))
