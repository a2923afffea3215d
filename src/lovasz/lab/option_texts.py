"""What is typed behind an option, read: "256x512", "0.5,2", "name=value". Each error names the option and an example.

Apart from the options, which are declarations alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lovasz.lab.errors import LabError
from lovasz.lab.weights_file import weights_in


def parse_data_options(pairs: Sequence[str] | None) -> dict[str, str]:
    """`["size=64", "void=255"]` -> `{"size": "64", "void": "255"}`; what a value means is for the data set to say."""
    values: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise LabError(f"--data-option {pair!r}: expected NAME=VALUE, for example --data-option void=255.")
        if name in values:
            raise LabError(f"--data-option {pair!r}: {name} is there twice; name each setting once.")
        values[name] = text
    return values


def weights_file(path: Path | None) -> Path | None:
    """`weights_in`, for Typer. Raises LabError."""
    try:
        return None if path is None else weights_in(path)
    except LabError as error:
        raise LabError(f"--weights {error}") from error


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`"384x512"` -> `(384, 512)` (height, width); `None` -> `None`. Raises LabError."""
    return None if text is None else parse_crop(text, "--size")


def ways_of_asking(weights: Path, size: str | None, scales: str | None, crf: bool) -> dict[str, Any]:
    """The options of `ask_as`; a network is asked at the size that is given, else at the one it was trained at."""
    from lovasz.lab.models import trained_size

    sides = trained_size(weights) if size is None else parse_size(size)
    return {"size": sides, "scales": parse_scales(scales), "crf": crf}


def parse_scales(text: str | None) -> tuple[float, ...] | None:
    """`"1,0.75,0.5"` -> those factors; `None` -> `None`. Raises LabError."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise LabError(f"--scales {text!r}: expected factors with commas between, such as 1,0.75,0.5.") from None


def parse_crop(text: str, option: str = "--crop") -> tuple[int, int] | None:
    """`"256x512"` -> `(256, 512)` (height, width); `"whole"` -> `None`. Raises LabError."""
    if text == "whole":
        return None
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX×,]\s*(\d{1,5})\s*", text)
    if not match or not all(0 < int(side) < 1 << 16 for side in match.groups()):
        raise LabError(
            f"{option} {text!r}: expected height x width in pixels, at most 65535, for example {option} 256x512."
        )
    return int(match[1]), int(match[2])


def parse_scale(text: str | None) -> tuple[float, float]:
    """`"0.5,2"` -> `(0.5, 2.0)`; `None` -> `(1.0, 1.0)`. Raises LabError."""
    if text is None:
        return 1.0, 1.0
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = float("nan")
    if not 0 < low <= high < float("inf"):
        raise LabError(f"--scale {text!r}: expected two positive factors, smaller first, for example --scale 0.5,2.")
    return low, high


def parse_seeds(text: str) -> tuple[int, ...]:
    """A count `"3"` -> `(0, 1, 2)`; a list `"7,"` or `"0,5,9"` -> those seeds. Raises LabError."""
    remedy = "expected how many, at most 1000 (--seeds 3), or a list of different whole numbers (--seeds 0,1,2 or 7,)."
    try:
        if "," not in text:
            seeds = tuple(range(int(text))) if int(text) <= 1000 else ()
        else:
            seeds = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        seeds = ()
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise LabError(f"--seeds {text!r}: {remedy}")
    return seeds


def parse_losses(text: str) -> tuple[str, ...]:
    """`"cross_entropy, lovasz_softmax"` -> the two names. Whether each is a loss is for `lovasz.lab.losses` to say."""
    losses = tuple(part.strip() for part in text.split(","))
    if not all(losses):
        raise LabError(f"--losses {text!r}: expected names with commas between, such as cross_entropy,lovasz_softmax.")
    twice = {loss for loss in losses if losses.count(loss) > 1}
    if twice:
        raise LabError(f"--losses {text!r}: {sorted(twice)[0]} is there twice; name each loss once.")
    return losses
