"""The loss of the batch of all ranks: bytes sent and time of a step against a gather of all logits, over gloo.

Two processes on this machine. Bytes are those that the loopback interface carried, both ranks together, within
a barrier more or less.
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import lovasz
from benchmarks import formulas, inputs
from benchmarks.checks import GRADIENT_TOLERANCE, both_passes, value_and_gradient
from benchmarks.children import ROOT
from benchmarks.settings import Settings

RANKS = 2
CLASSES = 19
SIDES = (128, 256, 512)
SHARED, GATHERED = "counts added up, group=", "logits gathered"
COUNTERS = Path("/proc/net/dev")


def run(settings: Settings) -> dict[str, Any]:
    """One table over image sizes: the counts of all ranks added up, and the logits of all ranks gathered."""
    if "group" not in inspect.signature(lovasz.lovasz_softmax).parameters:
        return {"rows": [], "note": "Not measured: lovasz_softmax of this version takes no group."}
    if not dist.is_available() or not dist.is_gloo_available():
        return {"rows": [], "note": "Not measured: this build of torch has no gloo."}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "benchmarks.ranks", str(settings.rounds), str(int(settings.quick))]
    workers = [
        subprocess.Popen(
            command, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(RANKS)
    ]
    try:
        ends = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, words) in zip(workers, ends, strict=True):
        if worker.returncode:
            raise RuntimeError(f"a rank failed:\n{words[-2000:]}")
    return {"rows": json.loads(ends[0][0].strip().splitlines()[-1])}


def _worker(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """What one rank does; the rows are the same on both, but for the clock."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, rows = dist.get_rank(), []
    try:
        for side in (32,) if quick else SIDES:
            scores, target = inputs.multiclass(1, CLASSES, side, seed=rank)
            _check(scores, target)
            for name, loss in ((SHARED, _counts), (GATHERED, _gathered)):
                seconds, sent = _measure(loss, scores, target, 1 if quick else rounds)
                size = f"{RANKS} ranks of 1 x {CLASSES} x {side} x {side} float32"
                rows.append({"input": size, "name": name, "median": seconds, "bytes": sent})
    finally:
        dist.destroy_process_group()
    return rows


def _counts(scores: Tensor, target: Tensor) -> Tensor:
    return lovasz.lovasz_softmax(scores, target, group=dist.group.WORLD)  # pyright: ignore[reportCallIssue]


def _gathered(scores: Tensor, target: Tensor) -> Tensor:
    """The loss of the joined batch; every rank computes all of it, and its own logits get their gradient."""
    return lovasz.lovasz_softmax(*_joined(scores, target))


def _joined(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    everyone = [torch.empty_like(scores) for _ in range(RANKS)]
    labels = [torch.empty_like(target) for _ in range(RANKS)]
    dist.all_gather(everyone, scores.detach())
    dist.all_gather(labels, target)
    everyone[dist.get_rank()] = scores
    return torch.cat(everyone), torch.cat(labels)


def _check(scores: Tensor, target: Tensor) -> None:
    """The gradient through the group points as that of the joined batch in float64 does; its scale is DDP's affair."""

    def joined(z: Tensor, t: Tensor) -> Tensor:
        return formulas.softmax_by_class(*_joined(z, t))

    value, slope = value_and_gradient(_counts, scores, target)
    expected, reference = value_and_gradient(joined, scores.double(), target)
    if not abs(value.double() - expected) <= 1e-4 * expected:
        raise ArithmeticError(f"group=: value {value.item()} where {expected.item()} is right")
    far = (slope.double() / slope.double().norm() - reference / reference.norm()).norm().item()
    if not far <= GRADIENT_TOLERANCE:
        raise ArithmeticError(f"group=: direction of the gradient off by {far:.1e}")


def _measure(loss: Callable[[Tensor, Tensor], Tensor], scores: Tensor, target: Tensor, rounds: int) -> Any:
    both_passes(loss, scores, target)
    seconds, sent = [], []
    for _ in range(max(3, rounds)):
        dist.barrier()
        before, start = _carried(), time.perf_counter()
        both_passes(loss, scores, target)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
        after = _carried()
        sent.append(after - before if before and after else 0)
    return statistics.median(seconds), statistics.median(sent) or None


def _carried() -> int:
    """Bytes that the loopback interface has sent so far; 0 where the system does not tell."""
    if not COUNTERS.is_file():
        return 0
    for line in COUNTERS.read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


if __name__ == "__main__":
    rounds, quick = map(int, sys.argv[1:])
    print(json.dumps(_worker(rounds, bool(quick))))
