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


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_input_is_cut_into_as_many_parts_for_each_thread(threads: int) -> None:
    from lovasz.kernels.bins import CHUNK
    from lovasz.kernels.cpu.parts import pieces, split

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        bounds = split(7 * CHUNK, 7 * CHUNK * 21)
        finer = pieces(7 * CHUNK, 7 * CHUNK * 21)
        small = pieces(1000, 1000)
    finally:
        torch.set_num_threads(before)
    assert len(bounds) - 1 == {1: 7, 3: 9}[threads]
    assert len(finer) - 1 == {1: 8, 3: 24}[threads]
    for cut in (bounds, finer):
        assert (cut[0], cut[-1]) == (0, 7 * CHUNK)
        assert all(0 < b - a <= CHUNK for a, b in itertools.pairwise(cut))
    assert small == [0, 1000]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_slow_part_keeps_no_other_waiting(two_threads) -> None:
    from lovasz.loops import in_threads

    done, rest = [], threading.Event()

    def run(part: int) -> None:
        if part == 0:
            assert rest.wait(60)
        done.append(part)
        if len(done) == 5:
            rest.set()

    in_threads(run, 6)
    assert sorted(done) == list(range(6))
    assert done[-1] == 0


def test_a_call_does_not_wait_for_threads_that_another_one_keeps_busy(two_threads) -> None:
    from lovasz.loops import in_threads

    begun, end = threading.Barrier(3), threading.Event()

    def stay(part: int) -> None:
        begun.wait(60)
        assert end.wait(60)

    busy = threading.Thread(target=in_threads, args=(stay, 2))
    busy.start()
    begun.wait(60)
    done: list[int] = []
    in_threads(done.append, 4)
    assert done == [0, 1, 2, 3]
    end.set()
    busy.join()


def test_what_a_part_raises_is_raised_whichever_thread_met_it(two_threads) -> None:
    from lovasz.loops import in_threads

    both = threading.Barrier(2)
    for wrong in range(2):

        def run(part: int, wrong: int = wrong) -> None:
            both.wait(60)  # each thread has one
            if part == wrong:
                raise ArithmeticError(f"part {part}")

        with pytest.raises(ArithmeticError, match=f"part {wrong}"):
            in_threads(run, 2)


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
