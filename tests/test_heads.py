"""What the CPU kernel keeps of the largest errors of a class, against a sort of all of them."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lovasz import lovasz_hinge, lovasz_sigmoid
from lovasz.kernels import bins, numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
WANTED = 50
LEAST, MOST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
STREAMS = {
    "random": lambda random, n: random.integers(LEAST, MOST, n),
    "rising": lambda _, n: np.arange(n) - n // 2,
    "falling": lambda _, n: n // 2 - np.arange(n),
    "few values": lambda random, n: random.integers(-2, 3, n),
    "both ends": lambda random, n: random.choice([LEAST + 1, MOST - 1], n),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("n", [1, WANTED, 2 * WANTED, 2 * WANTED + 1, 5000])
def test_what_is_kept_is_all_that_lies_beyond_a_threshold_and_enough(name: str, n: int) -> None:
    from numba import njit

    from lovasz.kernels.cpu import heads
    from lovasz.kernels.cpu.arithmetic import INLINED

    @njit(**INLINED)
    def keep_all(kept, keys):
        for owner in range(len(keys)):
            heads.keep(kept, 0, keys[owner], owner)

    keys = STREAMS[name](np.random.default_rng(n), n).astype(np.int32)
    kept = heads.room(1, 1, WANTED, np.full(1, LEAST, np.int32)).part(0)
    keep_all(kept, keys)
    threshold, count = kept.thresholds[0], kept.counts[0]
    beyond = np.flatnonzero(keys > threshold)
    assert np.array_equal(kept.owners[0, :count], beyond)
    assert np.array_equal(kept.keys[0, :count], keys[beyond])
    # It rises no further than the largest ones wanted reach: equal keys are kept or dropped together.
    assert (keys >= threshold).sum() >= min(n, WANTED)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("n", [1, WANTED, 1124, 1125, 5000])
@pytest.mark.parametrize("rows", [1, 300, 2048])
def test_rows_keep_the_same_and_leave_out_void(name: str, n: int, rows: int) -> None:
    from lovasz.kernels.cpu import heads
    from lovasz.kernels.cpu.vectors import LANES

    random = np.random.default_rng(n)
    keys, kind = STREAMS[name](random, n).astype(np.int32), random.integers(-1, 2, n).astype(np.int32)
    for kinds in (None, kind):
        kept = heads.room(1, 1, WANTED, np.full(1, LEAST, np.int32)).part(0)
        for first in range(0, n, rows):
            key = keys[first : first + rows]
            row = np.append(key, np.full(-len(key) % LANES, MOST, np.int32))  # what lies beyond is not kept
            heads.keep_row(kept, 0, row, None if kinds is None else kinds[first : first + rows], len(key), first)
        threshold, count = kept.thresholds[0], kept.counts[0]
        valid = np.ones(n, bool) if kinds is None else kinds >= 0
        beyond = np.flatnonzero((keys > threshold) & valid)
        assert np.array_equal(kept.owners[0, :count], 2 * beyond + (0 if kinds is None else kinds[beyond]))
        assert np.array_equal(kept.keys[0, :count], keys[beyond])
        assert ((keys >= threshold) & valid).sum() >= min(valid.sum(), WANTED)


@pytest.mark.parametrize("length", [2, 3, 100, 101])
def test_the_middle_is_that_of_a_sort(length: int) -> None:
    from lovasz.kernels.cpu import heads

    for seed, draw in enumerate(STREAMS.values()):
        keys = draw(np.random.default_rng(seed), length).astype(np.int32)
        assert heads._middle(keys) == np.sort(keys)[length // 2]
    ends = np.array([LEAST] * length + [MOST] * (length - 1), np.int32)
    assert heads._middle(ends) == LEAST
    assert heads._middle(-1 - ends) == MOST


LOSSES = {"sigmoid": lovasz_sigmoid, "hinge": functools.partial(lovasz_hinge, per_image=False)}


@pytest.mark.parametrize("foreground", [300, 3000])
@pytest.mark.parametrize("spread", [1e-7, 1e-6, 1e-4])
@pytest.mark.parametrize("name", LOSSES)
def test_weights_add_up_to_one_wherever_those_weighed_one_by_one_end(name: str, spread: float, foreground: int) -> None:
    random = torch.Generator().manual_seed(foreground)
    scores = spread * torch.randn(1, 500_000, generator=random)
    target = (torch.arange(500_000) < foreground).long()[None]
    slope = 4 if name == "sigmoid" else 1  # the sigmoid's own is 1/4 at scores near 0
    found, expected = (weights(LOSSES[name], scores, target, how) * slope for how in ("binned", "exact"))
    assert expected.sum() == pytest.approx(1, rel=1e-5)
    assert found.sum() == pytest.approx(1, rel=2e-4)


@pytest.mark.parametrize("values", [20, 100])
def test_they_do_so_among_probabilities_that_take_few_values(values: int) -> None:
    random = torch.Generator().manual_seed(0)
    steps = torch.randint(values, (1, 30_000), generator=random) - values // 2
    probabilities = 0.5 + steps * 2.0**-24  # neighbours, so that errors of both kinds share a bin
    target = (torch.arange(30_000) < 1500).long()[None]
    loss = functools.partial(lovasz_sigmoid, from_logits=False)
    found, expected = (weights(loss, probabilities, target, how) for how in ("binned", "exact"))
    assert expected.sum() == pytest.approx(1, rel=1e-5)
    assert found.sum() == pytest.approx(1, rel=2e-4)


@pytest.mark.parametrize("foreground", [30, 300])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_rare_class_is_exact_to_float32_however_coarse_the_bins(
    name: str, foreground: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With bins alone this few of them are off by 5e-7 (sigmoid) and 1.3e-7.
    monkeypatch.setattr(bins, "capacity", lambda _classes, _images, cells, _pixels: (2 * cells, 0))
    target = (torch.arange(500_000) < foreground).long()[None]
    scores = 1e-3 * (torch.randn(1, 500_000, generator=torch.Generator().manual_seed(1)) + 2 * (2 * target - 1))
    found, expected = (
        LOSSES[name](scores, target, method="binned"),
        LOSSES[name](scores.double(), target, method="exact"),
    )
    assert found.item() == pytest.approx(expected.item(), rel=1.25e-7)


def weights(loss: Callable[..., Tensor], scores: Tensor, target: Tensor, method: str) -> Tensor:
    """How much each error weighs: the gradient without its sign, where the error's slope is one."""
    leaf = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, target, method=method), leaf)
    return gradient.double().abs()
