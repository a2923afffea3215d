"""Every binned kernel against the exact one: the whole table of options, layouts, dtypes, void, ties and extremes."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from losses import CASES, Case, assert_near_exact, value_and_gradient
from oracle import relative

from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from lovasz.kernels import bins, numba_problem

IMPLS = [
    pytest.param("numba", marks=pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")),
    "torch",
]
SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", [(5, 6), (70, 90)], ids=["small", "sampled"])
def test_equals_the_exact_kernel(case: Case, impl: str, size: tuple[int, int]) -> None:
    scores, target = case.draw(seed=3, size=size)
    assert_near_exact(case, scores.float(), target, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_float64_stays_float64(impl: str) -> None:
    scores, target = SOFTMAX.draw(size=(20, 20))
    value, gradient = value_and_gradient(SOFTMAX, scores, target, impl=impl)
    assert value.dtype == gradient.dtype == torch.float64
    assert_near_exact(SOFTMAX, scores, target, impl=impl)


@pytest.mark.parametrize("impl", [*IMPLS, "exact"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "hinge", "sigmoid"])
def test_half_precision_errs_no_more_than_its_own_rounding(name: str, dtype: torch.dtype, impl: str) -> None:
    case = next(case for case in CASES if case.name == name)
    scores, target = case.draw(size=(40, 40))
    how = {"method": "exact"} if impl == "exact" else {"impl": impl}
    rounded = scores.to(dtype)
    value, gradient = value_and_gradient(case, rounded, target, **how)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    # The reference sees the rounded input; what is left is the bins and the rounding of the gradient itself.
    assert_near_exact(case, rounded, target, gradient_tolerance=1e-3 + torch.finfo(dtype).eps, **how)


@pytest.mark.parametrize("impl", IMPLS)
def test_minus_zero_is_a_probability_of_zero(impl: str) -> None:
    target = torch.arange(60).view(1, 60) % 3 == 0
    probabilities = torch.rand(1, 60, generator=torch.Generator().manual_seed(0))
    probabilities[:, 10:40] = 0.0
    expected = lovasz_sigmoid(probabilities.double(), target, from_logits=False, method="exact")
    probabilities[:, 10:40] *= -1.0
    assert relative(lovasz_sigmoid(probabilities, target, from_logits=False, impl=impl), expected) < 1e-6


@pytest.mark.parametrize("impl", IMPLS)
def test_layouts_are_read_where_they_lie(impl: str) -> None:
    scores, target = SOFTMAX.draw(size=(16, 24))
    scores = scores.float()
    expected = value_and_gradient(SOFTMAX, scores, target, impl=impl)
    wide = torch.randn(3, 7, 20, 30)
    wide[:, 1:6, 2:18, 3:27] = scores
    layouts = {
        "channels last": scores.contiguous(memory_format=torch.channels_last),
        "a window of a larger tensor": wide[:, 1:6, 2:18, 3:27],
        "transposed": scores.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for name, laid in layouts.items():
        leaf = laid.detach().requires_grad_()
        value = SOFTMAX.package(leaf, target, impl=impl)
        (gradient,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(value.detach(), expected[0], msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    pixels = scores.movedim(1, -1).reshape(-1, 5).detach().requires_grad_()  # (P, C)
    value = lovasz_softmax(pixels, target.flatten(), ignore_index=255, impl=impl)
    (gradient,) = torch.autograd.grad(value, pixels)
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(gradient.view(3, 16, 24, 5).movedim(-1, 1), expected[1], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_targets_of_any_integer_dtype_mean_the_same(impl: str, dtype: torch.dtype) -> None:
    scores, target = Case("softmax", "softmax", 5, {"ignore_index": 100}).draw(size=(16, 24))
    expected = lovasz_softmax(scores.float(), target, ignore_index=100, impl=impl)
    torch.testing.assert_close(lovasz_softmax(scores.float(), target.to(dtype), ignore_index=100, impl=impl), expected)
    mask = torch.rand(2, 9, 9) < 0.5
    torch.testing.assert_close(
        lovasz_hinge(torch.ones(2, 9, 9), mask, impl=impl), lovasz_hinge(torch.ones(2, 9, 9), mask.to(dtype), impl=impl)
    )


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_all_void_is_zero_with_zero_gradient(impl: str) -> None:
    for name, channels in (("softmax", 4), ("hinge", 1), ("sigmoid", 1)):
        for per_image in (False, True):
            scores = torch.randn(2, channels, 8, 8, requires_grad=True)
            with torch.no_grad():
                scores[0, 0, 0, 0] = torch.nan  # not even read
            target = torch.full((2, 8, 8) if name == "softmax" else (2, channels, 8, 8), 255)
            case = Case(name, name, channels, {"ignore_index": 255, "per_image": per_image})
            loss = case.package(scores, target, impl=impl)
            (gradient,) = torch.autograd.grad(loss, scores)
            assert loss.shape == ()
            assert loss.item() == 0
            assert not gradient.any()


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_no_listed_class_present_costs_what_its_largest_error_costs(impl: str) -> None:
    logits = torch.randn(2, 4, 6, 6)
    target = torch.zeros(2, 6, 6, dtype=torch.long)
    assert lovasz_softmax(logits, target, classes=[3], impl=impl).item() == pytest.approx(
        logits.softmax(1)[:, 3].max().item(), rel=1e-3
    )
    assert lovasz_softmax(logits, target + 1, classes="present", ignore_index=1, impl=impl).item() == 0


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_logit_that_is_not_finite_is_never_a_silent_number(impl: str, bad: float) -> None:
    logits = torch.randn(1, 3, 40, 40)
    logits[0, 1, 5, 5] = bad
    target = torch.randint(0, 3, (1, 40, 40))
    assert lovasz_softmax(logits, target, impl=impl).isnan()
    scores = torch.randn(1, 40, 40)
    scores[0, 5, 5] = torch.nan
    assert lovasz_hinge(scores, target.clamp(max=1), impl=impl).isnan()
    assert lovasz_sigmoid(scores, target.clamp(max=1), impl=impl).isnan()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("impl", [*IMPLS, "auto", "exact"])
def test_a_nan_logit_is_never_a_silent_number_even_where_no_class_has_a_weight(impl: str, per_image: bool) -> None:
    kernel = {"method": impl} if impl == "exact" else {"impl": impl}
    logits = torch.randn(2, 3, 40, 40)
    logits[0, 0, 5, 5] = torch.nan
    target = torch.zeros(2, 40, 40, dtype=torch.long)  # background alone
    assert lovasz_softmax(logits, target, weight=[0, 1, 1], per_image=per_image, **kernel).isnan()
    assert lovasz_softmax(logits[1:], target[1:], weight=[0, 1, 1], per_image=per_image, **kernel) == 0


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_nan_in_a_channel_that_does_not_count_spoils_nothing(impl: str, per_image: bool) -> None:
    scores = torch.randn(2, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 3, 100, 100, dtype=torch.long)
    target[:, :2, :50] = 1  # the last channel has no foreground
    options = {"multilabel": True, "impl": impl, "per_image": per_image}
    expected = lovasz_sigmoid(scores, target, **options)
    scores[1, 2, 0, 0] = torch.nan
    leaf = scores.clone().requires_grad_()
    value = lovasz_sigmoid(leaf, target, **options)
    assert value == expected
    gradient = torch.autograd.grad(value, leaf)[0]
    assert gradient[scores.isfinite()].isfinite().all()
    assert lovasz_sigmoid(scores, target, **options | {"classes": "all"}).isnan()
    scores[0, 1, 0, 0] = torch.nan
    assert lovasz_sigmoid(scores, target, **options).isnan()


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_a_negative_that_is_not_yet_computed_is_read_right(impl: str) -> None:
    logits, target = SOFTMAX.draw(size=(70, 90))
    negated = torch.complex(torch.zeros_like(logits), logits).conj().imag  # -logits, without a pass over them
    assert negated.is_neg()
    torch.testing.assert_close(SOFTMAX.package(negated, target, impl=impl), SOFTMAX.package(-logits, target, impl=impl))


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_a_masked_class_at_minus_infinity_is_fine(impl: str) -> None:
    logits = torch.randn(1, 3, 40, 40)
    logits[:, 2] = -torch.inf
    target = torch.randint(0, 2, (1, 40, 40))
    case = Case("softmax", "softmax", 3)
    value, gradient = value_and_gradient(case, logits, target, impl=impl)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_errors_share_their_weight_whatever_the_order(impl: str) -> None:
    scores = torch.zeros(1, 50, requires_grad=True)
    target = torch.zeros(1, 50, dtype=torch.long)
    target[0, ::5] = 1
    lovasz_sigmoid(scores, target, impl=impl).backward()
    assert scores.grad is not None
    for kind in (0, 1):
        values = scores.grad[target == kind]
        torch.testing.assert_close(values, values[0].expand_as(values))


@pytest.mark.parametrize("impl", IMPLS)
def test_one_pixel_works(impl: str) -> None:
    assert lovasz_softmax(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), impl=impl).item() == pytest.approx(0.5)
    assert lovasz_hinge(torch.tensor([0.25]), torch.tensor([1]), impl=impl).item() == pytest.approx(0.75)
    assert lovasz_sigmoid(torch.tensor([0.0]), torch.tensor([0]), impl=impl).item() == pytest.approx(0.5)


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_gradient_scales_with_what_comes_in_and_can_be_taken_again(impl: str) -> None:
    scores, target = SOFTMAX.draw(size=(30, 30))
    leaf = scores.float().requires_grad_()
    loss = SOFTMAX.package(leaf, target, impl=impl)
    (once,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, leaf)
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("factor", [1e-50, 1e-30, 1e45, 0.0])
def test_in_float64_what_comes_in_may_be_beyond_float32(factor: float, impl: str) -> None:
    scores = torch.randn(1, 40, 40, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 2, (1, 40, 40))
    (plain,) = torch.autograd.grad(lovasz_hinge(scores, target, impl=impl), scores)
    (scaled,) = torch.autograd.grad(lovasz_hinge(scores, target, impl=impl) * factor, scores)
    torch.testing.assert_close(scaled, plain * factor, rtol=1e-6, atol=0)


@pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")
def test_more_classes_than_the_tables_hold_are_refused_with_the_remedy() -> None:
    scores, target = torch.zeros(1, 72_400), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="72400 classes, too many for the CPU kernel: use method='exact'"):
        lovasz_softmax(scores, target, impl="numba")
    assert 0.99 < float(lovasz_softmax(scores, target, method="exact")) < 1


@pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")
def test_bins_beyond_what_an_entry_of_the_tables_holds_are_not_dealt() -> None:
    from lovasz.kernels.cpu import tables

    sample = np.full((1_200, bins.MIRRORED_CELLS), 1_000)
    lut = np.empty(sample.shape, np.int32)
    given = sample, sample, np.full(len(sample), 1e6), 1, 1e6, bins.MOST_BINS, 1
    used = tables.deal(*given, lut)
    assert used == -1
    assert 1 << 24 < tables.deal(*(x[:600] if isinstance(x, np.ndarray) else x for x in given), lut[:600]) < 1 << 26


EQUAL = {
    "hinge, all alike": (lovasz_hinge, lambda: torch.zeros(1, 700, 700), 1),
    "hinge, all alike, off the edge of a bin": (lovasz_hinge, lambda: torch.full((1, 700, 700), 2.0), 1),
    "hinge, clamped": (lovasz_hinge, lambda: (3 * torch.randn(1, 724, 724)).clamp(-2, 2), 9),
    "sigmoid, all alike": (lovasz_sigmoid, lambda: torch.full((1, 700, 700), 0.3), 3),
    "softmax, all alike": (partial(lovasz_softmax, classes=[1]), lambda: torch.zeros(1, 2, 700, 700), 1),
    "softmax, of whole numbers": (
        partial(lovasz_softmax, classes=[1]), lambda: torch.randn(1, 2, 700, 700).round(), 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", EQUAL)
def test_equal_errors_of_a_rare_class_have_the_value_of_the_sort(name: str, impl: str) -> None:
    """Many errors in one bin, and a foreground of so few pixels that the weights change inside it."""
    loss, draw, foreground = EQUAL[name]
    torch.manual_seed(0)
    scores = draw()
    target = torch.zeros(1, *scores.shape[-2:], dtype=torch.long)
    target.view(-1)[100 :: target.numel() // foreground - 7][:foreground] = 1
    assert int(target.sum()) == foreground
    exact = float(loss(scores.double(), target, method="exact"))
    assert float(loss(scores, target, impl=impl)) == pytest.approx(exact, rel=2e-5)


VOID = {"ignore_index": 255}
FEW_VALID = [
    Case("softmax", "softmax", 3, VOID),
    Case("hinge", "hinge", 1, VOID),
    Case("hinge", "hinge", 1, {"per_image": False, **VOID}),
    Case("hinge", "elu", 1, {"activation": "elu", **VOID}),
    Case("sigmoid", "sigmoid", 1, VOID),
    Case("sigmoid", "sigmoid", 2, {"multilabel": True, **VOID}),
    Case("sigmoid", "probability", 1, {"from_logits": False, **VOID}),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("valid", [2, 50, 1000])
@pytest.mark.parametrize("case", FEW_VALID, ids=str)
def test_few_valid_pixels_among_many_void_ones_are_counted_once(case: Case, valid: int, impl: str) -> None:
    scores, target = case.draw(images=1, size=(150, 160))
    random = torch.Generator().manual_seed(valid)
    target = torch.randint(0, 2, target.shape, generator=random)
    target.flatten(-2)[..., torch.randperm(150 * 160, generator=random)[valid:]] = 255
    assert float(case.package(scores, target, impl=impl)) == pytest.approx(case.expected(scores, target), rel=1e-4)
    assert_near_exact(case, scores.float(), target, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", [1e39, 1e300])
def test_errors_beyond_float32_are_infinite_and_not_taken_for_equal(size: float, impl: str) -> None:
    scores = torch.zeros(1, 200, 200, dtype=torch.float64)
    scores[0, 0, :3] = torch.tensor([-size, -2 * size, -3 * size])
    target = torch.ones(1, 200, 200, dtype=torch.long)
    assert not lovasz_hinge(scores, target, impl=impl).isfinite()
    target[0, 0, :3] = 0  # errors of zero
    assert float(lovasz_hinge(scores, target, impl=impl)) == pytest.approx(1, rel=1e-3)


@pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")
def test_a_second_derivative_is_refused_and_not_taken_to_be_zero() -> None:
    logits = torch.randn(1, 3, 90, 90, requires_grad=True)
    loss = lovasz_softmax(logits, torch.randint(0, 3, (1, 90, 90)), impl="numba")
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once.*method='exact'"):
        (loss + gradient.square().sum()).backward()


def test_weights_of_a_bin_add_up_to_the_increase_of_the_jaccard_loss() -> None:
    background = torch.randint(0, 5, (3, 40)) * torch.randint(0, 2, (3, 40))
    foreground = torch.randint(0, 4, (3, 40)) * torch.randint(0, 2, (3, 40))
    foreground[2] = 0
    weights, _ = bins.weights(background, foreground)
    for g in range(3):
        n = int(foreground[g].sum())
        missed = alarms = 0
        before = 0.0
        for k in reversed(range(40)):
            b, f = int(background[g, k]), int(foreground[g, k])
            missed, alarms = missed + f, alarms + b
            after = (missed + alarms) / (n + alarms) if n + alarms else 0.0
            share = (f * weights[g, 1, k] + b * weights[g, 0, k]).item()
            assert share == pytest.approx(after - before, abs=1e-12)
            before = after


@pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")
def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    scores, target = SOFTMAX.draw(size=(120, 130))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(SOFTMAX, scores.float(), target, impl="numba"))
    finally:
        torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("size", [(3, 3), (40, 50)])
@pytest.mark.parametrize("spread", [1, 30])  # at 30 some errors of the absent class round to 1
def test_an_absent_class_is_weighed_as_by_the_sort(size: tuple[int, int], per_image: bool, spread: int) -> None:
    random = torch.Generator().manual_seed(7)
    scores = spread * torch.randn(2, 4, *size, generator=random)
    target = torch.randint(0, 3, (2, *size), generator=random)  # class 3 is absent
    gradients = []
    for options in ({"impl": "numba", "method": "binned"}, {"method": "exact"}):
        leaf = scores.clone().requires_grad_()
        lovasz_softmax(leaf, target, classes="all", per_image=per_image, **options).backward()
        gradients.append(leaf.grad)
    assert relative(*gradients) < 1e-3


@pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here")
def test_many_callers_at_once_get_their_own_results() -> None:
    scores, target = SOFTMAX.draw(size=(60, 60))
    expected = value_and_gradient(SOFTMAX, scores.float(), target, impl="numba")
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(value_and_gradient, SOFTMAX, scores.float(), target, impl="numba") for _ in range(16)]
        for job in jobs:
            assert torch.equal(job.result()[1], expected[1])


@pytest.mark.skipif(bool(numba_problem()) or not hasattr(os, "fork"), reason="needs numba and fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_kernel_survives_fork() -> None:
    scores, target = SOFTMAX.draw(size=(120, 130))
    scores = scores.float()
    expected = SOFTMAX.package(scores, target, impl="numba").item()  # the parent's threads are up
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a hang is a failure; torch's own threads do hang here, so only the kernel runs
            os._exit(0 if SOFTMAX.package(scores, target, impl="numba").item() == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_wrong_kernel_fails_the_comparison() -> None:
    """The comparison itself is on trial: a kernel that sorts the labels instead of the errors must not pass."""
    case = Case("softmax", "softmax", 5)
    scores, target = case.draw(size=(20, 20))

    def wrong() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = scores.float().requires_grad_()
        probabilities = leaf.softmax(1).transpose(0, 1).flatten(1)
        total = leaf.new_zeros(())
        for c in range(4):
            foreground = target.flatten() == c
            errors = torch.where(foreground, 1 - probabilities[c], probabilities[c])
            ordered, order = errors.sort(descending=True)
            labels = target.flatten()[order].float()  # class indices where the mask of the class belongs
            union = labels.sum() + (1 - labels).cumsum(0)
            jaccard = 1 - (labels.sum() - labels.cumsum(0)) / union
            total = total + ordered @ torch.cat([jaccard[:1], jaccard.diff()]) / 4
        (gradient,) = torch.autograd.grad(total, leaf)
        return total.detach(), gradient

    with pytest.raises(AssertionError):
        assert_near_exact(case, scores.float(), target, package=wrong)


def test_a_slightly_wrong_gradient_fails_the_comparison() -> None:
    scores, target = SOFTMAX.draw(size=(20, 20))

    def wrong() -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = value_and_gradient(SOFTMAX, scores.float(), target, method="exact")
        return value, gradient * 1.01

    with pytest.raises(AssertionError, match="gradient off by"):
        assert_near_exact(SOFTMAX, scores.float(), target, package=wrong)
