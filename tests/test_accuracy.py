"""At a million pixels of each kind, the default is at least as near to float64 as the authors' float32 formula."""

import functools
from typing import NamedTuple

import pytest
import torch
from benchmarks import formulas
from benchmarks.accuracy import NARROW, narrow_row
from benchmarks.distributions import BINARY, MULTICLASS, binary, multiclass
from oracle import relative
from torch import Tensor

from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from lovasz.kernels import numba_problem

# Where several of the steepest errors share one float32, bins alone cannot tell them apart; the CPU kernel can.
ONLY_WITH_NUMBA = "untrained, rare class"
needs_numba = pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")


def run(loss, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


class Truth(NamedTuple):
    """An input and what the formula in float64 says of it."""

    logits: Tensor
    target: Tensor
    value: float
    gradient: Tensor

    def errors(self, loss) -> tuple[float, float]:
        """Relative errors of value and gradient."""
        value, gradient = run(loss, self.logits, self.target)
        return abs(value - self.value) / self.value, relative(gradient, self.gradient)


@functools.lru_cache(maxsize=1)  # of one input at a time: several implementations are asked in turn
def truth(draw, formula, kind: str, *size: int) -> Truth:
    logits, target = draw(kind, *size)
    return Truth(logits, target, *run(formula, logits.double(), target))


@functools.lru_cache(maxsize=1)
def authors_errors(draw, formula, kind: str, *size: int) -> tuple[float, float]:
    """Those of the formula in float32."""
    return truth(draw, formula, kind, *size).errors(formula)


def softmax_by_class(logits: Tensor, target: Tensor) -> Tensor:
    """formulas.softmax_by_class, whose backward writes the gradient of all classes once for each; here once for all."""
    probabilities = logits.softmax(1).transpose(0, 1).flatten(1).unbind()  # C of (P,)
    truth = [(target.flatten() == c).to(logits.dtype) for c in range(len(probabilities))]
    pairs = [(p, foreground) for p, foreground in zip(probabilities, truth, strict=True) if foreground.any()]
    return torch.stack([formulas.of_one_class(*pair) for pair in pairs]).mean()


def assert_at_least_as_near(loss, draw, formula, kind: str, *size: int) -> None:
    value, gradient = truth(draw, formula, kind, *size).errors(loss)
    their_value, their_gradient = authors_errors(draw, formula, kind, *size)
    assert gradient <= their_gradient
    # A value within two roundings of float32 is as near as float32 can tell.
    assert value <= max(their_value, 2 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("kind", BINARY)
def test_default_is_at_least_as_near_to_float64_as_the_authors(kind: str, impl: str) -> None:
    if impl == "torch" and numba_problem():
        pytest.skip("the default is this one")
    if kind == ONLY_WITH_NUMBA and (impl == "torch" or numba_problem()):
        pytest.skip("bins alone are no nearer here")
    assert_at_least_as_near(lambda z, t: lovasz_sigmoid(z, t, impl=impl), binary, formulas.sigmoid, kind)


@needs_numba
@pytest.mark.parametrize("kind", ["untrained, rare class", "rare class, 3 px", "rare class, 30 px", "all wrong"])
def test_the_hinge_of_a_batch_is_at_least_as_near_too(kind: str) -> None:
    assert_at_least_as_near(lambda z, t: lovasz_hinge(z, t, per_image=False), binary, formulas.hinge, kind)


def test_the_yardstick_is_the_formula_of_the_benchmarks() -> None:
    logits, target = multiclass("untrained", 21, 32)
    ours, theirs = run(softmax_by_class, logits, target), run(formulas.softmax_by_class, logits, target)
    assert ours[0] == theirs[0]
    assert torch.equal(ours[1], theirs[1])


@needs_numba
@pytest.mark.parametrize("how", [{"method": "exact"}, {}], ids=["sorted", "binned"])  # varies first, for the caches
@pytest.mark.parametrize("kind", MULTICLASS)
@pytest.mark.parametrize(("classes", "size"), [(2, 256), (21, 256), (150, 176)])
def test_many_classes_are_at_least_as_near_too(kind: str, classes: int, size: int, how: dict) -> None:
    loss = functools.partial(lovasz_softmax, impl="numba", **how)
    assert_at_least_as_near(loss, multiclass, softmax_by_class, kind, classes, size)


@needs_numba
@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("kind", MULTICLASS)
def test_half_precision_is_at_least_as_near_as_the_formula_on_the_rounded_logits(
    kind: str, dtype: torch.dtype, method: str
) -> None:
    logits, target = multiclass(kind, classes=2)
    loss = functools.partial(lovasz_softmax, impl="numba", method=method)
    row = narrow_row(kind, loss, softmax_by_class, logits.to(dtype), target)
    # Both gradients are rounded to half precision, which is nearly all of their error where bins leave none.
    assert row["ours, gradient"] <= 1.01 * row["authors' float32, gradient"]
    assert row["ours, value"] <= max(row["authors' float32, value"], torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("classes", [2, 21, 150])
def test_trained_networks_get_their_gradient_to_two_thousandths(classes: int, impl: str) -> None:
    known = truth(multiclass, softmax_by_class, "trained", classes, 128)
    value, gradient = known.errors(lambda z, t: lovasz_softmax(z, t, impl=impl))
    assert gradient <= 2e-3
    assert value <= 1e-6
