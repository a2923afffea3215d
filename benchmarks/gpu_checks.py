"""What must hold on an NVIDIA GPU before its figures mean anything: distances to float64, the same bits, no waiting.

Run by gpu.py beside it; reads the package from ``src``, installed or not.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from lovasz import lovasz_cross_entropy, lovasz_hinge, lovasz_sigmoid, lovasz_softmax  # noqa: E402

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


def the_sum(scores: Tensor, target: Tensor) -> Tensor:
    """Lovász-Softmax and cross-entropy together."""
    return lovasz_cross_entropy(scores, target, ignore_index=-1, impl="triton")


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


def checks() -> dict[str, Callable[[], dict[str, Any] | None]]:
    """All that must hold, but for torch.compile, by name."""
    found: dict[str, Callable[[], dict[str, Any] | None]] = {}
    for classes in (2, 19, 150):
        for kind in DISTRIBUTIONS:
            for dtype in (torch.float32, torch.bfloat16):
                shape = (2, classes, 256, 384)
                name = f"near float64: {classes} classes, {kind}, {str(dtype).removeprefix('torch.')}"
                found[name] = lambda shape=shape, kind=kind, dtype=dtype: check(*draw(shape, kind, dtype))
    found["few pixels, counted in global memory"] = lambda: check(*draw((2, 19, 128, 192), "trained", torch.float32))
    found["the CPU's value"] = check_cpu
    found["the sum with cross-entropy"] = check_sum
    found["hinge"] = lambda: check_masks(lovasz_hinge)
    found["sigmoid"] = lambda: check_masks(lovasz_sigmoid)
    found["nothing waits for the device"] = check_no_wait
    found["captured in a CUDA graph"] = check_graph
    return found


def some() -> tuple[Tensor, Tensor]:
    """An input like a trained network's, just large enough to be counted in shared memory."""
    scores, target = draw((2, 19, 256, 384), "trained", torch.float32)
    return scores.requires_grad_(), target


def check_cpu() -> dict[str, Any]:
    """The value is near the one that the CPU's kernel finds."""
    scores, target = some()
    on_cpu = lovasz_softmax(scores.detach().cpu(), target.cpu(), ignore_index=-1)
    distance = abs(ours(scores, target).item() / on_cpu.item() - 1)
    require(f"off by {distance:.0e}", distance < 1e-4)
    return {"value, CPU": distance}


def check_sum() -> dict[str, Any]:
    """The sum with cross-entropy is near both in float64."""
    scores, target = some()
    exact = both_passes(
        lambda z, t: (
            lovasz_softmax(z.double(), t, ignore_index=-1, method="exact")
            + torch.nn.functional.cross_entropy(z.double(), t, ignore_index=-1)
        ),
        scores,
        target,
    )
    return near(*both_passes(the_sum, scores, target), *exact)


def check_masks(loss: Callable[..., Tensor]) -> dict[str, Any]:
    """A loss of 0 and 1 is near the sort in float64."""
    scores, target = some()
    masks = (target > 9).long().masked_fill(target < 0, -1)
    leaf = scores[:, 0].detach().contiguous().requires_grad_()
    value, gradient = both_passes(lambda z, t: loss(z, t, ignore_index=-1, impl="triton"), leaf, masks)
    expected, slope = both_passes(lambda z, t: loss(z.double(), t, ignore_index=-1, method="exact"), leaf, masks)
    return near(value, gradient, expected, slope)


def check_no_wait() -> None:
    """Both passes run where torch forbids to wait for the device."""
    scores, target = some()
    both_passes(ours, scores, target)
    with warnings.catch_warnings(action="ignore"):  # the prohibition is a prototype, torch says
        torch.cuda.set_sync_debug_mode("error")
    try:
        both_passes(ours, scores, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_graph() -> None:
    """A CUDA graph of both passes gives the same bits."""
    scores, target = some()
    value, gradient = both_passes(ours, scores, target)
    replay, outputs = captured(lambda: both_passes(ours, scores, target))
    replay()
    require("the same bits", torch.equal(outputs[0], value) and torch.equal(outputs[1], gradient))


def check_compiled() -> dict[str, Any]:
    """torch.compile keeps one graph, and its numbers: one rounding of a logarithm may move bins."""
    scores, target = some()
    value, gradient = both_passes(ours, scores, target)
    return near(*both_passes(torch.compile(ours, fullgraph=True), scores, target), value, gradient)


def near(value: Tensor, gradient: Tensor, expected: Tensor, slope: Tensor) -> dict[str, Any]:
    """Relative distances of value and gradient, which must be small."""
    found = {
        "value": abs(value.item() / expected.item() - 1),
        "gradient": ((gradient.double() - slope.double()).norm() / slope.double().norm()).item(),
    }
    require(f"near: {found}", found["value"] < 1e-4 and found["gradient"] < 2e-3)
    return found


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


def lacking() -> str:
    """What Triton needs to build its launcher, and is not here; empty if nothing."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return "no C compiler, with which Triton builds what starts its kernels; install gcc, or name one in CC"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        return f"no {header}, which Triton's C code includes; install python3-dev (or python3-devel)"
    return ""
