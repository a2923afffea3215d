"""Importing one port loads no other framework: a fresh process for each."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
FRAMEWORKS = {"torch", "jax", "tensorflow", "keras"}
LIST = """
import sys, json
sys.path.insert(0, sys.argv[1])
before = set()
{}
import {}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def added(module: str, *frameworks: str) -> set[str]:
    """The top-level modules that importing ``module`` adds to what its own framework loads by itself."""
    first = f"import {', '.join(frameworks)}; before = set(sys.modules)" if frameworks else "pass"
    command = [sys.executable, "-W", "ignore", "-c", LIST.format(first, module), str(SOURCE)]
    environment = dict(os.environ)
    if find_spec("jax") is not None:
        environment["KERAS_BACKEND"] = "jax"  # the quickest to load
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_lovasz_itself_and_what_the_ports_share_load_no_framework() -> None:
    assert not added("lovasz, lovasz.ports.losses, lovasz.ports.preparation") & FRAMEWORKS


@pytest.mark.parametrize(
    ("module", "framework"),
    [
        ("lovasz.jax", "jax"),
        ("lovasz.tensorflow, lovasz.compat_tensorflow", "tensorflow"),
        ("lovasz.keras", "keras"),  # Keras loads its backend, and may load others, by itself
    ],
)
def test_a_port_loads_no_framework_beside_its_own(module: str, framework: str) -> None:
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    assert not added(module, framework) & FRAMEWORKS


def test_jax_alone_is_enough_for_its_port() -> None:
    if find_spec("jax") is None:
        pytest.skip("jax is not installed")
    assert added("lovasz.jax") & FRAMEWORKS == {"jax"}
