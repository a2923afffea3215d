"""Where a run happens: the device chosen and the versions that a result depends on. Names no host and no path."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lovasz.lab.errors import LabError


def resolve_device(name: str) -> torch.device:
    """ "auto" to CUDA, then MPS, then the CPU; an explicit device that is not there raises LabError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LabError(f"device: got {name!r}, expected 'auto', 'cpu', 'cuda', 'cuda:NUMBER' or 'mps'.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise LabError(f"device: got {name!r}, but torch sees {found} CUDA devices here; use 'auto' or 'cpu'.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LabError(f"device: got {name!r}, but torch sees no MPS device here; use 'auto' or 'cpu'.")
    return torch.device("cuda", 0) if name == "cuda" else device


def use_machine(device: str, threads: int | None) -> torch.device:
    """Set torch's threads and return the device that `device` names. Raises LabError where it is not there."""
    if threads is not None:
        torch.set_num_threads(threads)
    return resolve_device(device)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, processor model, threads and device of this process, as comparison.json holds them."""
    return {
        "lovasz": _version("lovasz"),
        "torch": torch.__version__,
        "lightning": _version("lightning"),
        "numba": _version("numba"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
