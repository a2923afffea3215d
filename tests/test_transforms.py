"""Losses under torch.func, forward-mode differentiation and torch.jit.trace, and what bad input says there."""

import functools

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

import lovasz
from lovasz.choices import SMALL
from lovasz.kernels import numba_problem

LOSSES = {
    "softmax": lambda z, t: lovasz.lovasz_softmax(z, t, ignore_index=255),
    "softmax of probabilities": lambda z, t: lovasz.lovasz_softmax(
        z.softmax(1), t, ignore_index=255, from_logits=False
    ),
    "softmax, per image, all classes": lambda z, t: lovasz.lovasz_softmax(
        z, t, classes="all", per_image=True, ignore_index=255
    ),
    "cross-entropy": lambda z, t: lovasz.lovasz_cross_entropy(z, t, ignore_index=255, label_smoothing=0.1),
    "hinge": lambda z, t: lovasz.lovasz_hinge(z[:, 0], t.clamp(max=1)),
    "sigmoid": lambda z, t: lovasz.lovasz_sigmoid(z[:, 0], t.clamp(max=1)),
}
SIZE = 80  # 3 classes of 80 x 80 pixels are more than what is sorted anyway
assert 3 * SIZE * SIZE > SMALL


def draw(samples: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(samples, 1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (samples, 1, SIZE, SIZE), generator=generator)
    target[:, :, :5] = 255
    return scores, target


def by_autograd(loss, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = scores.detach().requires_grad_()
    value = loss(leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_the_function_is_that_of_autograd(name: str) -> None:
    scores, target = (tensor[0] for tensor in draw())
    gradient, value = torch.func.grad_and_value(LOSSES[name])(scores, target)
    expected, slope = by_autograd(LOSSES[name], scores, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (gradient - slope).norm() <= 1e-3 * slope.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_samples_are_those_of_a_loop(name: str) -> None:
    scores, target = draw()
    gradients, values = torch.func.vmap(torch.func.grad_and_value(LOSSES[name]))(scores, target)
    for i in range(len(scores)):
        gradient, value = torch.func.grad_and_value(LOSSES[name])(scores[i], target[i])
        torch.testing.assert_close(values[i], value)
        torch.testing.assert_close(gradients[i], gradient)


def test_a_wrong_label_of_one_sample_is_named() -> None:
    scores, target = draw()
    target[2, 0, 40, 40] = 9
    with pytest.raises(ValueError, match="target holds the label 9, but there are 3 classes"):
        torch.func.vmap(LOSSES["softmax"])(scores, target)
    with pytest.raises(ValueError, match=r"input holds 1\.5 though from_logits=False"):
        torch.func.vmap(lambda z: lovasz.lovasz_softmax(z, target[0], ignore_index=255, from_logits=False))(
            torch.full_like(scores, 1.5)
        )


@pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
def test_a_kernel_that_cannot_follow_says_what_can() -> None:
    scores, target = (tensor[0] for tensor in draw())
    loss = torch.func.grad(lambda z: lovasz.lovasz_softmax(z, target, ignore_index=255, impl="numba"))
    with pytest.raises(ValueError, match=r"impl='numba' cannot run inside torch\.func's transforms.*use impl='auto'"):
        loss(scores)


def test_plain_operations_follow_a_gradient_but_no_vmap() -> None:
    scores, target = draw()
    loss = lambda z, t: lovasz.lovasz_softmax(z, t, ignore_index=255, impl="torch")  # noqa: E731
    gradient = torch.func.grad(loss)(scores[0], target[0])
    expected = by_autograd(loss, scores[0], target[0])[1]
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(ValueError, match=r"impl='torch' cannot run inside torch\.func's transforms.*use impl='auto'"):
        torch.func.vmap(loss)(scores, target)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own use of it
@pytest.mark.parametrize("name", LOSSES)
def test_forward_mode_gives_the_slope_along_a_direction(name: str) -> None:
    scores, target = (tensor[0] for tensor in draw())
    direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=scores.dtype)
    with torch.autograd.forward_ad.dual_level():
        value = LOSSES[name](torch.autograd.forward_ad.make_dual(scores, direction), target)
        slope = torch.autograd.forward_ad.unpack_dual(value).tangent
    gradient = torch.func.grad(LOSSES[name])(scores, target)
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_computes_what_was_traced() -> None:
    scores, target = (tensor[0] for tensor in draw())
    traced = torch.jit.trace(LOSSES["softmax"], (scores, target), check_trace=False)
    others = scores.flip(-1)
    expected = lovasz.lovasz_softmax(others, target, ignore_index=255, method="exact")
    assert traced(others, target).item() == pytest.approx(expected.item(), rel=1e-12)


def test_weights_of_classes_may_be_batched_too() -> None:
    scores, target = draw()
    weights = torch.rand(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = lambda z, t, w: lovasz.lovasz_softmax(z, t, ignore_index=255, weight=w)  # noqa: E731
    expected = torch.stack([loss(*one) for one in zip(scores, target, weights, strict=True)])
    torch.testing.assert_close(torch.func.vmap(loss)(scores, target, weights), expected, rtol=1e-3, atol=0)
    weights[1, 2] = -1
    with pytest.raises(ValueError, match="weight must be finite and not negative"):
        torch.func.vmap(loss)(scores, target, weights)


@pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("method", ["binned", "exact"])
def test_several_gradients_come_in_at_once(method: str, dtype: torch.dtype, create_graph: bool) -> None:
    """As ``torch.autograd.functional.jacobian(vectorize=True)`` has it."""
    scores, target = (tensor[0] for tensor in draw())
    leaf = scores.to(dtype).requires_grad_()
    value = lovasz.lovasz_softmax(leaf, target, ignore_index=255, method=method, impl="numba")
    several = torch.tensor([1.0, -3.0, 2.0**17])  # the last beyond float16, as a GradScaler's factors may be
    how = {"retain_graph": True, "create_graph": create_graph}
    (together,) = torch.autograd.grad(value, leaf, several, is_grads_batched=True, **how)
    for factor, gradient in zip(several, together, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, torch.autograd.grad(value, leaf, factor, **how)[0], rtol=2e-3, atol=1e-7)
    if not create_graph:
        mapped = torch.func.vmap(lambda factor: torch.autograd.grad(value, leaf, factor, retain_graph=True)[0])(several)
        assert torch.equal(mapped, together)


@pytest.mark.parametrize("size", [80, 160], ids=["sorted", "binned"])  # on the CPU up to 65,536 errors are sorted
@pytest.mark.parametrize("name", LOSSES)
def test_recomputed_inferred_or_beside_another_default_device_it_is_the_same(name: str, size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 3, size, size, generator=generator)
    target = torch.randint(0, 3, (3, size, size), generator=generator)
    expected, slope = by_autograd(LOSSES[name], scores, target)
    checkpointed = functools.partial(torch.utils.checkpoint.checkpoint, LOSSES[name], use_reentrant=False)
    with torch.device("meta"):  # where tensors that name no device would go
        found = by_autograd(LOSSES[name], scores, target)
    for value, gradient in (by_autograd(checkpointed, scores, target), found):
        assert torch.equal(value, expected)
        assert torch.equal(gradient, slope)
    with torch.inference_mode():
        assert torch.equal(LOSSES[name](scores, target), expected)
