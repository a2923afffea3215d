"""Losses inside torch.compile on the CPU: one graph with the fast kernel in it, its results and its complaints."""

import functools
import shutil

import numpy as np
import pytest
import torch
from losses import CASES, Case
from torch import Tensor

from lovasz import LovaszSoftmaxLoss, lovasz_cross_entropy, lovasz_hinge, lovasz_softmax
from lovasz.kernels import choose, numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})


@pytest.fixture(autouse=True)
def _no_graphs_of_others():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(loss, **options):
    """For the graph, not for its code: that takes a C++ compiler and seconds, and one test has it."""
    return torch.compile(loss, fullgraph=True, backend="aot_eager", **options)


def both(loss, scores: Tensor, target: Tensor, factor: float = 1) -> tuple[Tensor, Tensor]:
    leaf = scores.detach().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(factor * value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_graph_computes_what_the_sort_does(case: Case) -> None:
    scores, target = case.draw(seed=3, size=(70, 90))
    value, gradient = both(compiled(lambda z, t: case.package(z, t)), scores.float(), target, factor=3)
    exact, slope = both(lambda z, t: case.package(z, t, method="exact"), scores.float().double(), target, factor=3)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    assert (gradient - slope).norm() <= 1e-3 * slope.norm()


@pytest.mark.parametrize("impl", ["auto", "numba"])  # so small an input is sorted, but by impl="numba"
def test_it_is_the_kernel_that_runs_outside_a_graph(impl: str) -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    for loss in (SOFTMAX.package, functools.partial(lovasz_cross_entropy, ignore_index=255, label_smoothing=0.1)):
        loss = functools.partial(loss, impl=impl)
        inside, outside = both(compiled(loss), scores.float(), target), both(loss, scores.float(), target)
        assert torch.equal(inside[0], outside[0])
        assert torch.equal(inside[1], outside[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_formats_and_layouts_are_kept(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    scores = scores.to(dtype).to(memory_format=memory_format)
    inside = both(compiled(SOFTMAX.package), scores, target)
    outside = both(SOFTMAX.package, scores, target)
    assert inside[0].dtype == outside[0].dtype
    assert inside[1].dtype == dtype
    assert inside[1].stride() == outside[1].stride()
    assert torch.equal(inside[1], outside[1])


@pytest.mark.parametrize("loss", [SOFTMAX.package, lambda z, t: lovasz_hinge(z[:, 0], (t == 1).long())])
def test_a_gradient_scaler_keeps_half_precision_from_vanishing(loss) -> None:
    scores, target = SOFTMAX.draw(size=(150, 160))
    scores = scores.half()
    factor = 2.0**16  # where torch.amp.GradScaler begins; infinite in float16
    _, exact = both(loss, scores.double(), target, factor)
    inside, outside = both(compiled(loss), scores, target, factor)[1], both(loss, scores, target, factor)[1]
    assert inside.dtype == torch.float16
    for gradient in (inside, outside):
        assert (gradient.double() - exact).norm() <= 2e-3 * exact.norm()


def test_flags_of_every_kind_keep_one_graph() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    loss = LovaszSoftmaxLoss(ignore_index=255, per_image=np.bool_(True))
    assert compiled(loss)(scores, target) == loss(scores, target)
    chosen = compiled(lambda z, t: lovasz_softmax(z, t, ignore_index=255, per_image=z.shape[0] > 1), dynamic=True)
    assert chosen(scores, target) == loss(scores, target)


def test_a_second_derivative_is_refused_and_not_zero() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    scores.requires_grad_()
    loss = torch.compile(SOFTMAX.package, fullgraph=True, backend="eager")  # the compilers proper refuse by themselves
    (gradient,) = torch.autograd.grad(loss(scores, target), scores, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once.*method='exact'"):
        gradient.square().sum().backward()


def test_bad_weights_are_refused() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    weight = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0])
    with pytest.raises(RuntimeError, match=r"weight holds a number that is negative"):
        compiled(lambda z, t, w: lovasz_softmax(z, t, ignore_index=255, weight=w))(scores, target, weight)


def test_one_graph_serves_sizes_that_change() -> None:
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    loss = torch.compile(SOFTMAX.package, fullgraph=True, dynamic=True, backend=backend)
    for size in ((70, 90), (80, 60), (110, 75)):
        scores, target = SOFTMAX.draw(size=size)
        torch.testing.assert_close(loss(scores, target), SOFTMAX.package(scores, target))
    assert len(graphs) == 1


def test_without_a_gradient_there_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from lovasz.kernels.cpu import passes

    def refuse(*_):
        raise AssertionError("nobody asked for the gradient")

    monkeypatch.setattr(passes._Passes, "gradient", refuse)
    scores, target = SOFTMAX.draw(size=(70, 90))
    loss = compiled(SOFTMAX.package)
    expected = SOFTMAX.package(scores, target)
    assert torch.equal(loss(scores, target), expected)
    with torch.no_grad():
        assert torch.equal(loss(scores.requires_grad_(), target), expected)


def test_a_wrong_label_is_named_as_outside_a_graph() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    target[0, 0, 0] = 7
    with pytest.raises(ValueError, match=r"target holds the label 7, but there are 5 classes"):
        compiled(SOFTMAX.package)(scores, target)
    with pytest.raises(ValueError, match=r"target holds the label 3"):
        compiled(lambda z, t: lovasz_hinge(z, t))(scores[:, 0], torch.full_like(target, 3))


def test_not_a_number_stays_one() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    scores[0, 0, 0, 0], target[0, 0, 0] = torch.nan, 0
    assert compiled(SOFTMAX.package)(scores, target).isnan()


def test_a_training_step_compiles_with_its_network() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 3, padding=1)
    images, target = torch.randn(2, 2, 80, 80), torch.randint(0, 3, (2, 80, 80))

    def step(images: Tensor, target: Tensor) -> Tensor:
        return lovasz_cross_entropy(network(images), target)

    def gradients(step) -> list[Tensor]:
        network.zero_grad()
        step(images, target).backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    for inside, outside in zip(gradients(compiled(step)), gradients(step), strict=True):
        torch.testing.assert_close(inside, outside)


def test_a_gradient_by_torch_func_compiles() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    loss = torch.func.grad(lambda z: SOFTMAX.package(z, target))
    torch.testing.assert_close(compiled(loss)(scores), loss(scores))


def test_impl_torch_is_obeyed_inside_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    place = torch.device("cpu")
    assert choose("binned", "torch", place, 1 << 20).kernel == "portable"
    assert choose("binned", "auto", place, 1 << 20).kernel == "operator"
    assert choose("binned", "numba", place, 1 << 20).kernel == "operator"
    assert choose("binned", "auto", place, 1 << 20, classes=16).kernel == "sorted_operator"
    assert choose("binned", "numba", place, 1 << 20, classes=16).kernel == "operator"
    assert choose("binned", "auto", place, 1 << 20, classes=16, dtype=torch.float64).kernel == "operator"
    assert choose("binned", "auto", place, 1 << 20, shared=True).kernel == "portable"
    assert choose("exact", "auto", place, 1 << 20).kernel == "exact"


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's own backend needs g++")
def test_generated_code_calls_the_kernel() -> None:
    scores, target = SOFTMAX.draw(size=(70, 90))
    loss = torch.compile(lambda z, t: SOFTMAX.package(1.5 * z, t), fullgraph=True)
    inside = both(loss, scores.float(), target, factor=3)
    outside = both(lambda z, t: SOFTMAX.package(1.5 * z, t), scores.float(), target, factor=3)
    torch.testing.assert_close(inside[0], outside[0])
    torch.testing.assert_close(inside[1], outside[1])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("options", [{"method": "exact"}, {"impl": "torch"}], ids=str)
def test_an_exported_loss_still_refuses_a_bad_label(options: dict, strict: bool) -> None:
    class Loss(torch.nn.Module):
        def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return lovasz_softmax(scores, target, **options)

    scores, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    exported = torch.export.export(Loss(), (scores, target), strict=strict).module()
    torch.testing.assert_close(exported(scores, target), Loss()(scores, target))
    with pytest.raises(RuntimeError, match=r"target holds a label outside 0\.\.2"):
        exported(scores, target + 5)


def test_a_loss_exported_without_a_gradient_says_so() -> None:
    class Loss(torch.nn.Module):
        def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return lovasz_softmax(scores, target, impl="numba")

    scores, target = torch.randn(2, 5, 100, 100), torch.randint(0, 5, (2, 100, 100))
    without = torch.export.export(Loss(), (scores, target)).module()
    scores.requires_grad_()
    with pytest.raises(RuntimeError, match=r"exported without a gradient.*export it again with gradients enabled"):
        without(scores, target).backward()
    torch.export.export(Loss(), (scores, target)).module()(scores, target).backward()
    assert scores.grad is not None
    (expected,) = torch.autograd.grad(Loss()(scores, target), scores)
    torch.testing.assert_close(scores.grad, expected)
