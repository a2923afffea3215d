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
@pytest.mark.parametrize("own_cells", [True, False])
def test_the_bin_of_a_place_is_the_one_that_arithmetic_says(count: int, own_cells: bool) -> None:
    from lovasz.kernels.cpu import vectors
    from lovasz.loops import compiled

    @compiled
    def find(place, cell, entries, count, found, rest, ahead):
        vectors.find(place, cell, entries, count, found, rest, ahead)

    random = np.random.default_rng(count)
    entries, starts, drops = _table(random, 3)
    room = -(-count // vectors.AHEAD) * vectors.AHEAD
    place = random.integers(0, CELLS << CELL_BITS, room).astype(np.int32)
    place[-1] = (CELLS << CELL_BITS) - 1
    of = np.zeros(room, int) if own_cells else random.integers(0, 3, room)
    cell = place >> CELL_BITS
    found, rest = np.full(room + 8, GUARD, np.int32), np.full(room + 8, GUARD, np.int32)
    ahead = None if own_cells else np.empty(0, np.float32)  # that fetching beyond the end is harmless
    index = None if own_cells else (of * CELLS + cell).astype(np.int32)
    find(place, index, entries[0] if own_cells else entries.ravel(), count, found, rest, ahead)
    inside = place - (cell << CELL_BITS)
    assert np.array_equal(found[:count], (starts[of, cell] + inside // 2 ** drops[of, cell])[:count])
    assert np.array_equal(rest[:count], (inside % 2 ** drops[of, cell])[:count])
    assert (found[room:] == GUARD).all()
    assert (rest[room:] == GUARD).all()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64])
def test_a_bin_counts_its_places_and_adds_up_where_in_their_cell_they_lie(count: int) -> None:
    from lovasz.kernels.cpu import vectors
    from lovasz.loops import compiled

    @compiled
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
    from lovasz.kernels.cpu import arithmetic, vectors
    from lovasz.loops import compiled

    @compiled
    def exp_below(row, peak, count):
        vectors.exp_below(row, peak, count)

    @arithmetic.inlined
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
def test_the_weight_of_a_bin_is_its_line_at_the_bits_that_it_drops(count: int, dtype: type) -> None:
    from lovasz.kernels.cpu import vectors
    from lovasz.loops import compiled

    @compiled
    def weigh(found, rest, lines, line, count, weights, ahead):
        vectors.weigh(found, rest, lines, line, count, weights, ahead)

    random = np.random.default_rng(count)
    lines = random.standard_normal((100, 2)).astype(np.float32)
    room = -(-count // vectors.AHEAD) * vectors.AHEAD
    found = random.integers(0, 100, room).astype(np.int32)
    rest = random.integers(0, 1 << CELL_BITS, room).astype(np.int32)
    ahead = None if count == 1 else np.empty(0, np.float32)
    weights = np.full(room + 8, GUARD, dtype)
    weigh(found, rest, lines.view(np.int64)[:, 0], np.empty(room, np.int64), count, weights, ahead)
    expected = lines[found, 0] + lines[found, 1].astype(np.float64) * rest
    # The product and the sum may be rounded once or twice.
    largest = np.abs(lines[found, 0]) + np.abs(lines[found, 1].astype(np.float64) * rest)
    assert (np.abs(weights[:count] - expected[:count]) <= 2**-23 * largest[:count]).all()
    assert (weights[room:] == GUARD).all()
