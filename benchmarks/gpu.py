"""The losses on an NVIDIA GPU: checked against float64 first, then timed against cross-entropy and plain copies.

``python -m benchmarks.gpu`` is one command of less than 8 minutes that needs torch, triton, numpy and pytest alone, a C
compiler and Python's headers, and no installation of the package: it reads ``src`` beside it. A check that fails costs
no figures: it is recorded, all is measured nonetheless, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu_checks import (
    DISTRIBUTIONS,
    ROOT,
    both_passes,
    captured,
    check_compiled,
    checks,
    draw,
    lacking,
    ours,
    the_sum,
)
from benchmarks.gpu_table import table
from lovasz.kernels import available

SECONDS = 400  # after which no further row is begun
SHAPES = [  # images, classes, height, width, dtypes
    (8, 19, 1024, 2048, (torch.bfloat16, torch.float32)),
    (16, 150, 512, 512, (torch.bfloat16, torch.float32)),
    (8, 2, 1024, 1024, (torch.bfloat16, torch.float32)),
    (16, 21, 512, 512, (torch.float16, torch.bfloat16, torch.float32)),
    (1, 1000, 512, 512, (torch.bfloat16,)),
]
TARGETS = 2  # shapes, the first, that are timed before the others


def attempt(results: dict[str, Any], out: Path, what: str, call: Callable[[], dict[str, Any] | None]) -> None:
    """Run one check and write down what came of it, at once."""
    begun = time.monotonic()
    row: dict[str, Any] = {"check": what, "holds": True}
    try:
        row |= call() or {}
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told, and costs no other figure
        row |= {"holds": False, "error": f"{type(error).__name__}: {error}"[:2000]}
    row["seconds"] = round(time.monotonic() - begun, 1)
    results["checks"].append(row)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{'holds' if row['holds'] else 'FAILS'} {row['seconds']:6.1f} s  {what} {row.get('error', '')}", flush=True)


def interleaved(contestants: dict[str, Callable[[], Any]], rounds: int = 15) -> dict[str, dict[str, float]]:
    """Milliseconds by CUDA events: median and quartiles of rounds in which all take turns."""
    for call in contestants.values():
        for _ in range(2):
            call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        result[name] = {"median": median, "low": low, "high": high}
    return result


def peak(call: Callable[[], Any]) -> float:
    """MiB that a call takes beyond what is there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    torch.cuda.synchronize()
    del kept
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(shape: tuple[int, int, int, int], kind: str, dtype: torch.dtype, last: bool) -> dict[str, Any]:
    """One row: our loss, also as a CUDA graph, cross-entropy, and three times the reading or writing of all logits."""
    scores, target = draw(shape, kind, dtype)
    if last:
        scores = scores.contiguous(memory_format=torch.channels_last)
    scores.requires_grad_()
    other = torch.empty_like(scores)

    def cross_entropy() -> Any:
        return both_passes(lambda z, t: F.cross_entropy(z, t, ignore_index=-1), scores, target)

    def lovasz() -> Any:
        return both_passes(ours, scores, target)

    def both() -> Any:
        return both_passes(the_sum, scores, target)

    def forward() -> Any:
        with torch.no_grad():
            return ours(scores, target)

    replay, outputs = captured(lovasz)
    replay_entropy, also = captured(cross_entropy)
    replay_both, too = captured(both)
    contestants: dict[str, Callable[[], Any]] = {
        "cross_entropy": cross_entropy,
        "cross_entropy, graph": replay_entropy,
        "lovasz": lovasz,
        "lovasz, graph": replay,
        "sum": both,
        "sum, graph": replay_both,
        "lovasz, forward": forward,
        "copy": lambda: other.copy_(scores.detach()),
    }
    times = interleaved(contestants)
    del outputs, also, too
    three = 1.5 * times["copy"]["median"]  # a copy is two passes
    row = {
        "shape": list(shape),
        "input": kind,
        "dtype": str(dtype).removeprefix("torch."),
        "layout": "channels_last" if last else "contiguous",
        "milliseconds": times,
        "copy in cache": scores.numel() * scores.element_size() < cache(),
        "copy, GB/s": 2 * scores.numel() * scores.element_size() / times["copy"]["median"] / 1e6,
        "times cross_entropy": times["lovasz"]["median"] / times["cross_entropy"]["median"],
        "graph, times cross_entropy": times["lovasz, graph"]["median"] / times["cross_entropy, graph"]["median"],
        "sum, graph, times cross_entropy": times["sum, graph"]["median"] / times["cross_entropy, graph"]["median"],
        "three passes, share": three / times["lovasz"]["median"],
        "three passes, share of the graph": three / times["lovasz, graph"]["median"],
    }
    del replay, replay_entropy, replay_both, contestants
    row["peak MiB"] = {
        "cross_entropy": peak(cross_entropy),
        "lovasz": peak(lovasz),
        "forward": peak(forward),
        "sum": peak(both),
    }
    return row


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, print the table and write JSON and table; 2 where there is no GPU to measure on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results-gpu.json", help="file or folder")
    parser.add_argument("--tests", action="store_true", help="run tests/test_gpu_kernel.py first")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given[1:] if given[:1] == ["gpu"] else given)
    if not torch.cuda.is_available():
        print("No CUDA device here: the GPU kernel can be neither checked nor measured. Nothing was written.")
        return 2
    if problem := available()["triton"] or lacking():
        print(f"The Triton kernel cannot run here: {problem}. Nothing was written.")
        return 2
    begun = time.monotonic()
    out = options.out if options.out.suffix == ".json" else options.out / "results-gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "checks": [], "rows": []}
    plans = [
        (shape[:4], kind, dtype, False)
        for shape in SHAPES
        for dtype in shape[4]
        for kind in (DISTRIBUTIONS if shape[1] in (19, 150) else DISTRIBUTIONS[1:2])
    ]
    plans += [((16, 21, 512, 512), "trained", torch.bfloat16, True)]
    targets = [plan for plan in plans if plan[0] in [shape[:4] for shape in SHAPES[:TARGETS]]]
    if options.tests:
        attempt(results, out, "tests/test_gpu_kernel.py", run_tests)
    for what, call in checks().items():
        attempt(results, out, what, call)
    for plan in targets:
        add_row(results, out, plan, begun)
    for plan in plans:
        if plan not in targets:
            add_row(results, out, plan, begun)
    attempt(results, out, "compiled, in one graph", check_compiled)
    text = table(results["rows"])
    out.with_suffix(".md").write_text(text + "\n")
    print(text)
    failed = [row["check"] for row in results["checks"] if not row["holds"]]
    print(f"FAILED: {'; '.join(failed)}" if failed else "All checks hold.", f"({time.monotonic() - begun:.0f} s)")
    return 1 if failed else 0


def add_row(results: dict[str, Any], out: Path, plan: tuple[Any, str, torch.dtype, bool], begun: float) -> None:
    """Measure one row and write it down; a row that cannot be measured is a check that fails."""
    if time.monotonic() - begun > SECONDS:
        print(f"Out of time before {plan}: left out.")
        return

    def call() -> None:
        torch.cuda.empty_cache()
        results["rows"].append(measure(*plan))
        print(table(results["rows"][-1:]).splitlines()[2], flush=True)

    attempt(results, out, "measured: " + " ".join(map(str, plan)), call)


def run_tests() -> None:
    """The kernel's tests, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu_kernel.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, check=False, timeout=200
    )
    if done.returncode:
        raise ArithmeticError(f"exit code {done.returncode}")


def cache() -> int:
    """Bytes of the L2 cache."""
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 50 << 20)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory, GiB": round(properties.total_memory / 2**30),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
