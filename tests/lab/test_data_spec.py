"""Data sets as people type them: names, paths and options, each mistake with its own message."""

from __future__ import annotations

from pathlib import Path

import pytest

from lovasz.lab.data import available_splits, open_dataset
from lovasz.lab.data.spec import parse_spec
from lovasz.lab.errors import LabError


def test_a_name_a_path_and_options_are_told_apart() -> None:
    assert parse_spec("shapes", {}) == ("shapes", None, {})
    assert parse_spec("folder:a/b: c?void=255&classes=cat,big dog", {}) == (
        "folder",
        Path("a/b: c"),
        {"void": (255,), "classes": ("cat", "big dog")},
    )


def test_options_by_keyword_and_in_the_text_mean_the_same() -> None:
    text = parse_spec("folder:x?classes=a,b&palette=#010203,ff0000&values=0,9&void=1,2&coding=index", {})
    typed = {
        "classes": ["a", "b"],
        "palette": [(1, 2, 3), [255, 0, 0]],
        "values": (0, 9),
        "void": [1, 2],
        "coding": "index",
    }
    assert parse_spec("folder:x", typed) == text


def test_a_void_is_values_none_or_a_colour() -> None:
    read = [parse_spec("folder:x", {"void": void})[2] for void in (7, "7", "none", None, "#00ff00")]
    assert read == [{"void": (7,)}, {"void": (7,)}, {"void": ()}, {"void": ()}, {"void_colour": (0, 255, 0)}]


def test_a_path_may_hold_a_question_mark_and_a_value_any_character() -> None:
    assert parse_spec("folder:what?/x?", {})[1] == Path("what?/x")
    assert parse_spec("folder:x?classes=a%26b,c%3Fd", {})[2] == {"classes": ("a&b", "c?d")}


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_spec("folder:~/data", {})[1] == tmp_path / "data"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shape", "no data set 'shape'; known are ade20k, camvid, cityscapes, folder, shapes, voc"),
        ("", "no data set ''"),
        ("", "For a folder of your own write folder:PATH"),
        ("/no/such/folder", "For a folder of your own write folder:PATH"),
        ("folder", "expected a path, folder:PATH"),
        ("camvid:", "expected a path, camvid:PATH"),
        ("shapes:here", "shapes takes no path"),
        ("shapes?colour=1", "shapes has no option 'colour'; its options: size, train, val, test"),
        ("camvid:x?void=1", "camvid has no option 'void'; its options: none"),
        ("shapes?size", "'size'; expected OPTION=VALUE"),
        ("shapes?size=64&size=65", "option size is there twice"),
        ("shapes?size=big", "size: got 'big', expected a whole number from 16"),
        ("shapes?size=3", "size: got '3'"),
        ("shapes?train=0", "train: got '0'"),
        ("shapes?train=-5", "train: got '-5'"),
        ("folder:x?void=red", "void: got 'red'"),
        ("folder:x?palette=red,blue", "palette: got 'red', expected a colour such as #ff8000"),
        ("folder:x?classes=a,,b", "classes: got 'a,,b'"),
        ("folder:x?coding=rgb", "coding: got 'rgb', expected auto, index or colour"),
        ("folder:x?masks=", "masks: got '', expected the name of a folder"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(spec: str, message: str) -> None:
    with pytest.raises(LabError) as error:
        parse_spec(spec, {})
    assert message in str(error.value)


def test_an_option_said_twice_in_two_ways_is_refused() -> None:
    with pytest.raises(LabError, match="size is also given apart"):
        open_dataset("shapes?size=64", "train", size=96)


def test_a_bare_folder_is_told_how_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"write folder:{tmp_path}"):
        available_splits(str(tmp_path))


def test_a_path_with_a_question_mark_is_told_how_to_be_written(tmp_path: Path) -> None:
    place = tmp_path / "what?now"
    place.mkdir()
    with pytest.raises(LabError, match=r"needs another at its end: folder:.*what\?now\?$"):
        parse_spec(f"folder:{place}", {})
    assert parse_spec(f"folder:{place}?", {})[1] == place


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_wrong_seed_is_refused(seed) -> None:
    with pytest.raises(LabError, match="data seed"):
        open_dataset("shapes", "train", seed=seed)


def test_an_unknown_split_is_told_which_there_are() -> None:
    with pytest.raises(LabError, match="no split 'holdout'; it has train, val, test"):
        open_dataset("shapes", "holdout")
