"""Set functions: submodularity by brute force over all subsets, and the hinge loss as the extension of Hamming's."""

import itertools

import numpy as np
import pytest
import torch

from lovasz import lovasz_extension
from lovasz.baselines import hinge_loss
from lovasz.set_functions import Violation, dice, find_violation, hamming, is_submodular, jaccard


def submodular_by_subsets(function, foreground: int, background: int) -> bool:
    """Definition 1 itself: f(A) + f(B) >= f(A | B) + f(A & B) for all sets of mispredicted pixels."""
    pixels = range(foreground + background)

    def value(wrong: frozenset) -> float:
        missed = sum(i < foreground for i in wrong)
        counts = (missed, len(wrong) - missed, foreground)
        return function(*(torch.tensor(float(c), dtype=torch.float64) for c in counts)).item()

    subsets = [frozenset(s) for k in range(len(pixels) + 1) for s in itertools.combinations(pixels, k)]
    values = {s: value(s) for s in subsets}
    return all(values[a] + values[b] >= values[a | b] + values[a & b] - 1e-12 for a in subsets for b in subsets)


FUNCTIONS = {
    "jaccard": jaccard,
    "dice": dice,
    "hamming": hamming(4),
    "square": lambda fn, fp, n: (fn + fp) ** 2,
    "root": lambda fn, fp, n: (fn + fp).sqrt(),
    "missed only": lambda fn, fp, n: fn / n.clamp(min=1),
    "product": lambda fn, fp, n: fn * fp,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_checker_agrees_with_all_subsets(name: str) -> None:
    function = FUNCTIONS[name]
    expected = all(submodular_by_subsets(function, n, p - n) for p in range(2, 5) for n in range(p + 1))
    assert is_submodular(function, max_pixels=4) == expected


def test_jaccard_and_hamming_are_submodular_and_dice_is_not() -> None:
    assert is_submodular("jaccard", max_pixels=12)
    assert is_submodular("hamming", max_pixels=12)
    assert not is_submodular(dice)


def test_a_violation_names_the_state_and_the_pixels() -> None:
    violation = find_violation(lambda fn, fp, n: fn * fp)
    assert isinstance(violation, Violation)
    assert violation.pair == ("foreground", "background")
    assert violation.gain_after > violation.gain_alone


def test_a_function_that_is_not_finite_is_not_called_submodular() -> None:
    with pytest.raises(ValueError, match="not finite everywhere with 0 foreground and 2 background"):
        is_submodular(lambda missed, alarms, n: torch.where(missed + alarms > 1, torch.nan, 0 * missed))


def test_max_pixels_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pixels must be an integer of at least 2"):
        find_violation("jaccard", max_pixels=1)


@pytest.mark.parametrize("wrong", [-1e-9, float("inf"), float("nan"), "x"])
def test_a_tolerance_that_is_none_is_refused(wrong) -> None:
    with pytest.raises((TypeError, ValueError), match="tolerance must be"):
        find_violation("jaccard", tolerance=wrong)


@pytest.mark.parametrize("wrong", [0, -3, 2.5, True, "8"])
def test_a_ground_set_without_pixels_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="pixels must be an integer of at least 1"):
        hamming(wrong)


def test_a_users_jaccard_equals_the_closed_form() -> None:
    errors = torch.rand(3, 40, dtype=torch.float64)
    foreground = torch.rand(3, 40) < 0.3
    torch.testing.assert_close(
        lovasz_extension(errors, foreground, set_function=jaccard), lovasz_extension(errors, foreground)
    )


def test_hammings_extension_of_hinge_errors_is_the_hinge_loss() -> None:
    scores = torch.randn(50, dtype=torch.float64)
    target = torch.randint(0, 2, (50,))
    errors = (1 - scores * (2 * target - 1)).relu()
    expected = hinge_loss(scores, target)
    torch.testing.assert_close(lovasz_extension(errors, target, set_function="hamming"), expected)
    assert expected.item() == pytest.approx(errors.mean().item())


def test_dice_extension_equals_its_set_function_at_the_corners() -> None:
    foreground = torch.tensor([True, False, True, False])
    for code in range(16):
        wrong = torch.tensor([bool(code >> i & 1) for i in range(4)])
        missed, alarms = int((wrong & foreground).sum()), int((wrong & ~foreground).sum())
        expected = (missed + alarms) / max(1, 4 - missed + alarms)
        value = lovasz_extension(wrong.double(), foreground, set_function=dice).item()
        assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda missed, alarms, n: 1e5 * jaccard(missed, alarms, n),
        lambda missed, alarms, n: 1e4 * (missed + alarms) / 7,  # n has no say
        lambda missed, alarms, n: jaccard(missed.float(), alarms.float(), n.float()),
        lambda missed, alarms, n: missed + alarms > 0,
        lambda missed, alarms, n: (missed + alarms).int(),
    ],
    ids=["scaled", "sum", "float32", "truth values", "integers"],
)
def test_rounding_and_dtype_make_no_violation(function) -> None:
    assert is_submodular(function, max_pixels=np.int64(6))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_violation_is_one_at_any_scale_and_in_any_dtype(factor: float, dtype: torch.dtype) -> None:
    assert not is_submodular(lambda *counts: (factor * dice(*counts)).to(dtype))


def test_a_void_label_among_the_foreground_is_named() -> None:
    with pytest.raises(ValueError, match="foreground holds 255, expected 0 and 1"):
        lovasz_extension(torch.tensor([0.9, 0.2, 0.4]), torch.tensor([1, 0, 255]))
    with pytest.raises(ValueError, match="errors is empty"):
        lovasz_extension(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
