"""What may be chosen by name or by number, and its checks, for torch and for the ports alike: no array is seen here.

Apart from `lovasz.validation`, which checks torch tensors, so that the ports need no torch for it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, TypeVar

Classes = Literal["present", "all"] | Sequence[int]
Method = Literal["binned", "exact"]
Impl = Literal["auto", "torch", "numba", "triton"]
Activation = Literal["relu", "elu"]
Chosen = TypeVar("Chosen", bound=str | None)

METHODS = ("binned", "exact")
ACTIVATIONS = ("relu", "elu")
# Up to this many errors (pixels times classes) a sort is as quick as bins in any framework, and it is exact.
SMALL = 16384


def require_choice(name: str, value: Chosen, choices: Sequence[str]) -> Chosen:
    """``value``; raise ValueError unless it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def plain_classes(classes: Classes) -> Literal["present", "all"] | tuple[int, ...]:
    """``classes`` as "present", "all" or a tuple of different ints, checked without knowing how many there are."""
    if isinstance(classes, str):
        if classes not in ("present", "all"):
            raise ValueError(f'classes must be "present", "all" or a list of class indices, got {classes!r}')
        return classes
    try:
        chosen = tuple(_index(c) for c in classes)
    except (TypeError, ValueError, AttributeError):  # the last from a truth value of TensorFlow's
        raise TypeError(f'classes must be "present", "all" or a list of class indices, got {classes!r}') from None
    if not chosen:
        raise ValueError("classes is an empty list; name at least one class")
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"classes names a class twice: {list(chosen)}")
    return chosen


def _index(label: Any) -> int:
    """A mask of classes is no list of them: True would be class 1."""
    if isinstance(label, bool) or "bool" in str(getattr(label, "dtype", "")):  # of any library
        raise TypeError
    return operator.index(label)


def unordered(weight: Any) -> bool:
    """Whether class weights come as a dictionary or a set: a loop would take the keys, in any order, for weights."""
    return isinstance(weight, Mapping | Set)


def resolve_classes(classes: Classes, num_classes: int) -> tuple[bool, tuple[int, ...] | None]:
    """Turn ``classes`` into (only those present, chosen indices or None for every class)."""
    chosen = plain_classes(classes)
    if isinstance(chosen, str):
        return chosen == "present", None
    for c in chosen:
        if not 0 <= c < num_classes:
            raise ValueError(f"classes names class {c}, but input has {num_classes} classes (0 to {num_classes - 1})")
    return False, chosen
