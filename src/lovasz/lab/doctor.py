"""What this machine has and what the library makes of it: versions, devices, which kernel computes the loss for which
input and why, and whether each kernel gives the right answer here. Works with the bare library; prints with rich."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata

import torch
from rich.console import Console
from rich.text import Text

from lovasz import kernels
from lovasz.functional import lovasz_softmax
from lovasz.lab.console import new_table, print_table
from lovasz.lab.environment import describe_environment

PACKAGES = {  # package: (what for, how to get it)
    "lovasz": ("", ""),
    "torch": ("", ""),
    "numpy": ("", ""),
    "numba": ("the fast kernel on CPUs", 'pip install "lovasz[cpu]"'),
    "triton": ("the fast kernel on NVIDIA GPUs", 'pip install "lovasz[gpu]"'),
    "torchmetrics": ("metrics", 'pip install "lovasz[lab]"'),
    "lightning": ("training", 'pip install "lovasz[lab]"'),
    "tensorboard": ("--logger tensorboard", 'pip install "lovasz[lab]"'),
    "plotly": ("the report", 'pip install "lovasz[lab]"'),
    "jinja2": ("the report", 'pip install "lovasz[lab]"'),
    "safetensors": ("weights", 'pip install "lovasz[lab]"'),
    "pillow": ("images", 'pip install "lovasz[lab]"'),
}
# By the names that impl= takes, as the other tables have them.
IMPL_OF = {
    "exact": "torch, sorts",
    "portable": "torch",
    "cpu": "numba",
    "operator": "numba",
    "sorted": "numba, sorts",
    "sorted_operator": "numba, sorts",
    "gpu": "triton",
}
SMALL, MEDIUM, LARGE = (2, 5, 32, 32), (2, 21, 128, 128), (4, 21, 512, 512)
# Relative. Bins alone make about 1e-3 in the gradient of this small input; a faulty kernel is off by far more.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 5e-3


@dataclass(frozen=True)
class Check:
    """One kernel against the exact one on one random input; the differences are relative (L2 for the gradient).

    impl: as in IMPL_OF.
    """

    impl: str
    device: str
    loss_difference: float
    gradient_difference: float
    failure: str = ""

    @property
    def right(self) -> bool:
        return (
            not self.failure
            and self.loss_difference <= LOSS_TOLERANCE
            and self.gradient_difference <= GRADIENT_TOLERANCE
        )


@dataclass
class Examination:
    """Everything that `lovasz doctor` shows, as plain values."""

    versions: dict[str, str | None]
    devices: dict[str, str]
    threads: str
    kernels: dict[str, str]
    choices: list[tuple[str, str, str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every kernel that is usable here gives the right answer."""
        return all(check.right for check in self.checks)


def examine() -> Examination:
    """Look at this machine. Nothing is installed or changed; a few small losses are computed."""
    versions = {name: _version(name) for name in PACKAGES}
    found = Examination(versions, devices(), threads(), kernels.available())
    found.choices = list(_choices(found.devices))
    found.checks = [_check(*way) for way in _usable(found)]
    found.remedies = list(_remedies(found))
    return found


def devices() -> dict[str, str]:
    """torch's name of each device that is usable here -> what it is."""
    processor = describe_environment(torch.device("cpu"))["processor"]
    found = {"cpu": f"{processor}, {os.cpu_count()} logical cores"}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(number).total_memory / 2**30
            found[f"cuda:{number}"] = f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def threads() -> str:
    """How many threads torch uses, and the environment variables that may hold it back."""
    limits = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if name in os.environ]
    return f"{torch.get_num_threads()}" + (f" ({', '.join(limits)})" if limits else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _choices(found: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(input, kernel, reason) for the default method. Of float32; float64 may be binned where this is sorted."""
    for device in ("cpu", "cuda", "mps"):
        here = "" if any(name.startswith(device) for name in found) else " (none here)"
        for size, shape in (("small", SMALL), ("medium", MEDIUM), ("large", LARGE)):
            if size == "medium" and device != "cpu":
                continue  # there as large ones
            choice = kernels.choose("binned", "auto", torch.device(device), math.prod(shape), classes=shape[1])
            yield f"{device}{here}, {size}: {' x '.join(map(str, shape))}", IMPL_OF[choice.kernel], choice.reason


def _usable(found: Examination) -> Iterator[tuple[str, str, str]]:
    """(impl, device, method) of all that can be asked for here but what the others are compared with."""
    for impl, problem in found.kernels.items():
        if problem:
            continue
        for device in found.devices:
            if (impl == "numba" and device != "cpu") or (impl == "triton" and not device.startswith("cuda")):
                continue
            yield impl, device, "binned"
            if impl == "numba":
                yield impl, device, "exact"


def _check(impl: str, device: str, method: str) -> Check:
    name = IMPL_OF["sorted"] if method == "exact" else impl
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 21, 64, 64, generator=generator)
    target = torch.randint(21, (2, 64, 64), generator=generator)
    target[:, :4] = 255  # void
    try:
        loss, gradient = _loss_and_gradient(logits.double(), target, method="exact", impl="torch")
        own_loss, own_gradient = _loss_and_gradient(logits.to(device), target.to(device), method=method, impl=impl)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is the finding
        return Check(name, device, float("nan"), float("nan"), f"{type(error).__name__}: {error}")
    loss_difference = abs(own_loss - loss) / loss
    gradient_difference = float((own_gradient - gradient).norm() / gradient.norm())
    return Check(name, device, loss_difference, gradient_difference)


def _loss_and_gradient(logits: torch.Tensor, target: torch.Tensor, **how: str) -> tuple[float, torch.Tensor]:
    logits = logits.requires_grad_()
    loss = lovasz_softmax(logits, target, ignore_index=255, **how)  # type: ignore[arg-type]
    loss.backward()
    assert logits.grad is not None
    return float(loss.detach()), logits.grad.cpu().double()


def _remedies(found: Examination) -> Iterator[str]:
    for name, (purpose, remedy) in PACKAGES.items():
        if remedy and found.versions[name] is None and (name != "triton" or "cuda:0" in found.devices):
            yield f"{name} is not installed ({purpose}): {remedy}"
    for impl, problem in found.kernels.items():
        if problem and found.versions.get(impl) and (impl != "triton" or "cuda:0" in found.devices):
            yield f"the {impl} kernel cannot be used here: {problem}"
    for check in found.checks:
        if not check.right:
            what = check.failure or "its answer is not that of the exact kernel"
            yield f"the {check.impl} kernel on {check.device} is faulty here: {what}. Please report this output."


def print_examination(found: Examination, console: Console | None = None) -> None:
    """The examination as tables, remedies last."""
    console = console or Console()
    versions = new_table("package", "version", "for")
    versions.add_row("python", platform.python_version(), "")
    for name, version in found.versions.items():
        versions.add_row(name, version or "-", PACKAGES[name][0])
    machine = new_table("device", "what")
    for name, description in found.devices.items():
        machine.add_row(name, Text(description))
    machine.add_row("threads", found.threads)
    usable = new_table("kernel", "usable here")
    for impl, problem in found.kernels.items():
        usable.add_row(impl, Text(f"no: {problem}" if problem else "yes"))
    choices = new_table("input", "kernel", "why")
    for row in found.choices:
        choices.add_row(*(Text(cell) for cell in row))
    checks = new_table("kernel", "device", "loss", "gradient", "")
    for check in found.checks:
        verdict = Text("right", style="green") if check.right else Text(check.failure or "WRONG", style="bold red")
        numbers = f"{check.loss_difference:.0e}", f"{check.gradient_difference:.0e}"
        checks.add_row(check.impl, check.device, *numbers, verdict)
    print_table(console, "Versions", versions)
    print_table(console, "Devices", machine)
    print_table(console, "Kernels", usable)
    print_table(console, "Which kernel computes the loss", choices)
    print_table(console, "Self-check: relative difference from the exact kernel in float64", checks)
    if found.remedies:
        console.print(Text("To do:", style="bold"))
        for remedy in found.remedies:
            console.print(Text(f"  - {remedy}"), soft_wrap=True)
    else:
        console.print(Text("Nothing to do: all is in place.", style="green"))
