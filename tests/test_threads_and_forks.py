"""The CPU kernel in forked processes: DataLoader workers and process pools, while the parent uses it too."""

import itertools
import multiprocessing
import os
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lovasz import lovasz_hinge, lovasz_softmax
from lovasz.kernels import numba_problem

pytestmark = [
    pytest.mark.skipif(bool(numba_problem()), reason="numba is missing"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
]
WORKERS = 100  # one after another in small groups: a machine for tests has few cores


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((2, 4, 96, 96), np.float32)
    return torch.from_numpy(logits), torch.from_numpy(random.integers(0, 4, (2, 96, 96)))


def both_passes(seed: int) -> float:
    """Loss and sum of the gradient's sizes, on two threads of ours and none of torch's, which do not survive a fork."""
    torch.set_num_threads(2)
    logits, target = draw(seed)
    logits.requires_grad_()
    loss = lovasz_softmax(logits, target, impl="numba")
    loss.backward()
    assert logits.grad is not None
    return loss.item() + float(np.abs(logits.grad.numpy()).sum())


class Losses(Dataset):
    """A data set whose items are computed by the loss, as in mining hard examples."""

    def __len__(self) -> int:
        return 2 * WORKERS // 5

    def __getitem__(self, index: int) -> float:
        return both_passes(index)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_hundred_forked_workers_compute_what_the_parent_does() -> None:
    before = torch.get_num_threads()
    try:
        expected = [both_passes(seed) for seed in range(5)]  # the parent's threads are running when it forks
        context = multiprocessing.get_context("fork")
        for first in range(0, WORKERS, 4):
            with context.Pool(4, maxtasksperchild=1) as pool:  # each task in a process of its own
                seeds = [seed % 5 for seed in range(first, first + 4)]
                got = pool.map_async(both_passes, seeds, chunksize=1).get(timeout=60)
            assert got == [expected[seed] for seed in seeds]
        assert both_passes(0) == expected[0]
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_loader_workers_and_the_training_process_use_it_at_once() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        losses = []
        for batch in DataLoader(Losses(), batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=60):
            scores = torch.randn(2, 90, 90, requires_grad=True)
            lovasz_hinge(scores, torch.randint(0, 2, (2, 90, 90)), impl="numba").backward()
            losses += batch.tolist()
        assert losses == pytest.approx([both_passes(i) for i in range(len(Losses()))])
    finally:
        torch.set_num_threads(before)


def test_threads_get_the_same_number_of_parts_of_a_large_input() -> None:
    from lovasz.kernels.bins import CHUNK
    from lovasz.kernels.cpu.parts import split
    from lovasz.loops import in_threads

    before = torch.get_num_threads()
    done: dict[int, list[int]] = {}
    torch.set_num_threads(3)
    try:
        bounds = split(7 * CHUNK, 7 * CHUNK * 21)
        together = threading.Barrier(3)  # nobody takes a second part before all have one

        def run(i: int) -> None:
            if i < 3:
                together.wait(60)
            done.setdefault(threading.get_ident(), []).append(i)

        in_threads(run, len(bounds) - 1)
    finally:
        torch.set_num_threads(before)
    assert [len(parts) for parts in done.values()] == [3, 3, 3]
    assert sorted(itertools.chain.from_iterable(done.values())) == list(range(9))
    assert (bounds[0], bounds[-1]) == (0, 7 * CHUNK)
    assert all(0 < b - a <= CHUNK for a, b in itertools.pairwise(bounds))


def test_machine_code_that_cannot_be_kept_is_compiled_anew(monkeypatch) -> None:
    """As in a container whose folders are all read-only: numba refuses to cache, and the loop must run all the same."""
    from lovasz import loops

    njit = loops.nb.njit

    def refuses(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*arguments, **options)

    monkeypatch.setattr(loops.nb, "njit", refuses)
    assert loops.compiled(lambda a, b: a + 2 * b)(1, 2) == 5
