"""What the `architecture` of another library's network says: checked before a library is asked, as it may be a file's.

Apart from ``hub.py``, which builds the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lovasz.lab.errors import LabError

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ONE_SIZE = ("beit", "data2vec-vision", "dpt", "tipsv2_dpt")  # of transformers: take images of config.image_size alone
FIELDS: dict[str, type] = {"name": str, "encoder": str, "config": Mapping, "input": Mapping}


def checked(architecture: Any, libraries: Sequence[str]) -> dict[str, Any]:
    """The architecture, where its parts are of the kinds that the builders take. Raises LabError naming what is not."""
    library = architecture.get("library") if isinstance(architecture, Mapping) else None
    if not isinstance(library, str) or library not in libraries:
        raise LabError(
            f'"architecture": got {str(architecture)[:80]!r}, expected a library out of {", ".join(libraries)}.'
        )
    for field, kind in FIELDS.items():
        value = architecture.get(field)
        if value is not None and not isinstance(value, kind):
            expected = "text" if kind is str else "an object"
            raise LabError(f'"architecture": its {field} is {str(value)[:80]!r}, expected {expected}.')
    return dict(architecture)


def input_scaling(architecture: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of the input; ImageNet's where nothing is said. Raises LabError."""
    given = architecture.get("input") or {}
    return (
        _three("mean", given.get("mean"), IMAGENET_MEAN, -math.inf),
        _three("standard deviation", given.get("std"), IMAGENET_STD, 0.0),
    )


def _three(name: str, given: Any, default: list[float], above: float) -> list[float]:
    values = default if given is None else given
    if isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values):
        numbers = [float(value) for value in values]
        if all(math.isfinite(number) and number > above for number in numbers):
            return numbers
    positive = " above 0" if above == 0 else ""
    raise LabError(f"{name} of the input: got {values!r}, expected three finite numbers{positive}.")


def one_size(architecture: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the images that the network takes; None for any. Raises LabError."""
    config = architecture.get("config") or {}
    side = config.get("image_size")
    if config.get("model_type") not in ONE_SIZE or not side:
        return None
    sides = tuple(side) if isinstance(side, list | tuple) else (side, side)
    if len(sides) != 2 or not all(isinstance(length, int) and length > 0 for length in sides):
        raise LabError(f"image_size of the configuration: got {side!r}, expected a whole number above 0, or two.")
    return sides
