"""Losses of other libraries, each held against its own definition in float64 first; a wrong value is not timed."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import contestants, formulas, inputs
from benchmarks.checks import Loss, fault
from benchmarks.contestants import Contestant
from benchmarks.settings import Settings
from benchmarks.tables import beside_slow, table


@dataclass(frozen=True)
class Library:
    """One loss of a library: how to build it, and what it says it computes (None: no Lovász loss, nothing to hold)."""

    package: str
    title: str
    build: Callable[[], Loss]
    formula: Loss | None
    says: str

    def version(self) -> str:
        """The installed version; empty if it is not installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""


def run(settings: Settings) -> dict[str, Any]:
    """Multi-class and binary losses beside ours on the same input."""
    scores, target = inputs.multiclass(settings.size(4, 2), 21, settings.size(512))
    ours = [
        contestants.cross_entropy(),
        contestants.softmax(),
        Contestant("lovasz_softmax, per image, all classes", _ours_per_image, _formula_per_image_all),
    ]
    found = _tables(MULTICLASS, ours, scores, target, settings)
    scores, target = inputs.binary(settings.size(8, 2), settings.size(512, 96))
    ours = [contestants.binary_cross_entropy(), contestants.hinge(), contestants.hinge_per_image()]
    return {"tables": [*found, *_tables(BINARY, ours, scores, target, settings)]}


def _tables(
    libraries: list[Library], ours: list[Contestant], scores: Tensor, target: Tensor, settings: Settings
) -> list[dict[str, Any]]:
    right, notes = [], []
    small = inputs.corner(scores, target)
    for library in libraries:
        contestant, note = judged(library, *small)
        if contestant is None:
            notes.append({"name": library.title, "note": note})
        else:
            right.append(contestant)
    label = inputs.shape(scores)
    found = [table(label, ours, scores, target, settings), beside_slow(label, ours, right, scores, target, settings)]
    found[-1]["rows"] += notes
    found[-1]["note"] = " ".join(f"{library.title}: {library.says}." for library in libraries)
    return found


def judged(library: Library, scores: Tensor, target: Tensor) -> tuple[Contestant | None, str]:
    """The contestant if it may be timed; else why not: not installed, or wrong and by how much."""
    version = library.version()
    if not version:
        return None, f"not measured: {library.package} is not installed"
    loss = library.build()
    name = f"{library.title} {version}"
    if library.formula is not None:
        wrong = fault(loss, library.formula, scores, target)
        if wrong:
            return None, f"version {version} is wrong by its own definition ({wrong}), so its time is not given"
    return Contestant(name, loss, library.formula), ""


def _ours_per_image(scores: Tensor, target: Tensor) -> Tensor:
    from lovasz import lovasz_softmax

    return lovasz_softmax(scores, target, per_image=True, classes="all")


_formula_per_image_all = contestants.per_image(functools.partial(formulas.softmax_by_class, absent=True))


def _kornia_softmax() -> Loss:
    return importlib.import_module("kornia.losses").lovasz_softmax_loss


def _kornia_hinge() -> Loss:
    loss = importlib.import_module("kornia.losses").lovasz_hinge_loss
    return lambda scores, target: loss(scores[:, None], target)


def _smp(mode: str) -> Loss:
    make_torchvision_importable()
    return importlib.import_module("segmentation_models_pytorch.losses").LovaszLoss(mode)


def _monai(**options: bool) -> Loss:
    # MONAI imports tensorboard, and that TensorFlow, its threads and messages, unless a module of this name is there.
    if "tensorflow" not in sys.modules:
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    loss = importlib.import_module("monai.losses").DiceLoss(**options)
    return lambda scores, target: loss(scores, target[:, None])


def _monai_binary() -> Loss:
    loss = _monai(sigmoid=True)
    return lambda scores, target: loss(scores[:, None], target)


MULTICLASS = [
    Library(
        "segmentation-models-pytorch",
        "segmentation_models_pytorch LovaszLoss",
        functools.partial(_smp, "multiclass"),
        formulas.softmax_by_class,
        "the batch as one set, present classes, as ours by default",
    ),
    Library(
        "kornia",
        "kornia lovasz_softmax_loss",
        _kornia_softmax,
        _formula_per_image_all,
        "per image, all classes, to be read beside our row with those options",
    ),
    Library(
        "monai",
        "MONAI DiceLoss",
        functools.partial(_monai, softmax=True, to_onehot_y=True),
        None,
        "no Lovász loss, the usual alternative",
    ),
]
BINARY = [
    Library(
        "segmentation-models-pytorch",
        "segmentation_models_pytorch LovaszLoss",
        functools.partial(_smp, "binary"),
        formulas.hinge,
        "the hinge over the batch",
    ),
    Library("kornia", "kornia lovasz_hinge_loss", _kornia_hinge, contestants.per_image(formulas.hinge), "per image"),
    Library("monai", "MONAI DiceLoss", _monai_binary, None, "no Lovász loss, the usual alternative"),
]

_DEFINED: list[torch.library.Library] = []  # a definition ends with its Library object


def make_torchvision_importable() -> None:
    """Import torchvision; where its operators were built for another build of torch, declare the two it asks for.

    Its wheel on the package index does not load beside the CPU build of torch, and its Python part then stops at
    operators that no loss uses. Declared, they import; called, they raise.
    """
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DEFINED.append(operators)
    importlib.import_module("torchvision")
