"""The CUDA C++ that counts in shared memory: on a GPU where there is one, else compiled for the CPU, thread by thread.

A C++ compiler and emulated_cuda.h make coroutines out of a block's threads; what lies between the passes
runs in Triton's interpreter, in a process of its own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from interpreter import passes_in_the_interpreter
from losses import Case, assert_near_exact, value_and_gradient

from lovasz import lovasz_cross_entropy, lovasz_softmax, sharing
from lovasz.kernels import bins, interpreted, triton_problem

pytest.importorskip("triton", reason="triton comes with the extra gpu")
from lovasz.kernels.gpu import nvrtc, passes, shared_memory

HERE = Path(__file__).resolve().parent
DEVICE = "cpu" if interpreted() or not torch.cuda.is_available() else "cuda"
COMPILER = os.environ.get("CXX") or shutil.which("g++")
PROBLEM = triton_problem() or ("" if DEVICE == "cuda" or COMPILER else "no g++ to run CUDA C++ on the CPU with")
LARGEST = 232448  # bytes of shared memory of a block on Hopper
SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})
runs = pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "it runs")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning"),
    pytest.mark.usefixtures("few_bins"),
]


@pytest.fixture(scope="session")
def compile_for_cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Stands for nvrtc.kernels."""
    folder = tmp_path_factory.mktemp("emulated")
    how = [COMPILER or "g++", "-std=c++20", "-O0", "-w", "-fPIC"]

    @functools.cache
    def read_before() -> str:  # the standard library, which takes longer to read than a kernel takes to compile
        lines = (HERE / "emulated_cuda.h").read_text(encoding="utf-8").splitlines()
        header = folder / "standard.h"
        header.write_text("\n".join(line for line in lines if line.startswith("#include <")), encoding="utf-8")
        subprocess.run([*how, "-x", "c++-header", str(header), "-o", f"{header}.gch"], check=True, timeout=300)
        return str(header)

    def kernels(source: str, names: tuple[str, ...], defined: tuple[str, ...], *_: Any) -> dict[str, Any]:
        entries = [
            f'extern "C" void emulated_{name}(unsigned x, unsigned y, unsigned threads, unsigned bytes, void** given) '
            f"{{ start({name}, x, y, threads, bytes, given); }}"
            for name in names
        ]
        text = source + "\n".join(entries)
        library = folder / f"{hashlib.sha256((text + str(defined)).encode()).hexdigest()}.so"
        if not library.exists():
            code = library.with_suffix(".cpp")
            code.write_text(text, encoding="utf-8")
            macros = [f"-D{macro}" for macro in ("EMULATED", *defined)]
            made = ["-shared", "-include", read_before(), f"-I{HERE}", *macros, "-o", str(library), str(code)]
            subprocess.run([*how, *made], check=True, timeout=300)
        loaded = ctypes.CDLL(str(library))
        return {name: getattr(loaded, f"emulated_{name}") for name in names}

    return kernels


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, compile_for_cpu: Callable[..., dict[str, Any]]) -> list[str]:
    """Small inputs are counted in shared memory, too; receives the names of the kernels that are launched."""
    names: list[str] = []
    launch = nvrtc.launch

    def noted(kernel: Any, grid: tuple[int, int], threads: int, memory: int, arguments: Any) -> None:
        names.append(getattr(kernel, "__name__", "on the GPU"))
        if DEVICE == "cuda":
            launch(kernel, grid, threads, memory, arguments)
            return
        held = [nvrtc._argument(value) for value in arguments]
        kernel(*grid, threads, memory, (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held)))

    monkeypatch.setattr(nvrtc, "launch", noted)
    monkeypatch.setattr(shared_memory, "LEAST_PIXELS", 1)
    if DEVICE == "cpu":
        monkeypatch.setattr(nvrtc, "kernels", compile_for_cpu)
        monkeypatch.setattr(nvrtc, "multiprocessors", lambda device: 3)
        monkeypatch.setattr(nvrtc, "shared_memory", lambda device: LARGEST)
        for name in ("HELD_THREADS", "GROUP_THREADS"):
            monkeypatch.setattr(shared_memory, name, (32, 32))
        monkeypatch.setattr(shared_memory, "PLAIN_THREADS", 32)
    shared_memory._launcher.cache_clear()
    return names


WAYS = ["all classes at once", "classes in groups"]


def _in_groups(chosen: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    if chosen:
        monkeypatch.setattr(shared_memory, "HELD_CLASSES", 2)
        shared_memory._launcher.cache_clear()
    return chosen


@pytest.fixture(params=[False, True], ids=WAYS)
def groups(request: pytest.FixtureRequest, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether two classes are counted at a time, as if no more fitted; five make three groups."""
    return _in_groups(request.param, monkeypatch)


@pytest.fixture(params=[True] if DEVICE == "cpu" else [False, True], ids=WAYS[DEVICE == "cpu" :])
def mostly_groups(request: pytest.FixtureRequest, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """The same, but on the CPU, where each launch takes seconds, the longer way alone."""
    return _in_groups(request.param, monkeypatch)


@pytest.mark.skipif(not triton_problem() or not COMPILER, reason="the tests below run in this process, or not at all")
def test_it_is_right_in_the_interpreter() -> None:
    passes_in_the_interpreter(__file__)


@runs
@pytest.mark.parametrize(
    ("size", "dtype", "groups"),  # an even number of pixels is two to a thread, an odd one is one
    [
        *(((30, 40), torch.float32, way) for way in (False, True)),
        *(((31, 41), torch.bfloat16, way) for way in (False, True)),
        ((30, 40), torch.bfloat16, False),
        ((30, 40), torch.float16, False),
    ],
    indirect=["groups"],
    ids=str,
)
def test_equals_the_exact_kernel(size: tuple[int, int], dtype: torch.dtype, groups: bool, counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=size)
    tolerance = 1e-3 + (torch.finfo(dtype).eps if dtype.itemsize == 2 else 0)  # the rounding of the gradient itself
    rounded = scores.to(dtype).to(DEVICE)
    assert_near_exact(SOFTMAX, rounded, target.to(DEVICE), gradient_tolerance=tolerance, impl="triton")
    assert len(counted) == (5 if groups else 2)


@runs
@pytest.mark.parametrize(
    ("classes", "options", "labels"),
    [
        (2, {"weight": [0.25, 1.0]}, torch.uint8),
        (5, {"classes": [3, 1], "ignore_index": 255}, torch.int32),
        (19, {"classes": "all", "ignore_index": -1}, torch.int64),
        (26, {"ignore_index": 100}, torch.int8),  # two groups, and a part of a batch
    ],
    ids=str,
)
def test_options_and_types_of_labels_are_honoured(
    classes: int, options: dict[str, Any], labels: torch.dtype, counted: list[str]
) -> None:
    case = Case("softmax", "softmax", classes, options)
    scores, target = case.draw(size=(100, 200) if classes > 5 else (30, 40), images=2)
    if classes > 5:  # bins are few for so many classes, and do for a network that has learnt something
        known = torch.where((target >= 0) & (target < classes), target, 0).unsqueeze(1)
        scores.scatter_add_(1, known, torch.full_like(scores, 8.0))
    assert_near_exact(case, scores.float().to(DEVICE), target.to(labels).to(DEVICE), impl="triton")
    assert counted


@runs
def test_strided_logits_and_labels_are_read_where_they_lie(groups: bool, counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(20, 30))
    plain = value_and_gradient(SOFTMAX, scores.float().to(DEVICE), target.to(DEVICE), impl="triton")
    wide = torch.full((3, 7, 20, 30), torch.nan)
    wide[:, 1:6] = scores
    leaf = wide.to(DEVICE).requires_grad_()
    shifted = torch.stack([target, target], -1).to(DEVICE)[..., 1]
    value = SOFTMAX.package(leaf[:, 1:6], shifted, impl="triton")
    (gradient,) = torch.autograd.grad(value, leaf)
    assert torch.equal(value.detach(), plain[0])
    assert torch.equal(gradient[:, 1:6], plain[1])
    last = scores.float().to(DEVICE).contiguous(memory_format=torch.channels_last)
    value, gradient = value_and_gradient(SOFTMAX, last, target.to(DEVICE), impl="triton")
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(value, plain[0])
    assert oracle.relative(gradient, plain[1]) < 1e-6  # one pixel to a thread: compiled anew, and rounded anew
    assert len(counted) == (15 if groups else 6)


@runs
def test_bins_that_would_overflow_are_emptied_in_time(
    groups: bool, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(nvrtc, "multiprocessors", lambda device: 1)
    # 40,000 pixels that are all alike: every error of a class falls into one bin, which can take 8,191.
    scores = torch.tensor([0.5, -0.25, 0.125, 0.0]).view(1, 4, 1, 1).expand(1, 4, 100, 400).to(DEVICE).contiguous()
    target = (torch.arange(40000).view(1, 100, 400) % 16).clamp(max=3).to(DEVICE)
    case = Case("softmax", "softmax", 4)
    assert_near_exact(case, scores, target, impl="triton")
    assert counted
    # How many errors of background there are matters where they are the larger ones, here of the first class. Their
    # gradient has no one answer then: a sort puts equal errors into some order.
    scores[:, 0] = 2.0
    value = case.package(scores.requires_grad_(), target, impl="triton")
    expected = case.package(scores.double(), target, method="exact")
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


@runs
def test_numbers_that_are_not_finite_neither_pass_nor_point_beyond_the_tables(groups: bool, counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(20, 30))
    target[0, 3, 4] = 1
    leaf = scores.float().to(DEVICE)
    for bad in (torch.nan, torch.inf):
        broken = leaf.clone()
        broken[0, 2, 3, 4] = bad
        assert SOFTMAX.package(broken, target.to(DEVICE), impl="triton").isnan()
        void = target.clone()
        void[0, 3, 4] = 255
        value, gradient = value_and_gradient(SOFTMAX, broken, void.to(DEVICE), impl="triton")
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert not gradient[0, :, 3, 4].any()
    masked = leaf.clone()
    masked[:, 4] = -torch.inf  # the class that never occurs
    assert_near_exact(SOFTMAX, masked, target.to(DEVICE), impl="triton")
    assert counted


@runs
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lovasz_weight": 0.5, "cross_entropy_weight": 3.0, "weight": [1.0, 2.0, 0.0, 4.0, 5.0]},
        {"lovasz_weight": 0.0, "classes": [1, 3]},
    ],
    ids=str,
)
def test_the_cross_entropy_beside_it_takes_no_pass_of_its_own(
    options: dict[str, Any], groups: bool, counted: list[str]
) -> None:
    scores, target = SOFTMAX.draw(size=(30, 40))
    scores = scores.clone()
    scores[0, :, :4] *= 6  # some that are very sure, right or wrong
    leaf = scores.float().to(DEVICE).requires_grad_()
    value = lovasz_cross_entropy(leaf, target.to(DEVICE), ignore_index=255, impl="triton", **options)
    (gradient,) = torch.autograd.grad(3 * value, leaf)
    assert len(counted) == (5 if groups else 2)

    exact = scores.clone().requires_grad_()
    lovasz_weight, entropy_weight = options.get("lovasz_weight", 1.0), options.get("cross_entropy_weight", 1.0)
    weight = torch.tensor(options["weight"], dtype=torch.float64) if "weight" in options else None
    how = {key: options[key] for key in ("weight", "classes") if key in options}
    lovasz = lovasz_softmax(exact, target, ignore_index=255, method="exact", **how)
    entropy = torch.nn.functional.cross_entropy(exact, target, weight, ignore_index=255)
    expected = lovasz_weight * lovasz + entropy_weight * entropy
    (slope,) = torch.autograd.grad(3 * expected, exact)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert oracle.relative(gradient.cpu(), slope) < 1e-4


@runs
def test_compiled_it_keeps_one_graph(mostly_groups: bool, counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(20, 30))
    leaf, target = scores.float().to(DEVICE).requires_grad_(), target.to(DEVICE)

    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 2 * lovasz_cross_entropy(scores, target, ignore_index=255, impl="triton")

    expected = loss(leaf, target)
    (slope,) = torch.autograd.grad(expected, leaf)
    torch._dynamo.reset()
    value = torch.compile(loss, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    assert oracle.relative(gradient, slope) < 1e-5
    assert len(counted) == 2 * (5 if mostly_groups else 2)


@runs
def test_two_processes_of_which_one_has_few_pixels_share_their_bins(
    counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two:
        def size(self) -> int:
            return 2

    case = SOFTMAX
    batches = [case.draw(seed=1, size=(40, 60), images=2), case.draw(seed=2, size=(12, 20), images=2)]
    for scores, target in batches:  # of a network that has learnt something
        scores.scatter_add_(1, target.clamp(max=4).unsqueeze(1), torch.full_like(scores, 8.0))
    batches = [(scores.float().to(DEVICE), target.to(DEVICE)) for scores, target in batches]
    monkeypatch.setattr(shared_memory, "LEAST_PIXELS", 2000)  # the second process has Triton count
    monkeypatch.setattr(shared_memory, "COMMON_MEMORY", 60000)  # other tables than those of one process alone
    monkeypatch.setattr(sharing, "require_member", lambda group: None)
    # The two run one after the other. What each adds is noted, and the rounds repeated until all is known.
    sent: list[list[torch.Tensor]] = [[], []]

    def process(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        place = iter(range(100))

        def sum_over(group: Any, mine: torch.Tensor) -> torch.Tensor:
            number = next(place)
            if number == len(sent[i]):
                sent[i].append(mine)
            sent[i][number] = mine
            theirs = sent[1 - i]
            return mine + theirs[number] if number < len(theirs) else mine

        monkeypatch.setattr(passes, "sum_over", sum_over)
        return value_and_gradient(case, *batches[i], impl="triton", group=Two())

    for _ in range(4):
        results = [process(i) for i in range(2)]
    joined = [torch.cat([part.flatten(-2) for part in parts], -1) for parts in zip(*split_images(batches), strict=True)]
    expected, slope = value_and_gradient(case, joined[0].double(), joined[1], method="exact")
    gradients = torch.cat([gradient.flatten(2)[j : j + 1] for _, gradient in results for j in range(len(gradient))], 2)
    for value, _ in results:
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert oracle.relative(gradients / 2, slope) < 1e-3
    assert len(counted) == 2 * 4  # both passes of the first, each time


def split_images(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every image on its own, (1, C, H, W) scores and (1, H, W) labels."""
    return [(scores[i : i + 1], target[i : i + 1]) for scores, target in batches for i in range(len(scores))]


@runs
def test_a_second_derivative_is_refused(counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(20, 30))
    leaf = scores.float().to(DEVICE).requires_grad_()
    value = SOFTMAX.package(leaf, target.to(DEVICE), impl="triton")
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(gradient.sum(), leaf)
    assert counted


@runs
def test_what_the_passes_cannot_add_is_computed_apart(counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(30, 40))
    leaf = scores.float().to(DEVICE).requires_grad_()
    value = lovasz_cross_entropy(
        leaf, target.to(torch.uint8).to(DEVICE), ignore_index=255, label_smoothing=0.1, impl="triton"
    )
    entropy = torch.nn.functional.cross_entropy(scores, target, ignore_index=255, label_smoothing=0.1)
    expected = lovasz_softmax(scores, target, ignore_index=255, method="exact") + entropy
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    void = torch.full_like(target, 255)
    nothing = lovasz_cross_entropy(leaf, void.to(DEVICE), ignore_index=255, impl="triton")
    (gradient,) = torch.autograd.grad(nothing, leaf)
    assert nothing.item() == 0
    assert not gradient.any()
    assert counted


@runs
def test_all_void_is_zero_with_zero_gradient(counted: list[str]) -> None:
    scores = torch.randn(2, 5, 8, 8, device=DEVICE)
    target = torch.full((2, 8, 8), 255, device=DEVICE)
    value, gradient = value_and_gradient(SOFTMAX, scores, target, impl="triton")
    assert value.item() == 0
    assert not gradient.any()
    assert len(counted) == 2


@runs
def test_two_runs_and_a_second_backward_give_the_same_bits(mostly_groups: bool, counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(30, 40))
    leaf, target = scores.float().to(DEVICE).requires_grad_(), target.to(DEVICE)
    value = SOFTMAX.package(leaf, target, impl="triton")
    (first,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(value, leaf)
    again, third = value_and_gradient(SOFTMAX, leaf, target, impl="triton")
    assert torch.equal(value, again)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert counted


@runs
def test_a_launch_leaves_as_it_was_what_other_threads_may_launch_with(counted: list[str]) -> None:
    scores, target = SOFTMAX.draw(size=(20, 30))
    leaf, target = scores.float().to(DEVICE).requires_grad_(), target.to(DEVICE)
    size = shared_memory.bins_of(leaf.flatten(2), target.flatten(1), "softmax", True, False, 0)
    assert size is not None
    launcher = shared_memory._launcher_of(leaf.flatten(2), target.flatten(1), None, size, 255)
    before = bytes(launcher.walk)
    value_and_gradient(SOFTMAX, leaf, target, impl="triton")
    assert counted
    assert shared_memory._launcher_of(leaf.flatten(2), target.flatten(1), None, size, 255) is launcher
    assert bytes(launcher.walk) == before


@runs
def test_saturated_and_equal_logits_are_as_near_as_others(counted: list[str]) -> None:
    case = Case("softmax", "softmax", 3)
    _, target = case.draw(size=(40, 50), images=2)
    kinds = {
        "sure and wrong": 30 * torch.nn.functional.one_hot((target + 1) % 3, 3).movedim(-1, 1).float(),
        "sure and right": 30 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float(),
        "untrained": 1e-3 * torch.randn(2, 3, 40, 50),
    }
    for kind, logits in kinds.items():
        scores = (logits + (0.1 * torch.randn(2, 3, 40, 50) if kind != "untrained" else 0)).contiguous()
        value, gradient = value_and_gradient(case, scores.to(DEVICE), target.to(DEVICE), impl="triton")
        exact, slope = value_and_gradient(case, scores.double(), target, method="exact")
        assert value.item() == pytest.approx(exact.item(), rel=1e-4, abs=2.0**-29), kind  # near the lowest place
        if kind == "untrained":  # else the softmax's own slope is some 1e-13, which float32 cannot tell
            assert oracle.relative(gradient.cpu(), slope) < 3e-3
        else:
            assert gradient.abs().max() < 1e-9
    assert counted


@pytest.mark.parametrize("memory", [LARGEST, 166912, 101376], ids=["Hopper", "A100", "RTX 40"])
def test_tables_of_any_number_of_classes_fit_the_shared_memory(memory: int) -> None:
    for classes in range(1, 1200):
        found = shared_memory.of_classes(classes, memory)
        assert found is not None
        assert found.group <= min(classes, shared_memory.HELD_CLASSES)
        tables = found.group * (2 * bins.MIRRORED_CELLS + 4 * shared_memory.WASTE + 8 * found.size)
        assert tables <= memory
        assert found.size > bins.MIRRORED_CELLS  # a bin for each cell, and the tail's
        assert found.size + shared_memory.WASTE <= shared_memory.ENTRY_LIMIT
    assert shared_memory.of_classes(3, 5000) is None


def test_classes_in_groups_have_half_as_many_bins_again_as_the_most_that_are_held_at_once() -> None:
    held = shared_memory.of_classes(shared_memory.HELD_CLASSES, LARGEST)
    assert held is not None
    for classes in range(shared_memory.HELD_CLASSES + 1, 1200):
        found = shared_memory.of_classes(classes, LARGEST)
        assert found is not None
        assert found.size > 1.5 * held.size


def test_what_cannot_be_counted_in_shared_memory_is_left_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "shared_memory", lambda device: LARGEST)
    many = torch.empty(1, 4, shared_memory.LEAST_PIXELS), torch.empty(1, shared_memory.LEAST_PIXELS, dtype=torch.long)
    assert shared_memory.layout(*many) == shared_memory.of_classes(4, LARGEST)
    assert shared_memory.layout(many[0][..., 1:], many[1][..., 1:]) is None  # few pixels
    assert shared_memory.layout(many[0].double(), many[1]) is None
    for errors, labelled, per_image in (("sigmoid", True, False), ("softmax", False, False), ("softmax", True, True)):
        assert shared_memory.bins_of(*many, errors, labelled, per_image, 0) is None
    monkeypatch.setattr(nvrtc, "shared_memory", lambda device: 0)  # no compiler
    assert shared_memory.layout(*many) is None


@pytest.mark.skipif(interpreted(), reason="done by the process that started the interpreter's")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here, CUDA's compiler; on a GPU NVRTC does it")
@pytest.mark.parametrize(
    ("classes", "memory", "architecture"),
    [(19, LARGEST, "sm_90"), (150, LARGEST, "sm_90"), (21, 166912, "sm_80"), (21, 101376, "sm_89")],
)
def test_the_kernels_compile_for_gpus_with_little_kept_outside_registers(
    classes: int, memory: int, architecture: str, tmp_path: Path
) -> None:
    found = shared_memory.of_classes(classes, memory)
    assert found is not None
    held = found.group == classes
    threads = shared_memory.HELD_THREADS if held else shared_memory.GROUP_THREADS
    code = tmp_path / "kernels.cu"
    code.write_text(shared_memory._source(held), encoding="utf-8")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        macros = shared_memory.macros(classes, found, dtype, torch.int64, 2, threads)
        command = [
            "nvcc",
            f"-arch={architecture}",
            "-std=c++17",
            "-cubin",
            "-Xptxas",
            "-v",
            "-o",
            os.devnull,
            str(code),
        ]
        done = subprocess.run(
            [*command, *(f"-D{macro}" for macro in macros)], check=True, capture_output=True, text=True, timeout=300
        )
        spilled = [int(number) for number in re.findall(r"(\d+) bytes spill stores", done.stderr)]
        assert len(spilled) == (2 if held else 5)
        assert max(spilled) <= 64, done.stderr


class LeavesTheLocale:
    """As NVRTC of CUDA 12.4 does: its compiler leaves this thread in a locale of its own, C."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        self.library.newlocale.restype = self.library.uselocale.restype = ctypes.c_void_p

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_: 0

    def nvrtcCompileProgram(self, *_: Any) -> int:
        characters = 1  # LC_CTYPE_MASK
        self.library.uselocale(ctypes.c_void_p(self.library.newlocale(characters, b"C", None)))
        return 0

    def now(self) -> int:
        return self.library.uselocale(None)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is compiled")
def test_a_compiled_kernel_leaves_the_locale_as_it_was() -> None:
    compiler = LeavesTheLocale()
    before = compiler.now()
    compiler.nvrtcCompileProgram()
    left = compiler.now()
    compiler.library.uselocale(ctypes.c_void_p(before))
    assert left != before
    nvrtc._compiled(compiler, "", [])  # pyright: ignore[reportArgumentType]
    assert compiler.now() == before


@pytest.mark.skipif(DEVICE == "cuda", reason="there is one here")
def test_without_cuda_nothing_is_compiled() -> None:
    assert nvrtc.shared_memory(torch.device("cpu")) == 0


@pytest.mark.skipif(DEVICE != "cuda" or bool(PROBLEM), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("classes", [2, 19, 43, 150])
def test_large_inputs_are_near_float64_on_the_gpu(classes: int) -> None:
    case = Case("softmax", "softmax", classes, {"ignore_index": 255})
    scores, target = case.draw(size=(300, 400))
    scores.scatter_add_(1, target.clamp(max=classes - 1).unsqueeze(1), torch.full_like(scores, 8.0))
    assert shared_memory.layout(scores.float().cuda().flatten(2), target.cuda().flatten(1))
    assert_near_exact(case, scores.float().cuda(), target.cuda(), impl="triton")
    found = torch.compile(lambda z, t: lovasz_softmax(z, t, ignore_index=255), fullgraph=True)
    value = found(scores.float().cuda(), target.cuda())
    assert value.item() == pytest.approx(lovasz_softmax(scores.float().cuda(), target.cuda(), ignore_index=255).item())
