"""The CPU kernel's inner loops over neighbours, against the same arithmetic one by one in NumPy."""

import numpy as np
import pytest

from lovasz.kernels import numba_problem
from lovasz.kernels.bins import CELL_BITS, SUM_BITS

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
CELLS = 40
GUARD = -7  # written nowhere


def _table(random: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries (classes, CELLS) whose cells have from 1 to 2^CELL_BITS bins, the first bin of each, and the bits it
    drops."""
    drops = random.integers(CELL_BITS - 12, CELL_BITS + 1, (classes, CELLS))
    sizes = 1 << (CELL_BITS - drops)
    starts = (sizes.ravel().cumsum() - sizes.ravel()).reshape(sizes.shape)
    return (starts << 5 | drops).astype(np.int32), starts, drops


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64])
def test_a_bin_counts_its_places_and_adds_up_where_in_their_cell_they_lie(count: int) -> None:
    from numba import njit

    from lovasz.kernels.cpu import arithmetic, vectors

    @njit(**arithmetic.INLINED)
    def count_in(place, entries, count, bins, ahead):
        vectors.count_in(place, entries, count, bins, ahead)

    random = np.random.default_rng(count)
    entries, starts, drops = _table(random, 2)
    place = random.choice(random.integers(0, CELLS << CELL_BITS, 5), count + 8).astype(np.int32)  # some of them equal
    bins = np.zeros(starts[-1, -1] + (1 << CELL_BITS), np.int64)
    ahead = None if count == 7 else np.empty(0, np.float32)
    count_in(place, entries[1], count, bins, ahead)
    cell, inside = place[:count] >> CELL_BITS, place[:count] % (1 << CELL_BITS)
    index = starts[1, cell] + inside // 2 ** drops[1, cell]
    assert np.array_equal(bins >> SUM_BITS, np.bincount(index, minlength=len(bins)))
    assert np.array_equal(bins & ((1 << SUM_BITS) - 1), np.bincount(index, inside, len(bins)).astype(int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 8, 61])
def test_exp_below_the_peak_is_that_of_one_number_at_a_time(count: int, dtype: type) -> None:
    from numba import njit

    from lovasz.kernels.cpu import arithmetic, vectors

    @njit(**arithmetic.INLINED)
    def exp_below(row, peak, count):
        vectors.exp_below(row, peak, count)

    @njit(**arithmetic.INLINED)
    def one_by_one(row, peak, count):
        for i in range(count):
            row[i] = arithmetic.exp(row[i] - peak[i])

    random = np.random.default_rng(count)
    room = -(-count // vectors.LANES) * vectors.LANES
    row = (random.standard_normal(room + 8) * 20).astype(dtype)
    row[random.random(room + 8) < 0.2] = np.nan
    row[random.random(room + 8) < 0.2] = -np.inf
    peak = np.maximum(np.nan_to_num(row, neginf=0), random.standard_normal(room + 8)).astype(dtype)
    expected, beyond = row.copy(), row[room:].copy()
    exp_below(row, peak, count)
    one_by_one(expected, peak, count)
    assert np.array_equal(row[:count], expected[:count], equal_nan=True)
    assert np.array_equal(row[room:], beyond, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 8, 61])
@pytest.mark.parametrize("own_cells", [True, False])
def test_the_weight_of_a_place_is_its_bins_line_at_the_bits_that_the_bin_drops(
    count: int, own_cells: bool, dtype: type
) -> None:
    from numba import njit

    from lovasz.kernels.cpu import arithmetic, tables, vectors

    @njit(**arithmetic.INLINED)
    def weigh(place, cell, first, entries, lines, line, count, weights, ahead, later):
        vectors.weigh(place, cell, first, entries, lines, line, count, weights, ahead, later)

    random = np.random.default_rng(count)
    entries, starts, drops = _table(random, 3)
    used = starts[-1, -1] + (1 << CELL_BITS - drops[-1, -1])
    weights = random.standard_normal((2, 2 * used, 2)).astype(np.float32)  # of two images
    weights[random.random(weights.shape[:2]) < 0.3, 1] = 0
    lines = np.empty((2, 2 * used), np.int64)
    tables.lines(entries, weights, np.float32(-3), 0, 3, lines)

    room = -(-count // vectors.AHEAD) * vectors.AHEAD
    place = random.integers(0, CELLS << CELL_BITS, room).astype(np.int32)
    place[0] = (CELLS << CELL_BITS) - 1
    of = np.ones(room, int) if own_cells else random.integers(0, 3, room)
    cell = place >> CELL_BITS
    index = None if own_cells else (of * CELLS + cell).astype(np.int32)
    later = None if own_cells else np.empty(0, np.float32)  # that fetching beyond the end is harmless
    first = random.integers(0, 4, room).astype(np.int32) * np.int32(used)  # of either kind and image
    found = np.full(room + 8, GUARD, dtype)
    known = entries[1] if own_cells else entries.ravel(), lines.ravel(), np.empty(room, np.int64)
    weigh(place, index, first, *known, count, found, None, later)
    inside = place - (cell << CELL_BITS)
    bin_ = starts[of, cell] + inside // 2 ** drops[of, cell]
    start, rise = np.moveaxis(-3 * weights.astype(np.float64), -1, 0).reshape(2, -1)[:, bin_ + first]
    product = rise * (inside % 2 ** drops[of, cell])
    assert (
        np.abs(found[:room] - (start + product))[:count] <= (2**-22 * np.abs(start) + 2**-17 * np.abs(product))[:count]
    ).all()
    assert (found[count:] == GUARD).all()


def test_a_line_that_does_not_rise_holds_nothing_but_its_start() -> None:
    from lovasz.kernels.cpu import tables

    entries = np.array([[0 << 5 | CELL_BITS, 1 << 5 | CELL_BITS]], np.int32)
    rises = np.array([0.0, 1e-42], np.float32)  # the second is no normal number, with which processors are slow
    weights = np.stack([np.full((2, 2), 0.5, np.float32), np.stack([rises, -rises])], -1)
    lines = np.empty((2, 2), np.int64)
    tables.lines(entries, weights, np.float32(1), 0, 1, lines)
    assert np.array_equal(lines.view(np.float32).reshape(2, 2, 2), np.broadcast_to([0.5, 0.0], (2, 2, 2)))
    assert np.array_equal(lines.view(np.int32)[:, 1::2], np.zeros((2, 2)))  # and no bits in the rise of 0
