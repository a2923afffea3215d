"""The CPU kernel's own scalar functions, against NumPy's in twice the precision."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from lovasz.kernels import numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")


@pytest.fixture
def exps() -> Callable[[np.ndarray], np.ndarray]:
    """The kernel's exp of each element, in a loop that LLVM vectorises."""
    from numba import njit

    from lovasz.kernels.cpu.arithmetic import INLINED, exp

    @njit(**INLINED)
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
    from numba import njit

    from lovasz.kernels.cpu.arithmetic import INLINED, larger

    @njit(**INLINED)
    def maxima(a, b):
        for i in range(len(a)):
            a[i] = larger(a[i], b[i])

    values = np.array([np.nan, -np.inf, -1.5, 0.0, 2.5, 3.0, np.inf], dtype)
    a, b = (side.ravel().copy() for side in np.meshgrid(values, values))
    expected = np.fmax(a, b)
    maxima(a, b)
    assert np.array_equal(a, expected, equal_nan=True)


HALVES = np.arange(2**16, dtype=np.uint16)


def _with(function: Callable[..., object], values: np.ndarray, out: np.ndarray) -> np.ndarray:
    from numba import njit

    from lovasz.kernels.cpu.arithmetic import INLINED

    @njit(**INLINED)
    def each(values, out):
        for i in range(len(values)):
            out[i] = function(values[i])

    each(values, out)
    return out


def test_every_float16_is_widened_as_numpy_does() -> None:
    from lovasz.kernels.cpu import arithmetic

    expected = HALVES.view(np.float16).astype(np.float32)
    for function in (arithmetic.widen, arithmetic.half_to_float):
        found = _with(function, HALVES, np.empty(2**16, np.float32))
        assert np.array_equal(found, expected, equal_nan=True)
        assert np.array_equal(np.signbit(found), np.signbit(expected))


def test_a_float32_becomes_the_nearest_float16_as_in_numpy() -> None:
    from lovasz.kernels.cpu import arithmetic

    finite = np.sort(HALVES[np.isfinite(HALVES.view(np.float16))].view(np.float16)).astype(np.float32)
    between = (finite[1:] + finite[:-1]) / 2  # exact in float32: the even one is the nearest
    edges = np.array([65519.996, 65520, 65536, 3e38, np.inf, np.nan, 2**-25, 2**-24, 1e-30, 1e-42, 0.0], np.float32)
    random = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32).view(np.float32)
    values = np.concatenate(
        [finite, between, np.nextafter(between, 0), np.nextafter(between, 9e9), edges, -edges, random]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    for function in (arithmetic.narrow, arithmetic.float_to_half):
        found = _with(function, values, np.empty(len(values), np.uint16)).view(np.float16)
        assert np.array_equal(found, expected, equal_nan=True)
        assert np.array_equal(np.signbit(found)[~np.isnan(values)], np.signbit(expected)[~np.isnan(values)])


def test_float16_is_read_and_written_also_on_a_processor_that_cannot_convert_it() -> None:
    code = """
import numba, numpy as np
from lovasz.kernels.cpu import arithmetic
@numba.njit(**arithmetic.INLINED)
def twice(x):
    for i in range(len(x)):
        arithmetic.store(x, i, 2 * arithmetic.load(x, i))
x = np.array([0.5, -3.0, 40000.0], np.float16)
twice(x.view(np.uint16))
print(x.tolist(), arithmetic._BY_PROCESSOR)
"""
    # Numba's way to share machine code between different processors; an emulated one may have no more than that.
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("] ")[0] == "[1.0, -6.0, inf"
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert done.stdout.split("] ")[1].strip() == "False"
