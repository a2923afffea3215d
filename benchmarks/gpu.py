"""The losses on an NVIDIA GPU: checked against float64 first, then timed against cross-entropy and plain copies.

``python -m benchmarks.gpu`` is one command of less than 8 minutes that needs torch, triton, numpy and pytest alone, and
no installation of the package: it reads ``src`` beside it.
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
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax  # noqa: E402
from lovasz.kernels import available  # noqa: E402

SECONDS = 400  # after which no further row is begun
SHAPES = [  # images, classes, height, width, dtypes
    (8, 19, 1024, 2048, (torch.bfloat16, torch.float32)),
    (16, 150, 512, 512, (torch.bfloat16, torch.float32)),
    (8, 2, 1024, 1024, (torch.bfloat16, torch.float32)),
    (16, 21, 512, 512, (torch.float16, torch.bfloat16, torch.float32)),
    (1, 1000, 512, 512, (torch.bfloat16,)),
]
DISTRIBUTIONS = ("random", "trained", "confident")


def draw(shape: tuple[int, int, int, int], kind: str, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of an untrained, a trained and a very sure network, and labels with 2 % void (255, or -1 beyond)."""
    images, classes, height, width = shape
    generator = torch.Generator("cuda").manual_seed(seed)
    target = torch.randint(classes, (images, height, width), generator=generator, device="cuda")
    logits = torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32)
    spread, margin = {"random": (1.0, 0.0), "trained": (2.0, 8.0), "confident": (3.0, 20.0)}[kind]
    logits *= spread
    if margin:
        at = target.unsqueeze(1)
        logits.scatter_add_(1, at, torch.full(at.shape, margin, device="cuda"))
    target[torch.rand(target.shape, generator=generator, device="cuda") < 0.02] = -1
    return logits.to(dtype), target


def both_passes(loss: Callable[[Tensor, Tensor], Tensor], scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    value = loss(scores, target)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.detach(), gradient


def ours(scores: Tensor, target: Tensor) -> Tensor:
    """Lovász-Softmax by the kernel under test."""
    return lovasz_softmax(scores, target, ignore_index=-1, impl="triton")


def check(scores: Tensor, target: Tensor) -> dict[str, float]:
    """Relative distance of value and gradient to the sort in float64, and to the binned kernel in plain torch."""
    leaf = scores.requires_grad_()
    value, gradient = both_passes(ours, leaf, target)
    again, same = both_passes(ours, leaf, target)
    require("two runs give the same bits", torch.equal(value, again) and torch.equal(gradient, same))
    found = {}
    references = {
        "float64": lambda z, t: lovasz_softmax(z.double(), t, ignore_index=-1, method="exact"),
        "plain torch": lambda z, t: lovasz_softmax(z, t, ignore_index=-1, impl="torch"),
    }
    for name, reference in references.items():
        expected, slope = both_passes(reference, leaf, target)
        found[f"value, {name}"] = abs(value.item() / expected.item() - 1)
        found[f"gradient, {name}"] = ((gradient.double() - slope.double()).norm() / slope.double().norm()).item()
    eps = torch.finfo(scores.dtype).eps if scores.dtype.itemsize < 4 else 0.0
    require(f"near float64: {found}", found["value, float64"] < 1e-4 and found["gradient, float64"] < 2e-3 + eps)
    return found


def checks() -> list[dict[str, Any]]:
    """All that must hold before anything is timed; a failure raises."""
    rows = []
    for classes in (2, 19, 150):
        for kind in DISTRIBUTIONS:
            for dtype in (torch.float32, torch.bfloat16):
                scores, target = draw((2, classes, 128, 192), kind, dtype)
                rows.append({"classes": classes, "input": kind, "dtype": str(dtype), **check(scores, target)})
    scores, target = draw((2, 19, 128, 192), "trained", torch.float32)
    on_cpu = lovasz_softmax(scores.cpu(), target.cpu(), ignore_index=-1)
    distance = abs(ours(scores, target).item() / on_cpu.item() - 1)
    require(f"the CPU's value: off by {distance:.0e}", distance < 1e-4)
    masks = (target > 9).long().masked_fill(target < 0, -1)
    for name, loss in (("hinge", lovasz_hinge), ("sigmoid", lovasz_sigmoid)):
        leaf = scores[:, 0].contiguous().requires_grad_()
        value, gradient = both_passes(lambda z, t: loss(z, t, ignore_index=-1, impl="triton"), leaf, masks)  # noqa: B023
        expected, slope = both_passes(lambda z, t: loss(z.double(), t, ignore_index=-1, method="exact"), leaf, masks)  # noqa: B023
        require(f"{name}: value", abs(value.item() / expected.item() - 1) < 1e-4)
        require(f"{name}: gradient", bool((gradient - slope).norm() < 2e-3 * slope.norm()))
    leaf = scores.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value, gradient = both_passes(ours, leaf, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    compiled = torch.compile(ours, fullgraph=True)
    again, same = both_passes(compiled, leaf, target)
    require("compiled, in one graph", torch.allclose(value, again) and torch.allclose(gradient, same))
    replay, outputs = captured(lambda: both_passes(ours, leaf, target))
    replay()
    require("captured in a CUDA graph", torch.equal(outputs[0], value) and torch.equal(outputs[1], gradient))
    return rows


def captured(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """The call as a CUDA graph: what replays it, and where its results lie."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph.replay, outputs


def require(what: str, holds: bool) -> None:
    """Raise unless it holds: a wrong result has no speed."""
    if not holds:
        raise ArithmeticError(f"does not hold: {what}")


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

    def forward() -> Any:
        with torch.no_grad():
            return ours(scores, target)

    replay, outputs = captured(lovasz)
    contestants: dict[str, Callable[[], Any]] = {
        "cross_entropy": cross_entropy,
        "lovasz": lovasz,
        "lovasz, graph": replay,
        "lovasz, forward": forward,
        "copy": lambda: other.copy_(scores.detach()),
    }
    times = interleaved(contestants)
    del outputs
    three = 1.5 * times["copy"]["median"]  # a copy is two passes
    row = {
        "shape": list(shape),
        "input": kind,
        "dtype": str(dtype).removeprefix("torch."),
        "layout": "channels_last" if last else "contiguous",
        "milliseconds": times,
        "copy, GB/s": 2 * scores.numel() * scores.element_size() / times["copy"]["median"] / 1e6,
        "times cross_entropy": times["lovasz"]["median"] / times["cross_entropy"]["median"],
        "graph, times cross_entropy": times["lovasz, graph"]["median"] / times["cross_entropy"]["median"],
        "three passes, share": three / times["lovasz"]["median"],
        "three passes, share of the graph": three / times["lovasz, graph"]["median"],
    }
    del replay, contestants
    row["peak MiB"] = {"cross_entropy": peak(cross_entropy), "lovasz": peak(lovasz), "forward": peak(forward)}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in markdown."""
    lines = [
        "| logits | dtype | input | cross-entropy ms | Lovász ms (quartiles) | as a graph | forward "
        "| times CE | graph, times CE | share of three passes (graph) | peak MiB: CE, Lovász, forward |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        t, m = row["milliseconds"], row["peak MiB"]
        shape = " x ".join(map(str, row["shape"])) + (" channels last" if row["layout"] != "contiguous" else "")
        lovasz, graph = t["lovasz"], t["lovasz, graph"]
        lines.append(
            f"| {shape} | {row['dtype']} | {row['input']} | {t['cross_entropy']['median']:.2f} "
            f"| {lovasz['median']:.2f} ({lovasz['low']:.2f} to {lovasz['high']:.2f}) | {graph['median']:.2f} "
            f"| {t['lovasz, forward']['median']:.2f} | {row['times cross_entropy']:.2f} "
            f"| {row['graph, times cross_entropy']:.2f} | {row['three passes, share']:.2f} "
            f"({row['three passes, share of the graph']:.2f}) "
            f"| {m['cross_entropy']:.0f}, {m['lovasz']:.0f}, {m['forward']:.0f} |"
        )
    return "\n".join(lines)


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
    if problem := available()["triton"]:
        print(f"The Triton kernel cannot run here: {problem}. Nothing was written.")
        return 2
    begun = time.monotonic()
    if options.tests:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu_kernel.py"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": sys.path[0]}, check=True, timeout=300)
    out = options.out if options.out.suffix == ".json" else options.out / "results-gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "checks": checks(), "rows": []}
    print(f"All checks hold ({time.monotonic() - begun:.0f} s).", flush=True)
    plans = [
        (shape[:4], kind, dtype, False)
        for shape in SHAPES
        for dtype in shape[4]
        for kind in (DISTRIBUTIONS if shape[1] in (19, 150) else DISTRIBUTIONS[1:2])
    ]
    plans += [((16, 21, 512, 512), "trained", torch.bfloat16, True)]
    for shape, kind, dtype, last in plans:
        if time.monotonic() - begun > SECONDS:
            print(f"Out of time before {shape} {kind} {dtype}: left out.")
            continue
        row = measure(shape, kind, dtype, last)
        results["rows"].append(row)
        print(table([row]).splitlines()[-1], flush=True)
        torch.cuda.empty_cache()
        out.write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(results["rows"]) + "\n")
    print(table(results["rows"]))
    return 0


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
