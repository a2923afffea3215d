"""lovasz: IoU losses for segmentation, on large inputs at the price of cross-entropy. The public names, nothing else.

They are loaded when first asked for, so that `lovasz.jax` and its like need not wait for PyTorch.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lovasz import baselines as baselines
    from lovasz import cityscapes as cityscapes
    from lovasz import compat as compat
    from lovasz import functional as functional
    from lovasz import metrics as metrics
    from lovasz import modules as modules
    from lovasz import sampling as sampling
    from lovasz import set_functions as set_functions
    from lovasz.functional import lovasz_cross_entropy, lovasz_extension, lovasz_hinge, lovasz_sigmoid, lovasz_softmax
    from lovasz.memory import release_memory
    from lovasz.modules import LovaszCrossEntropyLoss, LovaszHingeLoss, LovaszSigmoidLoss, LovaszSoftmaxLoss
    from lovasz.sampling import EquibatchSampler

__version__ = "0.1.0"

__all__ = [
    "EquibatchSampler",
    "LovaszCrossEntropyLoss",
    "LovaszHingeLoss",
    "LovaszSigmoidLoss",
    "LovaszSoftmaxLoss",
    "lovasz_cross_entropy",
    "lovasz_extension",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "lovasz_softmax",
    "release_memory",
]

# Found as attributes too, without an import of their own: ``import lovasz; lovasz.metrics.DatasetIoU``.
_MODULES = ("baselines", "compat", "functional", "modules", "sampling", "set_functions")
_MODULES_OF_EXTRAS = {  # with the package that each needs
    **dict.fromkeys(("cityscapes", "metrics"), "torchmetrics"),
    **dict.fromkeys(("compat_tensorflow", "tensorflow"), "tensorflow"),
    **{name: name for name in ("jax", "keras")},
}


def _named(name: str) -> Any:
    """A public name, from the module that has it, or a public module (PEP 562)."""
    if name in _MODULES or name in _MODULES_OF_EXTRAS:
        return importlib.import_module(f"lovasz.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lovasz import functional, memory, modules, sampling

    home = next(module for module in (functional, modules, sampling, memory) if hasattr(module, name))
    globals()[name] = value = getattr(home, name)
    return value


if not TYPE_CHECKING:  # a type checker would take any name for one of ours
    __getattr__ = _named


def __dir__() -> list[str]:
    """The names that a shell completes, and that help() imports: none whose package is not installed."""
    usable = (name for name, package in _MODULES_OF_EXTRAS.items() if importlib.util.find_spec(package) is not None)
    return sorted({"__version__", *__all__, *_MODULES, *usable})
