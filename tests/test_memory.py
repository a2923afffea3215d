"""Memory that the CPU kernel keeps between calls: used again when nobody sees it any more, and never before."""

import copy
import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lovasz
from lovasz import memory
from lovasz.kernels import numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
SHAPE = (2, 4, 256, 256)  # 2 MiB of float32


@pytest.fixture(scope="module", autouse=True)
def _few_objects() -> None:
    """Collecting what this file leaves takes milliseconds; among all that a long test run has imported, a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    gc.collect()
    memory.release_memory()


def gradient(
    seed: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32, last: bool = False
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator).to(dtype)
    if last:
        scores = scores.to(memory_format=torch.channels_last)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    scores.requires_grad_()
    return torch.autograd.grad(lovasz.lovasz_softmax(scores, target, impl="numba"), scores)[0]


def values(held: Tensor | np.ndarray | torch.UntypedStorage) -> Tensor:
    if isinstance(held, torch.UntypedStorage):
        return torch.empty(0, dtype=torch.uint8).set_(held)
    return torch.as_tensor(held)


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    """Gradients of the first seeds in memory of torch's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(memory.VARIABLE, "0")
        return [gradient(seed) for seed in range(8)]


def test_the_memory_of_a_gradient_that_is_gone_serves_the_next(expected: list[Tensor]) -> None:
    first = gradient(0)
    place = first.data_ptr()
    del first
    second = gradient(1)
    assert second.data_ptr() == place
    assert torch.equal(second, expected[1])


@pytest.mark.parametrize(
    "hold",
    [
        lambda tensor: tensor,
        lambda tensor: tensor[1, 2, 3:],
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.detach().permute(0, 2, 3, 1),
        lambda tensor: torch.from_dlpack(tensor),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: torch.nn.Parameter(tensor),
    ],
    ids=["itself", "view", "numpy", "permuted", "dlpack", "storage", "parameter"],
)
def test_memory_that_anyone_still_sees_is_not_written(hold, expected: list[Tensor]) -> None:
    first = gradient(0)
    held = hold(first)
    before = copy.deepcopy(held)
    place = first.data_ptr()
    del first
    gc.collect()
    others = [gradient(seed) for seed in (1, 2, 3)]
    assert place not in {other.data_ptr() for other in others}
    assert torch.equal(values(held), values(before))
    for seed, other in zip((1, 2, 3), others, strict=True):
        assert torch.equal(other, expected[seed])


def test_gradients_of_a_leaf_add_up_over_calls(expected: list[Tensor]) -> None:
    scores = torch.zeros(SHAPE, requires_grad=True)
    for seed in range(4):
        scores.backward(gradient(seed))  # autograd keeps the first one itself as .grad
    assert torch.equal(scores.grad, expected[0] + expected[1] + expected[2] + expected[3])


def test_threads_that_compute_at_once_do_not_share_memory(expected: list[Tensor]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for seed, got in enumerate(pool.map(gradient, range(8))):
                assert torch.equal(got, expected[seed])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_formats_share_the_memory_and_lie_as_they_would_without(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = gradient(0, dtype=dtype).data_ptr()
    got = gradient(1, dtype=dtype, last=True)
    assert got.data_ptr() == place
    monkeypatch.setenv(memory.VARIABLE, "0")
    fresh = gradient(1, dtype=dtype, last=True)
    assert got.stride() == fresh.stride()
    assert got.dtype == dtype
    assert torch.equal(got, fresh)


def test_memory_begins_where_vector_instructions_want_it() -> None:
    assert gradient(0).data_ptr() % 64 == 0


def test_nothing_idle_remains_beside_a_gradient_of_another_size() -> None:
    two = [gradient(0), gradient(1)]
    two.clear()
    assert len(memory._idle) == 2
    large = gradient(0, (2, 4, 512, 512))
    assert not memory._idle
    del large
    small = gradient(0)  # a quarter of what is idle: too little for it
    assert not memory._idle
    del small


def test_of_many_gradients_at_once_the_memory_of_two_is_kept() -> None:
    many = [gradient(seed) for seed in range(5)]
    many.clear()
    assert len(memory._idle) == 2


def test_two_outputs_of_different_sizes_find_their_own_memory_again() -> None:
    sizes = (SHAPE, (2, 4, 512, 512))

    def step() -> list[int]:
        both = [gradient(0, shape) for shape in sizes]
        return [tensor.data_ptr() for tensor in both]

    places = step()
    assert sorted(step()) == sorted(places)
    assert sorted(step()) == sorted(places)


def test_a_gradient_can_be_copied_sent_and_saved(expected: list[Tensor], tmp_path: Path) -> None:
    got = gradient(0)
    torch.save(got, tmp_path / "gradient.pt")
    loaded = torch.load(tmp_path / "gradient.pt", weights_only=True)
    for copied in (copy.deepcopy(got), pickle.loads(pickle.dumps(got)), loaded):  # noqa: S301 - made here
        assert torch.equal(copied, expected[0])
    got.share_memory_()
    assert torch.equal(got, expected[0])
    assert torch.equal(gradient(1), expected[1])
    assert torch.equal(got, expected[0])


RESIDENT = """
import gc, sys, torch, lovasz
from lovasz.kernels import numba_problem

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

torch.set_num_threads(1)
scores = torch.randn(1, 64, 512, 512).requires_grad_()  # 64 MiB
target = torch.randint(0, 64, (1, 512, 512))
small = lovasz.lovasz_softmax(scores[..., :64], target[..., :64], impl="numba")
torch.autograd.grad(small, scores)
lovasz.release_memory()
before = resident()
torch.autograd.grad(lovasz.lovasz_softmax(scores, target, impl="numba"), scores)
kept = resident() - before
lovasz.release_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("variable", "keeps"), [("1", True), ("0", False)])
def test_kept_memory_is_one_gradient_and_goes_back_when_asked(variable: str, keeps: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT],
        env={**os.environ, memory.VARIABLE: variable},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, left = map(int, done.stdout.split())
    assert (48 <= kept <= 88) if keeps else kept < 24
    assert left < 24
