"""float16 and bfloat16 logits are as good as the formula evaluated honestly on the same rounded logits."""

import pytest
import torch
from benchmarks import formulas
from oracle import relative
from torch import Tensor

from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from lovasz.kernels import bins, numba_problem

IMPLS = ["torch", pytest.param("numba", marks=pytest.mark.skipif(bool(numba_problem()), reason="numba is missing"))]
HALVES = [torch.float16, torch.bfloat16]


def draw(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits that the dtype holds. Binary ones differ in size: equal errors have no one gradient to compare with."""
    generator = torch.Generator().manual_seed(1)
    if name == "softmax":
        target = torch.randint(0, 6, (2, 90, 80), generator=generator)
        return (2 * torch.randn(2, 6, 90, 80, generator=generator)).to(dtype), target
    bits = torch.arange(1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    sizes = bits[(bits > 1e-3) & (bits < 6)]
    sizes = sizes[torch.randperm(len(sizes), generator=generator)][:1500]
    target = (torch.rand(sizes.shape, generator=generator) < 0.3).long()
    return (sizes * (2 * torch.randint(0, 2, sizes.shape, generator=generator) - 1)).to(dtype)[None], target[None]


LOSSES = {
    "softmax": (lovasz_softmax, formulas.softmax_by_class),
    "sigmoid": (lovasz_sigmoid, formulas.sigmoid),
    "hinge": (lambda z, t, **how: lovasz_hinge(z, t, per_image=False, **how), formulas.hinge),
}


def run(loss, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()
    # Scaled as under a GradScaler, so that the gradient does not vanish in float16.
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(1024 * value, leaf)
    return value.item(), gradient


@pytest.mark.parametrize(
    ("name", "impl"), [("softmax", "torch"), ("softmax", "auto"), ("sigmoid", "auto"), ("hinge", "auto")]
)
@pytest.mark.parametrize("dtype", HALVES)
def test_at_least_as_near_as_the_formula_on_the_rounded_logits(name: str, dtype: torch.dtype, impl: str) -> None:
    ours, formula = LOSSES[name]
    rounded, target = draw(name, dtype)
    true_value, true_gradient = run(formula, rounded.double(), target)
    value, gradient = run(lambda z, t: ours(z, t, impl=impl), rounded, target)
    honest_value, honest_gradient = run(formula, rounded.float(), target)  # in float32, and rounded at the end
    assert gradient.dtype == dtype
    assert abs(value - true_value) <= max(abs(honest_value - true_value), 2e-7 * true_value)
    honest = relative(honest_gradient.to(dtype), true_gradient)
    assert relative(gradient, true_gradient) <= honest + 5e-5


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
def test_is_bit_for_bit_the_float32_result_rounded_with_the_same_bins(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bins, "HALF_STEPS", 1)
    rounded, target = draw("softmax", dtype)
    value, gradient = run(lambda z, t: lovasz_softmax(z, t, impl="numba"), rounded, target)
    wide_value, wide_gradient = run(lambda z, t: lovasz_softmax(z, t, impl="numba"), rounded.float(), target)
    assert value == wide_value
    assert torch.equal(gradient, wide_gradient.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
def test_channels_last_is_read_where_it_lies(dtype: torch.dtype) -> None:
    rounded, target = draw("softmax", dtype)
    _, gradient = run(lambda z, t: lovasz_softmax(z, t, impl="numba"), rounded, target)
    last = rounded.contiguous(memory_format=torch.channels_last)
    _, again = run(lambda z, t: lovasz_softmax(z, t, impl="numba"), last, target)
    assert again.is_contiguous(memory_format=torch.channels_last)
    assert relative(again, gradient) <= 1e-5


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("impl", IMPLS)
def test_nan_propagates(dtype: torch.dtype, impl: str) -> None:
    rounded, target = draw("softmax", dtype)
    rounded[0, 0, 0, 0] = float("nan")
    assert lovasz_softmax(rounded, target, impl=impl).isnan()
