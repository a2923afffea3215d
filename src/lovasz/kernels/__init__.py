"""The only place that decides which kernel computes a loss: ``choose``.

Nothing here imports numba or triton before one of them is needed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass
from types import ModuleType

import torch
from torch._guards import detect_fake_mode

from lovasz.choices import METHODS, SMALL, require_choice
from lovasz.kernels import exact, portable
from lovasz.sharing import NEEDS_BINS

IMPLS = ("auto", "torch", "numba", "triton")

# With per_image, each image and class has bins of its own. Up to so many pixels these cost more than a sort: of the
# kernels that are made for it, and of the one in plain torch.
SMALL_IMAGE, SMALL_IMAGE_IN_TORCH = 256, 4096

# Up to so many errors that are ordered together Numba's sort costs less than bins; in all, for its memory. Images of so
# few pixels, each with its own loss, have less memory sorted than in bins, however many there are.
SORTED_TOGETHER, SORTED, SORTED_IMAGE = 1 << 16, 1 << 22, 1 << 14

# These check the labels while they count.
CHECK_LABELS = ("cpu", "operator", "sorted", "sorted_operator", "gpu")


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # someone keeps it from being found
        return False


TRITON_NEEDED = 3, 3  # the first whose language has tuples; it comes with torch 2.7


def _too_old() -> str:
    """What is wrong with the version of Triton that is installed; or empty."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # there is none, or a build under another name
        return ""
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= TRITON_NEEDED:
        return ""
    needed = ".".join(map(str, TRITON_NEEDED))
    return f"triton {version} is too old, the kernel needs {needed}, which comes with torch 2.7: pip install -U torch"


# Here, for torch.compile cannot follow the search.
_NUMBA_INSTALLED = _installed("numba")
_TRITON_TOO_OLD = _too_old()


@dataclass(frozen=True)
class Choice:
    """Which kernel runs: its module name in ``lovasz.kernels``, and why."""

    kernel: str
    reason: str


@functools.cache
def numba_problem() -> str:
    """Empty if the Numba kernel can run, else what is missing and the remedy. Imports numba."""
    if not _installed("numba"):
        return 'numba is not installed; pip install "lovasz[cpu]"'
    try:
        importlib.import_module("numba")
    except (ImportError, AttributeError, OSError, RuntimeError, SystemError) as error:  # a NumPy that does not suit it
        return f'numba is installed but cannot be imported ({error}); pip install --upgrade "lovasz[cpu]"'
    return ""


def transform_around() -> str:
    """The transform of torch.func, forward-mode differentiation or torch.jit.trace that this runs inside, in words for
    a message, none of which can see into the binned kernels; or empty."""
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportAttributeAccessIssue]
        return "inside torch.func: grad, vmap and their like"
    if torch.compiler.is_compiling():
        return ""
    if torch.autograd.forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateImportUsage]
        return "inside forward-mode differentiation, which"
    return "inside torch.jit.trace, which" if torch._C._is_tracing() else ""


def _vmapped() -> bool:
    """Whether torch.vmap is at work: it knows no in-place sum into bins that are shared by the samples."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    stack = functorch.get_interpreter_stack() or []
    return any(level.key() == functorch.TransformType.Vmap for level in stack)


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, number by number, for tests: it reads the variable when imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_problem() -> str:
    """Empty if the Triton kernel can run, else what is missing and the remedy."""
    if not _installed("triton"):
        return 'triton is not installed; pip install "lovasz[gpu]" (Linux)'
    if _TRITON_TOO_OLD:
        return _TRITON_TOO_OLD
    if interpreted():
        return ""
    if not torch.cuda.is_available() or torch.version.hip:
        return "it needs an NVIDIA GPU that torch can use, and there is none"
    return ""


def available() -> dict[str, str]:
    """Each implementation and what keeps it from running here; an empty string means that it can run."""
    return {
        "torch": "",
        "numba": numba_problem(),
        "triton": triton_problem(),
    }


def choose(
    method: str,
    impl: str,
    device: torch.device,
    errors: int,
    *,
    classes: int = 1,
    image: int | None = None,
    dtype: torch.dtype = torch.float32,
    shared: bool = False,
) -> Choice:
    """Pick the kernel for one call.

    Args:
        method: "exact" sorts, "binned" bins.
        impl: "auto", or an explicit "torch", "numba" or "triton", which never falls back.
        device: where the input lies.
        errors: number of errors, pixels times classes.
        classes: of them, each of which is ordered apart.
        image: pixels of one image where each has its own loss, else None.
        dtype: of the input.
        shared: whether several processes add up their counts, for which only bins will do.

    Raises:
        ValueError: unknown name, an impl that cannot do what is asked, or a device it does not serve.
        ImportError: an impl whose package is not installed.
    """
    require_choice("method", method, METHODS)
    require_choice("impl", impl, IMPLS)
    around = transform_around()
    if around and shared and method == "binned":
        raise ValueError(
            "group: the counts of several processes cannot be followed by torch.func, forward-mode differentiation or "
            "torch.jit.trace; call backward() instead, or leave group out"
        )
    if around and (impl in ("numba", "triton") or (impl == "torch" and method == "binned" and _vmapped())):
        raise ValueError(
            f"impl={impl!r} cannot run inside torch.func's transforms, forward-mode differentiation or "
            "torch.jit.trace; use impl='auto', which sorts there"
        )
    if method == "exact":
        return _exact(impl, device, errors, dtype, shared, bool(around))
    if impl == "triton":
        if _TRITON_TOO_OLD or (not torch.compiler.is_compiling() and importlib.util.find_spec("triton") is None):
            raise ImportError(f"impl='triton': {_TRITON_TOO_OLD or triton_problem()}")
        if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
            raise ValueError(f"impl='triton' needs tensors on a CUDA device, got {device}; use impl='torch' or 'auto'")
        return Choice("gpu", "asked for by impl='triton'")
    if impl == "numba":
        _require_cpu(device)
        if torch.compiler.is_compiling() and _NUMBA_INSTALLED and not shared:
            return Choice("operator", "asked for by impl='numba', inside torch.compile")
        if numba_problem():
            raise ImportError(f"impl='numba': {numba_problem()}")
        return Choice("cpu", "asked for by impl='numba'")
    if impl == "torch":
        return Choice("portable", "asked for by impl='torch'")
    if around:
        return Choice("exact", f"{around} can follow a sort")
    if errors <= SMALL and not shared:
        # Under torch.compile the number may be symbolic, which no text can hold.
        count = "" if torch.compiler.is_compiling() else f"{errors:,} errors, "
        return Choice("exact", f"small input ({count}at most {SMALL:,}): a sort is as quick, and exact")
    choice = _binned(device, shared)
    together = errors // classes if image is None else image
    if (
        choice.kernel in ("cpu", "operator")
        and together <= SORTED_TOGETHER
        and (errors <= SORTED or (image is not None and image <= SORTED_IMAGE))
        and _sorts(dtype, errors)
        and not shared
    ):
        if choice.kernel == "operator":
            return Choice("sorted_operator", "inside torch.compile: the sort of few errors, as one operator")
        return Choice(
            "sorted", f"{together:,} errors to order together, at most {SORTED_TOGETHER:,}: a sort is quicker than bins"
        )
    if image is not None and image <= (SMALL_IMAGE_IN_TORCH if choice.kernel == "portable" else SMALL_IMAGE):
        return Choice("exact", "small images, each with its own loss: a sort is quicker than bins for each, and exact")
    return choice


def _exact(impl: str, device: torch.device, errors: int, dtype: torch.dtype, shared: bool, around: bool) -> Choice:
    """The kernel that sorts inputs of this device."""
    if shared:
        raise ValueError(NEEDS_BINS)
    if impl == "triton":
        raise ValueError("impl='triton' bins, it cannot sort; use impl='torch' or 'auto' with method='exact'")
    if impl == "numba":
        _require_cpu(device)
        if not _sorts(dtype, errors):
            raise ValueError(
                f"impl='numba' sorts no float64 and at most {1 << 31:,} errors, got {errors:,} of {dtype}; "
                "use impl='torch' or 'auto' with method='exact'"
            )
        if torch.compiler.is_compiling():
            raise ValueError("impl='numba' cannot sort inside torch.compile; use impl='torch' or 'auto' there")
        if numba_problem():
            raise ImportError(f"impl='numba': {numba_problem()}")
        return Choice("sorted", "asked for by impl='numba' and method='exact'")
    if (
        impl == "torch"
        or around
        or errors <= SMALL
        or not _sorts(dtype, errors)
        or _binned(device, False).kernel != "cpu"
    ):
        return Choice("exact", "method='exact' sorts")
    return Choice("sorted", "method='exact' sorts; CPU tensors and numba is installed")


def _sorts(dtype: torch.dtype, errors: int) -> bool:
    """Whether Numba's sort takes so many errors of this type: it packs a key of 32 bits with a position of 31."""
    return dtype != torch.float64 and errors < 1 << 31


def _require_cpu(device: torch.device) -> None:
    if device.type != "cpu":
        raise ValueError(f"impl='numba' needs tensors on the CPU, got {device}; use impl='torch' or 'auto'")


def _binned(device: torch.device, shared: bool) -> Choice:
    """The kernel that bins inputs of this device."""
    if device.type == "cuda" and not _TRITON_TOO_OLD and (torch.compiler.is_compiling() or not triton_problem()):
        return Choice("gpu", "CUDA tensors and triton is installed")
    if device.type == "cuda" and not torch.compiler.is_compiling():
        return Choice("portable", f"CUDA tensors, but the Triton kernel cannot run: {triton_problem()}")
    if device.type == "cpu" and torch.compiler.is_compiling() and _NUMBA_INSTALLED and not shared:
        return Choice("operator", "inside torch.compile: the Numba kernel as one operator")
    if torch.compiler.is_compiling():
        return Choice("portable", "inside torch.compile: bins in plain torch operations keep one graph")
    if device.type == "cpu" and torch._C._len_torch_dispatch_stack() and detect_fake_mode() is not None:
        return Choice("portable", "inside FakeTensorMode, where tensors have no values: plain torch operations")
    if device.type == "cpu" and not numba_problem():
        return Choice("cpu", "CPU tensors and numba is installed")
    if device.type == "cpu":
        return Choice("portable", f"CPU tensors, but {numba_problem()} for the fast kernel")
    return Choice("portable", f"device {device.type}: bins in plain torch operations")


def load(choice: Choice) -> ModuleType:
    """The kernel's module, whose ``loss`` computes; those that need more than torch are imported when first needed."""
    if choice.kernel == "exact":
        return exact
    if choice.kernel == "portable":
        return portable
    if choice.kernel == "gpu":
        import lovasz.kernels.gpu as gpu  # this form torch.compile follows

        return gpu
    if choice.kernel == "operator":
        import lovasz.kernels.cpu.operator as operator

        return operator
    if choice.kernel == "sorted_operator":
        import lovasz.kernels.cpu.sorted_operator as sorted_operator

        return sorted_operator
    if choice.kernel == "sorted":
        return importlib.import_module("lovasz.kernels.cpu.sorting")
    return importlib.import_module("lovasz.kernels.cpu")
