"""Flags with which XLA compiles fast. Apart from the tests: two of them need it, and an unknown flag ends a process.

What takes time where each case has a shape of its own is compiling it, several times as long as all else.
"""

import mmap
from importlib.util import find_spec
from pathlib import Path

# LLVM's optimisation is left out, and loops are written by the older, quicker of XLA's two emitters.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def known_flags() -> dict[str, int]:
    """Those of QUICK that the installed jaxlib has; none without one."""
    spec = find_spec("jaxlib")
    libraries = Path(spec.origin).parent.glob("libjax_common.*") if spec and spec.origin else ()
    known = {}
    for path in libraries:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            known |= {name: value for name, value in QUICK.items() if library.find(name.encode()) >= 0}
    return known


def quick_flags() -> str:
    """For the environment variable XLA_FLAGS, which XLA reads once, before it compiles for the first time."""
    return " ".join(f"--{name}={value}".lower() for name, value in known_flags().items())
