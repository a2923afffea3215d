"""Two processes that wait for work, joined over gloo: what tests of several ranks call, and what the ranks then do."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from losses import Case
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lovasz

LIMIT = 300  # seconds that a job may take, with the start of the processes on a busy machine; it takes one or two


class RankError(Exception):
    """What a rank raised: its type's name and its text."""


class Ranks:
    """Processes that are started by the first job and live until ``close``, or until one does not answer in time."""

    def __init__(self, folder: Path, size: int = 2) -> None:
        self.folder, self.size, self.starts = folder, size, 0
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def __call__(self, job: Callable[..., Any], arguments: Sequence[dict[str, Any]] | None = None, **same: Any) -> list:
        """Run ``job(rank, **arguments[rank], **same)`` in each process; returns what each gave, as numpy arrays.

        Raises RankError with the first rank's error; TimeoutError, after ending the processes, where none came.
        """
        if not self.processes:
            self._start()
        for rank, pipe in enumerate(self.pipes):
            pipe.send((job.__name__, (arguments[rank] if arguments else {}) | same))
        answers = []
        for pipe in self.pipes:
            if not pipe.poll(LIMIT):
                self.close()
                raise TimeoutError(f"{job.__name__}: a rank gave no answer in {LIMIT} s")
            answers.append(pipe.recv())
        for fine, answer in answers:
            if not fine:
                raise RankError(answer)
        return [answer for _, answer in answers]

    def _start(self) -> None:
        self.starts += 1
        context = multiprocessing.get_context("spawn")
        store = self.folder / f"store-{self.starts}"
        for rank in range(self.size):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, self.size, str(store), theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(mine)

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()
        self.processes, self.pipes = [], []


def serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    """What a process does: join the others, then one job after the other until the pipe closes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    jobs = {job.__name__: job for job in (losses_of_parts, train_with_ddp, bytes_sent, alone, copies)}
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, arguments = pipe.recv()
            try:
                answer = True, _plain(jobs[name](rank, **arguments))
            except Exception as error:  # noqa: BLE001 - the test that asked is told, and judges
                answer = False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            pipe.send(answer)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def losses_of_parts(
    rank: int, case: Case, scores: np.ndarray, target: np.ndarray, impl: str, dtype: str = "float32"
) -> dict[str, Any]:
    """Loss of the whole batch and gradient of this rank's part, and the value without a gradient asked for."""
    leaf = torch.from_numpy(scores).to(getattr(torch, dtype)).requires_grad_()
    how: dict[str, Any] = {"impl": impl, "group": distributed.group.WORLD}
    value = case.package(leaf, torch.from_numpy(target), **how)
    (gradient,) = torch.autograd.grad(value, leaf)
    with torch.no_grad():
        evaluated = case.package(leaf, torch.from_numpy(target), **how)
    return {"value": value, "gradient": gradient.float(), "evaluated": evaluated}


def alone(rank: int, case: Case, scores: np.ndarray, target: np.ndarray, impl: str) -> dict[str, Any]:
    """The joined batch in one process, in a group of itself: the same bins, and nothing to exchange."""
    groups = [distributed.new_group([r]) for r in range(distributed.get_world_size())]
    leaf = torch.from_numpy(scores).requires_grad_()
    value = case.package(leaf, torch.from_numpy(target), impl=impl, group=groups[rank])
    (gradient,) = torch.autograd.grad(value, leaf)
    stranger = ""
    try:
        case.package(leaf, torch.from_numpy(target), impl=impl, group=groups[1 - rank])
    except ValueError as error:
        stranger = str(error)
    return {"value": value, "gradient": gradient, "stranger": stranger}


def network() -> nn.Sequential:
    """A small network without batch norm, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 1))


def train_with_ddp(
    rank: int, images: np.ndarray, target: np.ndarray, impl: str, steps: int, parts: int
) -> dict[str, Any]:
    """Parameters after steps of SGD on this rank's images, each step from the gradients of ``parts`` batches."""
    model = DistributedDataParallel(network())
    criterion = lovasz.LovaszSoftmaxLoss(impl=impl, ignore_index=255, group=distributed.group.WORLD)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for _ in range(steps):
        batches = zip(torch.from_numpy(images).chunk(parts), torch.from_numpy(target).chunk(parts), strict=True)
        for i, (image, labels) in enumerate(batches):
            with contextlib.nullcontext() if i == parts - 1 else model.no_sync():
                loss = criterion(model(image), labels) / parts
                loss.backward()
            losses.append(loss.item() * parts)
        optimizer.step()
        optimizer.zero_grad()
    return {"parameters": dict(model.module.state_dict()), "losses": losses}


def bytes_sent(rank: int, sizes: Sequence[int], classes: int, impl: str) -> list[int]:
    """Bytes that the loss hands to torch.distributed, forward and backward, for images of each size."""
    collectives = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "all_to_all")
    originals = {name: getattr(distributed, name) for name in collectives}
    counted = [0]

    def counting(name: str) -> Callable[..., Any]:
        def call(tensor: Tensor, *rest: Any, **options: Any) -> Any:
            assert name == "all_reduce", f"{name} was called"
            counted[0] += tensor.numel() * tensor.element_size()
            return originals[name](tensor, *rest, **options)

        return call

    results = []
    for size in sizes:
        logits = torch.randn(1, classes, size, size, requires_grad=True)
        target = torch.randint(0, classes, (1, size, size))
        counted[0] = 0
        for name in collectives:
            setattr(distributed, name, counting(name))
        try:
            lovasz.lovasz_softmax(logits, target, impl=impl, group=distributed.group.WORLD).backward()
        finally:
            for name in collectives:
                setattr(distributed, name, originals[name])
        results.append(counted[0])
    return results


def copies(rank: int, case: Case, scores: np.ndarray, target: np.ndarray, impl: str, times: int) -> dict[str, Any]:
    """Loss and gradient as if each rank stood for ``times`` ranks with the same batch: sums of integers come so often.

    The gradient is that of a single copy's loss.
    """
    original = distributed.all_reduce

    def many(tensor: Tensor, *rest: Any, **options: Any) -> None:
        original(tensor, *rest, **options)
        if not tensor.is_floating_point():
            tensor.mul_(times)

    leaf = torch.from_numpy(scores).requires_grad_()
    distributed.all_reduce = many
    try:
        value = case.package(leaf, torch.from_numpy(target), impl=impl, group=distributed.group.WORLD)
    finally:
        distributed.all_reduce = original
    (gradient,) = torch.autograd.grad(value, leaf)
    # The plain kernel adds up the processes' parts of the value, a float; the fused one reads it off the integers.
    return {"value": value * times if impl == "torch" else value, "gradient": gradient * times}
