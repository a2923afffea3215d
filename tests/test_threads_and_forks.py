"""The CPU kernel in forked processes: DataLoader workers and process pools, while the parent uses it too."""

import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lovasz import lovasz_cross_entropy, lovasz_hinge, lovasz_sigmoid, lovasz_softmax, openmp
from lovasz.kernels import numba_problem

pytestmark = [
    pytest.mark.skipif(bool(numba_problem()), reason="numba is missing"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
]
WORKERS = 100  # one after another in small groups: a machine for tests has few cores


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Enough for two threads of ours."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((2, 4, 160, 160), np.float32)
    return torch.from_numpy(logits), torch.from_numpy(random.integers(0, 4, (2, 160, 160)))


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


def in_a_hundred_forks() -> tuple[list[float], list[float]]:
    """What this process computes before and after its forks, and what they compute."""
    expected = [both_passes(seed) for seed in range(5)]  # this process's threads are running when it forks
    context, got = multiprocessing.get_context("fork"), []
    for first in range(0, WORKERS, 4):
        with context.Pool(4, maxtasksperchild=1) as pool:  # each task in a process of its own
            seeds = [seed % 5 for seed in range(first, first + 4)]
            got += pool.map_async(both_passes, seeds, chunksize=1).get(timeout=60)
    return [*expected, both_passes(0)], got


def test_a_hundred_forked_workers_compute_what_the_parent_does() -> None:
    # The parent is a process that holds torch and this package alone: with all that tests load, a fork takes long.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        expected, got = fresh.submit(in_a_hundred_forks).result(timeout=600)
    assert got == [expected[i % 5] for i in range(WORKERS)]
    assert expected[5] == expected[0]


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


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (lovasz_cross_entropy, {}),
        *((loss, {"per_image": False}) for loss in (lovasz_softmax, lovasz_hinge, lovasz_sigmoid)),
        *((loss, {"per_image": True}) for loss in (lovasz_softmax, lovasz_hinge, lovasz_sigmoid)),
    ],
)
def test_however_a_pass_is_cut_the_bits_are_the_same(loss, options, two_threads, monkeypatch) -> None:
    from lovasz.kernels import bins
    from lovasz.kernels.cpu import parts

    random = torch.Generator().manual_seed(1)
    scores, target = torch.randn(3, 4, 90, 110, generator=random), torch.zeros(3, 90, 110, dtype=torch.long)
    target.view(-1)[torch.randperm(target.numel(), generator=random)[:900]] = torch.arange(900) % 3 + 1  # rare classes
    if loss in (lovasz_hinge, lovasz_sigmoid):
        scores, target = scores[:, 0], target.clamp(max=1)
    results = []
    for grain, chunk in ((1 << 30, 1 << 30), (1 << 11, 1 << 30), (1 << 11, 4000)):  # one part, parts, copies for each
        monkeypatch.setattr(parts, "_GRAIN", grain)
        monkeypatch.setattr(bins, "CHUNK", chunk)
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, target, impl="numba", method="binned", **options)
        value.backward()
        assert leaf.grad is not None
        results.append((value.detach(), leaf.grad))
    for value, gradient in results[1:]:
        if loss is lovasz_cross_entropy:  # a sum of doubles, in another order
            torch.testing.assert_close(value, results[0][0], rtol=2**-23, atol=0)
        else:
            assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


# ATen's operation takes two threads from 32,768 elements on.
WAITING = "torch.set_num_threads(2); torch.exp(torch.zeros(1 << 18))"


@pytest.fixture
def waiting(two_threads) -> None:
    """A thread of torch's own has just been busy and waits for more, in Linux's usual build of torch."""
    if openmp._pause() is None:
        pytest.skip("torch has no threads of GNU's OpenMP here")
    torch.exp(torch.zeros(1 << 18))


def threads_of_this_process() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_torchs_own_threads_do_not_keep_processors_busy_while_ours_work(waiting) -> None:
    logits, target = draw(0)
    lovasz_softmax(logits, target, impl="numba")  # ours are there
    torch.exp(torch.zeros(1 << 18))
    before = threads_of_this_process()
    lovasz_softmax(logits, target, impl="numba")
    assert len(before - threads_of_this_process()) == 1
    values = torch.linspace(-3, 3, 1 << 18)
    got = torch.exp(values)  # with a new one
    torch.testing.assert_close(got.double(), torch.exp(values.double()), rtol=1e-6, atol=0)


def test_a_small_input_leaves_torchs_threads_alone(waiting) -> None:
    before = threads_of_this_process()
    lovasz_softmax(torch.randn(1, 3, 20, 20), torch.zeros(1, 20, 20, dtype=torch.long), impl="numba")
    assert before <= threads_of_this_process()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_a_process_with_threads_of_torch_does_not_wait_for_them(waiting) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        got = pool.apply_async(both_passes, (3,)).get(timeout=60)
    assert got == both_passes(3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says of a process whether it was forked")
def test_nor_does_one_that_loads_the_package_only_then() -> None:
    code = f"""
import os, sys, torch
{WAITING}
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import numpy as np
from lovasz import lovasz_softmax
logits, target = np.zeros((2, 4, 160, 160), np.float32), np.zeros((2, 160, 160), np.int64)
loss = lovasz_softmax(torch.from_numpy(logits), torch.from_numpy(target), impl="numba")
os._exit(0 if abs(loss - 0.75) < 1e-6 else 1)  # of the one class there is, all are wrong by 1 - 1 / 4
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


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


def test_a_thread_that_outlives_the_main_program_goes_on_training() -> None:
    code = """
import threading, time, torch, lovasz
torch.set_num_threads(2)
logits, target = torch.randn(2, 4, 160, 160), torch.randint(0, 4, (2, 160, 160))
expected = lovasz.lovasz_softmax(logits, target, impl="numba").item()
def train():
    threading.main_thread().join()
    time.sleep(0.5)  # until the interpreter has begun to end
    logits.requires_grad_()
    loss = lovasz.lovasz_softmax(logits, target, impl="numba")
    loss.backward()
    print(abs(loss.item() - expected) < 1e-6, bool(logits.grad.norm() > 0), flush=True)
threading.Thread(target=train).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "True"], done.stderr
