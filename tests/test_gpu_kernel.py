"""The Triton kernel against the exact one: on a GPU where there is one, else number by number in Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, so without a GPU these tests run once more in a process of their own.
"""

import importlib.metadata
import importlib.util
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from interpreter import passes_in_the_interpreter
from losses import CASES, Case, assert_near_exact, value_and_gradient
from torch.utils._python_dispatch import TorchDispatchMode

from lovasz import kernels, lovasz_sigmoid, lovasz_softmax
from lovasz.kernels import available, choose, interpreted, triton_problem
from lovasz.validation import resolve_weight

INSTALLED = importlib.util.find_spec("triton") is not None
DEVICE = "cpu" if interpreted() or not torch.cuda.is_available() else "cuda"
RUNS = INSTALLED and not triton_problem()
SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})
CHOOSY = Case("softmax", "softmax", 5, {"ignore_index": 255, "classes": [0, 3], "weight": [1.0, 2.0, 0.0, 4.0, 5.0]})

# The interpreter computes in numpy, which speaks up where a GPU is silent: infinity minus infinity, and the like.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning"),
    pytest.mark.usefixtures("few_bins"),
]

runs = pytest.mark.skipif(not RUNS, reason=triton_problem() or "it runs")
gpu = pytest.mark.skipif(DEVICE != "cuda" or not RUNS, reason="no NVIDIA GPU here, or no triton")


@pytest.mark.skipif(not INSTALLED, reason=triton_problem() or "triton is here")
@pytest.mark.skipif(RUNS, reason="the tests below run in this process")
def test_the_kernel_is_right_in_the_interpreter() -> None:
    passes_in_the_interpreter(__file__)


@pytest.mark.skipif(not INSTALLED, reason=triton_problem() or "triton is here")
@pytest.mark.skipif(interpreted(), reason="the interpreter takes tensors on the CPU")
def test_tensors_on_the_cpu_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"impl='triton' needs tensors on a CUDA device, got cpu"):
        lovasz_softmax(torch.zeros(1, 3, 4), torch.zeros(1, 4, dtype=torch.long), impl="triton")


@pytest.mark.skipif(INSTALLED, reason="triton is installed")
def test_a_missing_package_is_named_with_its_remedy() -> None:
    with pytest.raises(ImportError, match=r"lovasz\[gpu\]"):
        lovasz_softmax(torch.zeros(1, 3, 4), torch.zeros(1, 4, dtype=torch.long), impl="triton")


@pytest.mark.parametrize(("version", "old"), [("3.2.0", True), ("3.3.0", False), ("4.0.0+git1", False), ("2.1", True)])
def test_an_old_triton_is_left_alone_and_named_with_the_remedy(
    version: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    found = kernels._too_old()
    assert bool(found) == old
    monkeypatch.setattr(kernels, "_TRITON_TOO_OLD", found)
    chosen = choose("binned", "auto", torch.device("cuda"), 1 << 20)
    if old:
        assert chosen.kernel == "portable"
        if INSTALLED:
            assert f"triton {version} is too old" in chosen.reason
        with pytest.raises(ImportError, match=r"needs 3\.3, which comes with torch 2\.7: pip install -U torch"):
            choose("binned", "triton", torch.device("cuda"), 1 << 20)
    elif INSTALLED:
        assert choose("binned", "triton", torch.device("cuda"), 1 << 20).kernel == "gpu"


def test_what_is_available_and_what_is_chosen_agree() -> None:
    chosen = choose("binned", "auto", torch.device("cuda"), 1 << 20)
    assert chosen.kernel == ("portable" if available()["triton"] else "gpu")
    assert choose("binned", "auto", torch.device("cpu"), 1 << 20).kernel != "gpu"


@runs
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_exact_kernel(case: Case) -> None:
    scores, target = case.draw(seed=3, size=(40, 90))
    assert_near_exact(case, scores.float().to(DEVICE), target.to(DEVICE), impl="triton")


@runs
@pytest.mark.parametrize("classes", [40, 150] if DEVICE == "cuda" else [27])  # blocks of eight, and a part of one
def test_many_classes_are_walked_in_blocks(classes: int) -> None:
    case = Case("softmax", "softmax", classes, {"ignore_index": 255})
    scores, target = case.draw(size=(12, 20), images=2)
    assert_near_exact(case, scores.float().to(DEVICE), target.to(DEVICE), impl="triton")


@runs
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_read_in_place(dtype: torch.dtype) -> None:
    for name in ("softmax", "hinge"):
        case = next(case for case in CASES if case.name == name)
        scores, target = case.draw(size=(20, 30))
        rounded, target = scores.to(dtype).to(DEVICE), target.to(DEVICE)
        tolerance = 1e-3 + torch.finfo(dtype).eps  # the bins, and the rounding of the gradient itself
        assert_near_exact(case, rounded, target, gradient_tolerance=tolerance, impl="triton")
        value, _ = value_and_gradient(case, rounded, target, impl="triton")
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@runs
def test_layouts_are_read_where_they_lie() -> None:
    scores, target = SOFTMAX.draw(size=(16, 24))
    scores, target = scores.float().to(DEVICE), target.to(DEVICE)
    expected = value_and_gradient(SOFTMAX, scores, target, impl="triton")
    last = scores.contiguous(memory_format=torch.channels_last)
    value, gradient = value_and_gradient(SOFTMAX, last, target, impl="triton")
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(value, expected[0])
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-9)
    pixels = scores.movedim(1, -1).reshape(-1, 5).detach().requires_grad_()  # (P, C)
    value = lovasz_softmax(pixels, target.flatten(), ignore_index=255, impl="triton")
    (gradient,) = torch.autograd.grad(value, pixels)
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(gradient.view(3, 16, 24, 5).movedim(-1, 1), expected[1], rtol=1e-4, atol=1e-9)


@runs
def test_two_runs_give_the_same_bits() -> None:
    scores, target = SOFTMAX.draw(size=(40, 60))
    first, second = (value_and_gradient(SOFTMAX, scores.to(DEVICE), target.to(DEVICE), impl="triton") for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@runs
def test_bins_in_several_parts_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from lovasz.kernels.gpu import passes

    scores, target = SOFTMAX.draw(size=(20, 60))
    whole = value_and_gradient(SOFTMAX, scores.float().to(DEVICE), target.to(DEVICE), impl="triton")
    monkeypatch.setattr(passes, "_PART", 500)
    parts = value_and_gradient(SOFTMAX, scores.float().to(DEVICE), target.to(DEVICE), impl="triton")
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@runs
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_counts_of_two_processes_add_up_to_the_joined_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lovasz import sharing
    from lovasz.kernels.gpu import passes

    class Two:
        def size(self) -> int:
            return 2

    # Two processes with the same images: each sum over the processes is twice one's own.
    monkeypatch.setattr(sharing, "require_member", lambda group: None)
    monkeypatch.setattr(passes, "sum_over", lambda group, tensor: tensor if group is None else 2 * tensor)
    case = Case(name, name, 5 if name == "softmax" else 1, {"ignore_index": 255})
    scores, target = case.draw(size=(20, 60))
    scores, target = scores.float().to(DEVICE), target.to(DEVICE)
    value, gradient = value_and_gradient(case, scores, target, impl="triton", group=Two())
    joined = torch.cat([scores, scores]), torch.cat([target, target])
    expected, both = value_and_gradient(case, *joined, method="exact")
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (gradient / 2 - both[: len(scores)]).norm() < 1e-3 * both[: len(scores)].norm()


@runs
@pytest.mark.parametrize(("bad", "classes"), [(torch.nan, 3), (torch.inf, 3), (torch.inf, 32)])
def test_a_logit_that_is_not_finite_is_never_a_silent_number(bad: float, classes: int) -> None:
    logits = torch.randn(1, classes, 8, 8, device=DEVICE)
    logits[0, 1, 5, 5] = bad
    target = torch.randint(0, 3, (1, 8, 8), device=DEVICE)
    assert lovasz_softmax(logits, target, impl="triton").isnan()
    target[0, 5, 5] = 255
    assert lovasz_softmax(logits, target, ignore_index=255, impl="triton").isfinite()
    assert lovasz_sigmoid(logits[:, 1] + 0 * logits[:, 1], target.clamp(max=1), impl="triton").isnan()


@runs
@pytest.mark.parametrize("classes", [3, 32])
def test_a_masked_class_at_minus_infinity_is_fine(classes: int) -> None:
    logits = torch.randn(1, classes, 10, 10, device=DEVICE)
    logits[:, 2:] = -torch.inf
    target = torch.randint(0, 2, (1, 10, 10), device=DEVICE)
    case = Case("softmax", "softmax", classes)
    assert_near_exact(case, logits, target, impl="triton")


@runs
def test_confident_networks_leave_most_errors_uncounted_and_the_result_right() -> None:
    case = Case("softmax", "softmax", 5)
    scores, target = case.draw(size=(40, 60))
    scores = 2 * scores
    scores.scatter_add_(1, target.unsqueeze(1), torch.full_like(scores, 14.0))
    assert_near_exact(case, scores.float().to(DEVICE), target.to(DEVICE), impl="triton")


@runs
def test_all_void_is_zero_with_zero_gradient() -> None:
    scores = torch.randn(2, 4, 8, 8, device=DEVICE)
    scores[0, 0, 0, 0] = torch.nan  # not even read
    target = torch.full((2, 8, 8), 255, device=DEVICE)
    value, gradient = value_and_gradient(SOFTMAX, scores, target, impl="triton")
    assert value.item() == 0
    assert not gradient.any()


@runs
def test_compiled_it_keeps_one_graph() -> None:
    scores, target = SOFTMAX.draw(size=(10, 12))
    scores, target = scores.float().to(DEVICE), target.to(DEVICE)
    expected = value_and_gradient(SOFTMAX, scores, target, impl="triton")

    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 2 * lovasz_softmax(scores, target, ignore_index=255, impl="triton")

    leaf = scores.clone().requires_grad_()
    value = torch.compile(loss, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    # One rounding of a logarithm may move bins, and inductor may fuse what rounds.
    torch.testing.assert_close(value.detach(), 2 * expected[0], rtol=1e-4, atol=0)
    assert oracle.relative(gradient, 2 * expected[1]) < 2e-3


@runs
@pytest.mark.parametrize("number", ["labels", "errors"])
def test_more_than_2_to_the_31_pixels_are_told_apart(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE != "cpu":
        pytest.skip("the interpreter alone runs a single program of many")
    from lovasz.kernels.gpu import passes, softmax

    pixels, classes = (1 << 31) + 100, 2  # whose last 100 are the last program's
    target = torch.zeros(1, 1, dtype=torch.uint8).expand(1, pixels)
    kernel = "count_labels" if number == "labels" else "count_softmax"
    monkeypatch.setattr(softmax, kernel, LastProgram(getattr(softmax, kernel)))
    if number == "labels":
        found = passes.count_labels(target, classes, False, 0, False)
        assert found.tolist() == [[100, 0, 0]]
        return
    cells = 928
    entries = torch.arange(19, cells << 5, 32, dtype=torch.int32).repeat(classes, 1)
    scores = torch.zeros(1, classes, 1).expand(1, classes, pixels)
    hist, *_ = passes.count_errors(scores, target, entries, "softmax", True, False, 0, False, 1, cells, None)
    assert (hist >> 38).sum((0, 3)).tolist() == [[0, 100], [100, 0]]


class LastProgram:
    """Stands where a kernel is launched: in the interpreter, runs only the last program of the grid."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        from triton.runtime.interpreter import TensorHandle, interpreter_builder, tl

        def launch(*arguments: Any, **named: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in (("program_id", grid[0] - 1), ("num_programs", grid[0])):
                    handle = TensorHandle(np.array([value], dtype=np.int32), tl.int32)
                    patch.setattr(interpreter_builder, f"create_get_{name}", lambda axis, handle=handle: handle)
                self.kernel[(1,)](*arguments, **named)

        return launch


@runs
def test_far_reaching_strides_of_any_tensor_ask_for_64_bits() -> None:
    from lovasz.kernels.gpu import passes

    def strided(*strides: int) -> torch.Tensor:
        return torch.empty_strided((2, 3, 16)[-len(strides) :], strides, device="meta")

    entries, near = torch.empty(3, 928, device="meta"), strided(48, 16, 1)
    large = {
        far.stride(): passes._how((near, far), entries, False, False)["LARGE"]
        for far in (
            near,
            strided(1 << 40, 16, 1),
            strided(48, 1 << 30, 1),
            strided(48, 1, 1 << 20),
            strided(16, 1),
            strided(1 << 40, 1 << 20),
        )
    }
    assert list(large.values()) == [False, False, True, True, False, True]


def test_class_weights_given_as_numbers_are_not_copied_to_a_device() -> None:
    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    names: list[str] = []
    like = torch.empty(1, 3, 4, device="meta")  # stands for a GPU
    with Calls():
        weight = resolve_weight([1, 2.5, 0], 3, like)
    assert weight is not None
    assert weight.shape == (3,)
    assert weight.device == like.device
    assert not {"_to_copy", "copy_", "lift_fresh"} & set(names)
    for wrong in ([], [1.0, 2.0], torch.ones(2, device="meta")):
        with pytest.raises(ValueError, match=r"weight must have shape \(3,\)"):
            resolve_weight(wrong, 3, like)


@gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # a prototype, torch says
@pytest.mark.parametrize("case", [SOFTMAX, CHOOSY], ids=str)
def test_nothing_waits_for_the_device(case: Case) -> None:
    scores, target = case.draw(size=(100, 120))
    scores, target = scores.float().cuda(), target.cuda()
    value_and_gradient(case, scores, target, impl="triton")  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        value_and_gradient(case, scores, target, impl="triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("case", [SOFTMAX, CHOOSY], ids=str)
def test_a_cuda_graph_captures_both_passes(case: Case) -> None:
    scores, target = case.draw(size=(100, 120))
    leaf, target = scores.float().cuda().requires_grad_(), target.cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(case.package(leaf, target, impl="triton"), leaf)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = case.package(leaf, target, impl="triton")
        (gradient,) = torch.autograd.grad(value, leaf)
    with torch.no_grad():
        leaf.copy_(torch.randn_like(leaf))
    graph.replay()
    expected = value_and_gradient(case, leaf, target, impl="triton")
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])
