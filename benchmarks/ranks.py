"""The loss of a batch spread over two processes: ``group=`` against a gather of all probabilities, bytes and time."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.settings import Settings
from benchmarks.timing import interleaved
from lovasz import lovasz_softmax

PROCESSES = 2
CLASSES = 21
SIZES = (64, 128, 256, 512, 1024)
YARDSTICK = "gather, then bins"
LIMIT = 1800.0  # seconds for the answer of a process


class Exchange:
    """The collectives of torch.distributed, with the bytes that this process hands to them."""

    def __init__(self) -> None:
        self.bytes = 0
        self._reduce = distributed.all_reduce
        distributed.all_reduce = self._counted  # where the library looks it up

    def _counted(self, tensor: Tensor, *rest: Any, **options: Any) -> Any:
        self.bytes += tensor.numel() * tensor.element_size()
        return self._reduce(tensor, *rest, **options)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """This tensor of each process."""
        self.bytes += tensor.numel() * tensor.element_size()
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor)
        return parts


def shared(logits: Tensor, target: Tensor, impl: str) -> Tensor:
    """The loss of the joined batch from counts."""
    return lovasz_softmax(logits, target, impl=impl, group=distributed.group.WORLD)


def gathered(exchange: Exchange, logits: Tensor, target: Tensor, method: str) -> Tensor:
    """The loss of the joined batch from all its probabilities, with the gradient at this process's logits alone."""
    own = logits.softmax(1)
    parts = exchange.gather(own.detach().contiguous())
    parts[distributed.get_rank()] = own
    labels = exchange.gather(target.to(torch.uint8))
    joined, labels = torch.cat(parts), torch.cat(labels)
    return lovasz_softmax(joined, labels, from_logits=False, method=method) * distributed.get_world_size()


def alone(logits: Tensor, target: Tensor) -> Tensor:
    """The loss of this process's part, without any exchange: another loss, for the time alone."""
    return lovasz_softmax(logits, target)


def _measure(rank: int, sizes: tuple[int, ...], rounds: int, impl: str) -> list[dict[str, Any]]:
    exchange = Exchange()
    tables = []
    for size in sizes:
        generator = torch.Generator().manual_seed(rank)
        logits = torch.randn(1, CLASSES, size, size, generator=generator).requires_grad_()
        target = torch.randint(0, CLASSES, (1, size, size), generator=generator)
        losses: dict[str, Callable[[], Tensor]] = {
            YARDSTICK: functools.partial(gathered, exchange, logits, target, "binned"),
            "gather, then sort": functools.partial(gathered, exchange, logits, target, "exact"),
            "group=": functools.partial(shared, logits, target, impl),
            "no exchange (each its own part)": functools.partial(alone, logits, target),
        }
        _check(losses["group="], losses["gather, then sort"], logits)
        sent = {}
        for name, loss in losses.items():
            exchange.bytes = 0
            loss()
            sent[name] = exchange.bytes
        calls = {name: functools.partial(_both_passes, loss, logits) for name, loss in losses.items()}
        # Else a process would be charged for the time by which the other is late.
        times = interleaved(calls, rounds, limit=None, quick_calls=1, before=distributed.barrier)
        base = times[YARDSTICK].median
        rows = [
            {"name": name, **timing.as_json(), "ratio": timing.median / base, "bytes": sent[name]}
            for name, timing in times.items()
        ]
        of = f"{PROCESSES} processes with 1 x {CLASSES} x {size} x {size} float32 each"
        tables.append({"input": of, "yardstick": YARDSTICK, "rows": rows})
    return tables


def _both_passes(loss: Callable[[], Tensor], logits: Tensor) -> None:
    torch.autograd.grad(loss(), logits)


def _check(loss: Callable[[], Tensor], reference: Callable[[], Tensor], logits: Tensor) -> None:
    """Raise unless value and gradient are near those of the sorted, gathered batch: a wrong result has no speed."""
    value, expected = loss(), reference()
    (gradient,), (right,) = torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits)
    expected = expected.detach() / PROCESSES
    if abs(value.item() - expected.item()) > 1e-4 * expected.item():
        raise ArithmeticError(f"group=: value {value.item()} where {expected.item()} is right")
    distance = ((gradient - right).norm() / right.norm()).item()
    if distance > 1e-2:
        raise ArithmeticError(f"group=: gradient off by {distance:.1e}")


def _process(rank: int, store: str, pipe: Any, threads: int, *work: Any) -> None:
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    tables = _measure(rank, *work)
    pipe.send(tables)
    distributed.barrier()
    distributed.destroy_process_group()


def run(settings: Settings, *, impl: str = "auto", threads: int = 1) -> dict[str, Any]:
    """Bytes that a process sends in one step and the time of the step, forward and backward, over image sizes.

    With two processes, what is counted is what goes over the wire: with S of them a ring sends 2 (S - 1) / S times the
    bytes of an all_reduce and S - 1 times those of a gather. threads: of each process.
    """
    sizes, rounds = (SIZES[:1], 1) if settings.quick else (SIZES, settings.rounds)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = [], []
        for rank in range(PROCESSES):
            mine, theirs = context.Pipe(duplex=False)
            arguments = (rank, str(Path(folder) / "store"), theirs, threads, sizes, rounds, impl)
            processes.append(context.Process(target=_process, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            pipes.append(mine)
        try:
            if not pipes[0].poll(LIMIT):
                raise TimeoutError(f"no answer from the processes in {LIMIT:.0f} s")
            tables = pipes[0].recv()
            for process in processes:
                process.join(60)
        finally:
            for process in processes:
                process.kill()
    return {"machine": machine() | {"threads": threads}, "tables": tables}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one size, one round")
    parser.add_argument("--impl", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    arguments = parser.parse_args()
    for table in run(Settings(quick=arguments.quick), impl=arguments.impl, threads=arguments.threads)["tables"]:
        print(f"\n{table['input']}")
        for row in table["rows"]:
            times = f"{1e3 * row['median']:9.1f} ms  ({1e3 * row['low']:.1f} to {1e3 * row['high']:.1f})"
            print(f"  {row['name']:32} {row['bytes'] / 1e6:8.2f} MB {times}  {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
