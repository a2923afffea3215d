"""What the figures depend on: processor, cores, memory, versions, commit. Nothing that names the host."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import lovasz


def machine() -> dict[str, Any]:
    """One line's worth of facts about where a part ran."""
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "vectors": _vectors(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib("MemTotal") / 2**20) or None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lovasz": lovasz.__version__,
        "commit": commit(Path(__file__).parent),
    }


def commit(folder: Path) -> str:
    """The commit of the checkout that ``folder`` is in, "+" behind it if the package was changed since; "" if none."""
    try:
        short = _git(folder, "rev-parse", "--short", "HEAD")
        return short + ("+" if _git(folder, "status", "--porcelain", "--", ":/src") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return ""


def _git(folder: Path, *arguments: str) -> str:
    asked = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def _vectors() -> str:
    """The widest vector instructions of an x86 processor, on which the kernel's speed depends; "" where unknown."""
    flags = _field(Path("/proc/cpuinfo"), "flags").split()
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")


def memory_kib(what: str, path: Path = Path("/proc/meminfo")) -> int:
    """A line of /proc/meminfo or of a process's status, in KiB; 0 where there is none."""
    return int(_field(path, what).removesuffix(" kB") or 0)


def _field(path: Path, name: str) -> str:
    if not path.is_file():
        return ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
