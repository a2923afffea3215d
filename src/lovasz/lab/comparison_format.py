"""What `comparison.json` must look like, checked field by field before anything is made of it.

Apart from the report, because a file that a person may have edited, cut short or mixed up is hostile input: the
message names the field, what stands there and what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from lovasz.lab.errors import LabError

VERSION = 1
FILE_NAME = "comparison.json"
_LARGEST = 2**63  # JSON has integers that no float holds


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> TypeGuard[float]:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, float)


def _count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and _number(value) and value >= 0


def _fraction(value: object) -> bool:
    return _number(value) and 0 <= value <= 1  # NaN is no fraction


def _duration(value: object) -> bool:
    return _number(value) and math.isfinite(value) and value >= 0


def _byte(value: object) -> bool:
    return _count(value) and value <= 255


_EXPECTED: dict[Callable[[object], bool], str] = {
    _text: "text",
    _count: "a whole number, 0 or more",
    _number: "a number",
    _fraction: "a fraction from 0 to 1",
    _duration: "a finite number of seconds, 0 or more",
    _byte: "a whole number from 0 to 255",
}

# A field is a check, a list with the check of its elements, or an object; `?` marks one that may be null or absent.
_SCORES = dict.fromkeys(("dataset_miou?", "image_miou?", "batch_miou?", "pixel_accuracy?"), _fraction)
_SCORES |= {"per_class_iou?": dict}
_SPLITS = {"val?": _SCORES, "test?": _SCORES}
_COPIES = {"count": _count, "image": _text, "trained": _text}
_SCHEMA: dict[str, Any] = {
    "command": _text,
    "created": _text,
    "dataset": {
        "spec": _text,
        "name": _text,
        "classes": [_text],
        "palette": [[_byte]],
        "images": {"train?": _count, "val?": _count, "test?": _count},
        "absent?": {"train?": [_text], "val?": [_text], "test?": [_text]},
        "copies?": {"val?": _COPIES, "test?": _COPIES},
    },
    "model": _text,
    "parameters?": _count,
    "start?": {"kind": _text, "detail?": _text},
    "config?": dict,
    "environment?": dict,
    "initial?": _SPLITS,
    "losses": [_text],
    "seeds?": [_count],
    "pretraining?": [{"seed": _count, "scores?": _SPLITS}],
    "runs": [
        {
            "loss": _text,
            "seed": _count,
            "history": [{"epoch": _count, "train_loss?": _number, "learning_rate?": _number, "val?": _SCORES}],
            "scores": _SPLITS,
            "seconds_per_step?": _duration,
            "loss_seconds_per_step?": _duration,
            "epoch?": _count,
            "steps?": _count,
            "seconds?": _duration,
            "weights?": _text,
        }
    ],
    "examples": [
        {"name": _text, "image": _text, "truth": _text, "predictions": dict, "difference?": _number},
    ],
}
_PREDICTION = {"image": _text, "miou?": _fraction}


def read_comparison(folder: Path) -> dict[str, Any]:
    """Read and check `folder/comparison.json`; optional fields that are absent come back as None.

    Raises LabError when the file is missing, is not JSON, has another version, or a field is not what it must be.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise LabError(f"{path}: no such file. A report is made from the folder that `lovasz compare --out` wrote.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path}: not readable as JSON ({error}). Run `lovasz compare` again with --resume.") from None
    if not isinstance(content, dict):
        raise LabError(f"{path}: expected a JSON object, got {_show(content)}.")
    if content.get("version") != VERSION or isinstance(content["version"], bool):
        raise LabError(
            f"{path}: version is {_show(content.get('version'))}, expected {VERSION}. "
            "It was written by another version of lovasz: make the report with that one, or compare again."
        )
    try:
        _check(content, _SCHEMA, "")
        _check_links(content)
    except LabError as error:
        raise LabError(f"{path}: {error}") from None
    return content


def inside(folder: Path, relative: str, field: str) -> Path:
    """The path `relative` under `folder`; LabError when it is absolute or leads out of it, also by a link."""
    outside = LabError(f"{field} is {_show(relative)}, expected a path inside {folder}.")
    if not relative or "\0" in relative or "\\" in relative or PurePosixPath(relative).is_absolute():
        raise outside
    path = folder / relative
    try:
        resolved = path.resolve()
        looped = any(part.is_symlink() for part in (resolved, *resolved.parents))  # Python 3.13 leaves such links
        contained = not looped and resolved.is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name no file can have
        contained = False
    if not contained:
        raise outside
    return path


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, list):
        if not isinstance(value, list):
            raise LabError(f"{where}: expected a list, got {_show(value)}.")
        for index, element in enumerate(value):
            _check(element, schema[0], f"{where}[{index}]")
    elif isinstance(schema, dict):
        _check(value, dict, where or "the file")
        for key, inner in schema.items():
            name = key.removesuffix("?")
            field = f"{where}.{name}" if where else name
            if value.get(name) is None and key.endswith("?"):
                value[name] = None
            elif name not in value:
                raise LabError(f"{field} is missing.")
            else:
                _check(value[name], inner, field)
    elif schema is dict:
        if not isinstance(value, dict):
            raise LabError(f"{where}: expected an object, got {_show(value)}.")
    elif not schema(value):
        raise LabError(f"{where}: expected {_EXPECTED[schema]}, got {_show(value)}.")


def _check_links(content: dict[str, Any]) -> None:
    """What one field says about another: classes and palette, runs and losses, scores and classes."""
    classes, losses, palette = content["dataset"]["classes"], content["losses"], content["dataset"]["palette"]
    for field, names in (("dataset.classes", classes), ("losses", losses)):
        if not names or len(set(names)) != len(names):
            raise LabError(f"{field}: expected one or more different names, got {_show(names)}.")
    for split, names in (content["dataset"]["absent"] or {}).items():
        for name in names or ():
            _known(name, classes, f"dataset.absent.{split}")
    if len(palette) != len(classes) or any(len(colour) != 3 for colour in palette):
        raise LabError(f"dataset.palette: expected one [red, green, blue] for each of the {len(classes)} classes.")
    seen = set()
    for index, run in enumerate(content["runs"]):
        where = f"runs[{index}]"
        key = _known(run["loss"], losses, f"{where}.loss"), run["seed"]
        if key in seen:
            raise LabError(f"{where}: the loss {_show(key[0])} with seed {key[1]} is there twice.")
        seen.add(key)
        scores = {f"{where}.scores.{split}": run["scores"][split] for split in ("val", "test")}
        scores |= {f"{where}.history[{i}].val": entry["val"] for i, entry in enumerate(run["history"])}
        _check_classes(scores, classes)
    starts = {f"pretraining[{i}].scores": entry["scores"] for i, entry in enumerate(content["pretraining"] or [])}
    for where, scores in ({"initial": content["initial"]} | starts).items():
        if scores:
            _check_classes({f"{where}.{split}": scores[split] for split in ("val", "test")}, classes)
    for index, example in enumerate(content["examples"]):
        for loss, prediction in example["predictions"].items():
            where = f"examples[{index}].predictions"
            _check(prediction, _PREDICTION, f"{where}[{_show(_known(loss, losses, where))}]")


def _check_classes(scores: dict[str, Any], classes: list[str]) -> None:
    for where, score in scores.items():
        for name, iou in ((score and score["per_class_iou"]) or {}).items():
            field = f"{where}.per_class_iou"
            if iou is not None:
                _check(iou, _fraction, f"{field}[{_show(_known(name, classes, field))}]")


def _known(name: str, names: list[str], where: str) -> str:
    if name not in names:
        raise LabError(f"{where}: {_show(name)} is none of {_show(names)}.")
    return name


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
