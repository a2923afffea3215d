"""Cross-entropy and Lovász-Softmax in one pass equal F.cross_entropy plus the exact kernel, with every option."""

import pytest
import torch
import torch.nn.functional as F
from oracle import relative
from torch import Tensor

from lovasz import lovasz_cross_entropy, lovasz_softmax
from lovasz.kernels import numba_problem

IMPLS = ["torch", pytest.param("numba", marks=pytest.mark.skipif(bool(numba_problem()), reason="numba is missing"))]
OPTIONS = [
    {},
    {"lovasz_weight": 0.3, "cross_entropy_weight": 2.0},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0, "ignore_index": 255},
    {"weight": [1.0, 2.0, 0.5, 3.0, 0.0], "ignore_index": -1},
    {"weight": [1.0, 2.0, 0.5, 3.0, 1.5], "label_smoothing": 0.2, "classes": "all", "per_image": True},
    {"cross_entropy_weight": 0.0},
    {"lovasz_weight": 0.0},
]


def draw(size: tuple[int, int], void: int | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, 5, *size, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (2, *size), generator=generator)
    if void is not None:
        target[torch.rand(target.shape, generator=generator) < 0.2] = void
    return logits, target


def sum_of_both(logits: Tensor, target: Tensor, options: dict) -> Tensor:
    """What two calls give, the first by a sort, both in float64."""
    alone = {k: v for k, v in options.items() if k in ("classes", "per_image", "ignore_index", "weight")}
    weight = torch.tensor(options["weight"]).double() if "weight" in options else None
    entropy = F.cross_entropy(
        logits,
        target,
        weight,
        ignore_index=options.get("ignore_index", -100),
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    lovasz = lovasz_softmax(logits, target, method="exact", **alone)
    return options.get("lovasz_weight", 1.0) * lovasz + options.get("cross_entropy_weight", 1.0) * entropy


def value_and_gradient(loss, logits: Tensor) -> tuple[float, Tensor]:
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(7, 9), (80, 90)], ids=["small", "large"])
def test_is_the_sum_of_the_two_losses(size: tuple[int, int], options: dict, impl: str) -> None:
    logits, target = draw(size, options.get("ignore_index"))
    value, gradient = value_and_gradient(
        lambda z: lovasz_cross_entropy(z, target, impl=impl, **options), logits.float()
    )
    expected, slope = value_and_gradient(lambda z: sum_of_both(z, target, options), logits)
    assert value == pytest.approx(expected, rel=1e-5)
    assert relative(gradient, slope) <= 1e-3


@pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_beside_a_sort_it_is_the_sum_too_and_so_are_its_second_derivatives(options: dict) -> None:
    logits, target = draw((30, 40), options.get("ignore_index"))
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))

    def both(loss, leaf: Tensor) -> tuple[float, Tensor, Tensor]:
        value = 3 * loss(leaf.requires_grad_())
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        (again,) = torch.autograd.grad(value, leaf, create_graph=True)
        assert relative(again.detach(), gradient) <= 1e-5
        return value.item(), gradient, torch.autograd.grad((again * direction).sum(), leaf)[0]

    got = both(lambda z: lovasz_cross_entropy(z, target, method="exact", impl="numba", **options), logits.float())
    expected = both(lambda z: sum_of_both(z, target, options), logits.clone())
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert relative(one, other) <= 2e-5


@pytest.mark.parametrize("impl", IMPLS)
def test_layouts_give_the_same(impl: str) -> None:
    logits, target = draw((40, 50), None)
    logits = logits.float()
    points = logits.permute(0, 2, 3, 1).reshape(-1, 5)
    value, gradient = value_and_gradient(lambda z: lovasz_cross_entropy(z, target, impl=impl), logits)
    for other, labels, back in (
        (logits.contiguous(memory_format=torch.channels_last), target, lambda g: g),
        (points, target.flatten(), lambda g: g.view(2, 40, 50, 5).permute(0, 3, 1, 2)),
    ):
        again, slope = value_and_gradient(lambda z, t=labels: lovasz_cross_entropy(z, t, impl=impl), other)
        assert again == pytest.approx(value, rel=1e-6)
        assert relative(back(slope), gradient) <= 1e-5


@pytest.mark.parametrize("impl", IMPLS)
def test_all_void_is_zero_with_zero_gradient(impl: str) -> None:
    logits, target = draw((40, 50), None)
    value, gradient = value_and_gradient(
        lambda z: lovasz_cross_entropy(z, torch.full_like(target, 255), ignore_index=255, impl=impl), logits.float()
    )
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("impl", ["auto", *IMPLS])
def test_without_a_class_of_weight_there_is_no_entropy(impl: str) -> None:
    logits, target = draw((40, 50), None)
    options = {"weight": [0.0, 1, 1, 1, 1], "label_smoothing": 0.1, "lovasz_weight": 0.0, "impl": impl}
    value, gradient = value_and_gradient(
        lambda z: lovasz_cross_entropy(z, torch.zeros_like(target), **options), logits.float()
    )
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_logits_far_below_the_largest_keep_their_entropy(impl: str) -> None:
    logits = torch.zeros(1, 3, 100, 100)
    logits[:, 0] = 500  # the target's probability is 0 in float32; its logarithm is -500
    target = torch.ones(1, 100, 100, dtype=torch.long)
    loss = lovasz_cross_entropy(logits, target, lovasz_weight=0.0, impl=impl)
    assert loss.item() == pytest.approx(500)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_term_of_weight_zero_is_not_there(impl: str) -> None:
    logits, target = draw((90, 70), None)
    logits = logits.detach()
    logits[0, target[0, 0, 0], 0, 0] = -torch.inf  # its cross-entropy is infinite, and 0 times that is NaN
    loss = lovasz_cross_entropy(logits, target, lovasz_weight=0.5, cross_entropy_weight=0.0, impl=impl)
    assert loss.item() == pytest.approx(0.5 * lovasz_softmax(logits, target, impl=impl).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lovasz_weight": -1.0}, "lovasz_weight must be a finite number, at least 0; got -1.0"),
        ({"cross_entropy_weight": float("nan")}, "cross_entropy_weight must be a finite number"),
        ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1; got 1.5"),
    ],
)
def test_bad_weights_are_named(options: dict, message: str) -> None:
    logits, target = draw((4, 4), None)
    with pytest.raises(ValueError, match=message):
        lovasz_cross_entropy(logits, target, **options)


@pytest.mark.parametrize("size", [(5, 6), (70, 90)], ids=["small", "large"])
@pytest.mark.parametrize("impl", ["auto", *IMPLS])
def test_void_pixels_may_hold_anything(impl: str, size: tuple[int, int]) -> None:
    logits, target = draw(size, 255)
    void = (target == 255).unsqueeze(1).expand_as(logits)
    clean = logits.clone().requires_grad_()
    dirty = logits.masked_fill(void, float("nan")).requires_grad_()
    losses = [lovasz_cross_entropy(x, target, ignore_index=255, impl=impl) for x in (clean, dirty)]
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (clean, dirty), strict=True)]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[1][void].abs().sum() == 0
