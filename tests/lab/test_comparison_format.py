"""A comparison folder that is wrong, cut short or hostile is refused with the field or the file named."""

import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from tests.lab.comparison_folder import comparison, content_of, draw_examples, set_at, write

from lovasz.lab.errors import LabError
from lovasz.lab.report import write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = comparison()
    draw_examples(tmp_path, content, count=2, size=(48, 36))
    return write(tmp_path, content)


def test_a_folder_without_a_comparison_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"comparison\.json: no such file"):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ['{"version": 1,', "", "[" * 100_000, '\udcff{"version": 1}'])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LabError, match=r"comparison\.json: not readable as JSON"):
        write_report(tmp_path)


@pytest.mark.parametrize("version", [2, None, "1", True])
def test_another_version_is_refused(tmp_path: Path, version: object) -> None:
    with pytest.raises(LabError, match=r"version is .*, expected 1"):
        write_report(write(tmp_path, comparison() | {"version": version}))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("losses", [], "losses: expected one or more different names"),
        ("losses", ["a", "a"], "losses: expected one or more different names"),
        ("dataset/classes", "road", "dataset.classes: expected a list"),
        ("dataset/palette", [[0, 0, 0]], "dataset.palette: expected one"),
        ("dataset/palette/0", [0, 0, 256], "dataset.palette[0][2]: expected a whole number from 0 to 255, got 256"),
        ("dataset/palette/0", [0, 0], "dataset.palette: expected one"),
        ("runs/4/loss", "other", 'runs[4].loss: "other" is none of'),
        ("runs/4/seed", 0, "runs[4]: the loss"),
        ("runs/4/seed", -1, "runs[4].seed: expected a whole number, 0 or more, got -1"),
        ("runs/4/scores", None, "runs[4].scores: expected an object, got null"),
        (
            "runs/4/scores/val/dataset_miou",
            57.4,
            "runs[4].scores.val.dataset_miou: expected a fraction from 0 to 1, got 57.4",
        ),
        ("runs/4/scores/val/image_miou", float("nan"), "runs[4].scores.val.image_miou: expected a fraction"),
        ("runs/4/scores/val/per_class_iou/road", "0.5", 'expected a fraction from 0 to 1, got "0.5"'),
        ("runs/4/history/2/val/per_class_iou", {"sea": 0.5}, 'runs[4].history[2].val.per_class_iou: "sea" is none of'),
        ("runs/4/seconds_per_step", float("inf"), "runs[4].seconds_per_step: expected a finite number of seconds"),
        ("runs/4/seconds", 10**400, "runs[4].seconds: expected a finite number of seconds"),
        ("seeds", [0, "1"], 'seeds[1]: expected a whole number, 0 or more, got "1"'),
        (
            "pretraining",
            [{"seed": 0, "scores": {"val": {"per_class_iou": {"sea": 1}}}}],
            'pretraining[0].scores.val.per_class_iou: "sea" is none of',
        ),
        ("initial/val", 3, "initial.val: expected an object, got 3"),
        ("initial/test/per_class_iou", {"sea": None, "ship": 0.1}, 'initial.test.per_class_iou: "ship" is none of'),
        ("examples/0/predictions", {"other": {"image": "x"}}, 'examples[0].predictions: "other" is none of'),
        ("examples/0/predictions/lovasz_softmax", {}, "image is missing"),
        ("examples/0/truth", None, "examples[0].truth: expected text, got null"),
        ("command", 5, "command: expected text, got 5"),
    ],
)
def test_a_wrong_field_is_named_with_what_stands_there(folder: Path, path: str, value: object, message: str) -> None:
    content = content_of(folder)
    set_at(content, path, value)
    with pytest.raises(LabError) as caught:
        write_report(write(folder, content))
    assert message in str(caught.value)
    assert "comparison.json" in str(caught.value)
    assert not (folder / "report.html").exists()


def test_a_missing_field_is_named(folder: Path) -> None:
    content = content_of(folder)
    del content["runs"][0]["history"][0]["epoch"]
    with pytest.raises(LabError, match=r"runs\[0\]\.history\[0\]\.epoch is missing"):
        write_report(write(folder, content))


@pytest.mark.parametrize(
    "relative",
    [
        "../secret.png",
        "/etc/hostname",
        "examples/../../secret.png",
        "",
        "a\0b",
        "..\\secret.png",
        "out/secret.png",
        "loop/a.png",
    ],
)
@pytest.mark.parametrize("field", ["examples/0/image", "examples/1/predictions/lovasz_softmax/image", "runs/0/weights"])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, relative: str, field: str) -> None:
    folder = tmp_path / "inner"
    content = comparison()
    draw_examples(folder, content, count=2, size=(8, 6))
    shutil.copy(folder / content["examples"][0]["image"], tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    set_at(content, field, relative)
    with pytest.raises(LabError, match="expected a path inside"):
        write_report(write(folder, content))


def png_of_size(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        lambda data: png_of_size(40_000, 40_000),
        lambda data: png_of_size(10_000, 10_000),
    ],
    ids=["cut", "empty", "svg", "bomb", "huge"],
)
def test_a_broken_picture_is_named(folder: Path, damage: Any) -> None:
    path = folder / content_of(folder)["examples"][0]["truth"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LabError, match=r"0.truth\.png: not readable as a PNG or JPEG picture"):
        write_report(folder)


def test_a_missing_picture_is_named(folder: Path) -> None:
    (folder / content_of(folder)["examples"][1]["predictions"]["lovasz_softmax"]["image"]).unlink()
    with pytest.raises(LabError, match=r"1.png: this picture is missing, but comparison\.json names it"):
        write_report(folder)


def test_a_report_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "report.html").mkdir()
    with pytest.raises(LabError, match=r"report\.html: cannot be written"):
        write_report(folder)
