"""What every test shares: a fixed seed, steady threads, plain terminal output and the place of the real data."""

import gc
import importlib.util
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreter import hasten

gc.disable()  # until all is imported and collected, most of which stays; see pytest_collection_finish

if os.environ.get("TRITON_INTERPRET") == "1":
    hasten()

REPOSITORY = Path(__file__).resolve().parents[1]

# In a fresh checkout Numba compiles for a minute and a half, once in each process that asks before the first is done.
# So one of two test processes begins with the file that has most of it compiled, the other with long ones without any.
FIRST = ("test_binned.py", "test_gpu_shared_memory.py", "test_jax.py", "test_keras.py", "test_gpu_kernel.py")

# Each of these makes typer and rich colour their output, so that a test of the words would depend on where it runs.
for name in ("FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)

# One of several test processes (pytest-xdist) keeps to one core.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def pytest_collection_finish() -> None:
    """Spare the collector of garbage what is there by now, hundreds of thousands of objects at each of its rounds."""
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)
    gc.enable()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test that draws numbers draws the same ones alone, in any order and in any process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for code under test that uses the global generator
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small images leave threads nothing to share; on a busy machine two are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of Triton's interpreter takes as long as a thousand on a GPU: there, one weighs all bins of a class."""
    from lovasz.kernels import bins, interpreted

    if interpreted():
        monkeypatch.setattr(bins, "MOST_BINS", 1 << 14)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, masks and trained weights; it is no part of the repository."""
    folder = Path(os.environ.get("LOVASZ_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"real data absent: {folder} has no folder data (LOVASZ_SHARED names another place)")
    return folder


@pytest.fixture(scope="session")
def vision() -> dict[str, str]:
    """The environment of a process that may import torchvision, timm and segmentation_models_pytorch.

    `make test` puts them into a folder of their own, where only such a process finds them: a build of torchvision for
    another build of torch breaks, by being there, what merely looks for it (torchmetrics, transformers).
    """
    folder = Path(sys.prefix) / "vision"
    if not folder.is_dir() and importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip(f"segmentation_models_pytorch is not installed, and there is no {folder}")
    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")]), str(folder)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
