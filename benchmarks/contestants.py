"""Who is measured: the yardsticks, the authors' formula plain and compiled, and ours in each way of computing."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import lovasz
from benchmarks import formulas
from benchmarks.checks import Loss


@dataclass(frozen=True)
class Contestant:
    """A loss by name, and the definition that its result is held against in float64 (None: not a Lovász loss)."""

    name: str
    loss: Loss
    formula: Loss | None = None

    @property
    def ours(self) -> bool:
        """Whether it is a loss of this package, not a yardstick or a rival."""
        return self.name.startswith("lovasz_")


def cross_entropy() -> Contestant:
    """The yardstick of multi-class losses."""
    return Contestant("F.cross_entropy", F.cross_entropy)


def binary_cross_entropy() -> Contestant:
    """The yardstick of binary losses; its conversion of the labels to floats is part of the call, as in training."""
    return Contestant(
        "F.binary_cross_entropy_with_logits", lambda z, t: F.binary_cross_entropy_with_logits(z, t.to(z.dtype))
    )


def softmax() -> Contestant:
    """Ours as a person calls it."""
    return Contestant("lovasz_softmax", lovasz.lovasz_softmax, formulas.softmax_by_class)


def softmax_ways() -> list[Contestant]:
    """Ours, each way of computing it by name; those that take seconds."""
    ways: dict[str, Loss] = {
        "lovasz_softmax, impl='torch'": functools.partial(lovasz.lovasz_softmax, impl="torch"),
        "lovasz_softmax, method='exact'": functools.partial(lovasz.lovasz_softmax, method="exact"),
        "lovasz_softmax, method='exact', impl='torch'": functools.partial(
            lovasz.lovasz_softmax, method="exact", impl="torch"
        ),
    }
    return [Contestant(name, loss, formulas.softmax_by_class) for name, loss in ways.items()]


def with_cross_entropy() -> list[Contestant]:
    """Both losses together: one after the other, and in one pass where this version has it."""

    def formula(scores: Tensor, target: Tensor) -> Tensor:
        return formulas.softmax_by_class(scores, target) + F.cross_entropy(scores, target)

    def apart(scores: Tensor, target: Tensor) -> Tensor:
        return lovasz.lovasz_softmax(scores, target) + F.cross_entropy(scores, target)

    found = [Contestant("lovasz_softmax + F.cross_entropy", apart, formula)]
    together: Loss | None = getattr(lovasz, "lovasz_cross_entropy", None)
    if together is not None:
        found.insert(0, Contestant("lovasz_cross_entropy", together, formula))
    return found


def hinge() -> Contestant:
    """Ours over the whole batch."""
    return Contestant("lovasz_hinge", functools.partial(lovasz.lovasz_hinge, per_image=False), formulas.hinge)


def hinge_per_image() -> Contestant:
    """Ours as called by default: the mean over images."""
    return Contestant("lovasz_hinge, per image", lovasz.lovasz_hinge, per_image(formulas.hinge))


def sigmoid() -> Contestant:
    """Ours as called by default: over the whole batch."""
    return Contestant("lovasz_sigmoid", lovasz.lovasz_sigmoid, formulas.sigmoid)


def authors_softmax() -> Contestant:
    """The authors' way: a sort per class."""
    return Contestant("authors' formula", formulas.softmax_by_class, formulas.softmax_by_class)


def authors_compiled() -> tuple[Contestant | None, str]:
    """The same with the work of a class under torch.compile, and, where that cannot be, why."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return None, "torch.compile needs a C++ compiler, and none was found"
    one_class: Callable[[Tensor, Tensor], Tensor] = torch.compile(formulas.of_one_class, dynamic=False)
    loss = functools.partial(formulas.softmax_by_class, one_class=one_class)
    return Contestant("authors' formula, torch.compile", loss, formulas.softmax_by_class), ""


def authors_hinge() -> Contestant:
    """The authors' binary loss, over the whole batch."""
    return Contestant("authors' hinge formula", formulas.hinge, formulas.hinge)


def per_image(formula: Loss) -> Loss:
    """The mean of a batch loss over single images."""

    def mean(scores: Tensor, target: Tensor) -> Tensor:
        return torch.stack([formula(z[None], t[None]) for z, t in zip(scores, target, strict=True)]).mean()

    return mean
