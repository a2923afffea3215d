"""The CPU kernel's own scalar functions, against NumPy's in twice the precision."""

from collections.abc import Callable

import numpy as np
import pytest

from lovasz.kernels import numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")


@pytest.fixture
def exps() -> Callable[[np.ndarray], np.ndarray]:
    """The kernel's exp of each element, in a loop that LLVM vectorises."""
    from lovasz.kernels.cpu.arithmetic import exp, inlined

    @inlined  # which is not kept on disk, where a change of exp alone would go unseen
    def all_of(x, out):
        for i in range(len(x)):
            out[i] = exp(x[i])

    def call(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        all_of(x, out)
        return out

    return call


def test_the_exponential_errs_by_one_unit_in_the_last_place(exps) -> None:
    random = np.random.default_rng(0)
    draws = random.random(300_000) * 87, random.random(100_000), 10.0 ** random.uniform(-8, 1, 100_000), [0.0, 87.0]
    x = -np.concatenate(draws).astype(np.float32)
    out = exps(x)
    expected = np.exp(x.astype(np.float64))
    units = np.abs(out - expected) / np.spacing(expected.astype(np.float32))
    assert units.max() <= 1.1
    assert units.mean() <= 0.3  # a rounding to the nearest alone has 0.25


def test_the_exponential_keeps_what_is_no_number_and_ends_in_zero(exps) -> None:
    x = np.array([0.0, -0.0, -88.0, -1e30, -np.inf, np.nan] * 3, np.float32)  # some of them beside whole vectors
    out = exps(x)
    assert np.array_equal(out[:6], np.array([1, 1, 0, 0, 0, np.nan], np.float32), equal_nan=True)
    assert np.array_equal(out, np.tile(out[:6], 3), equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_larger_of_two_is_the_one_that_is_a_number(dtype: type) -> None:
    from lovasz.kernels.cpu.arithmetic import inlined, larger

    @inlined
    def maxima(a, b):
        for i in range(len(a)):
            a[i] = larger(a[i], b[i])

    values = np.array([np.nan, -np.inf, -1.5, 0.0, 2.5, 3.0, np.inf], dtype)
    a, b = (side.ravel().copy() for side in np.meshgrid(values, values))
    expected = np.fmax(a, b)
    maxima(a, b)
    assert np.array_equal(a, expected, equal_nan=True)
