"""Look-ups for eight errors at a time on the CPU, against the same arithmetic one by one in NumPy."""

import numpy as np
import pytest

from lovasz.kernels import numba_problem
from lovasz.kernels.bins import CELL_BITS

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
    room = -(-count // vectors.LANES) * vectors.LANES
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 8, 61])
def test_the_weight_of_a_bin_is_its_line_at_the_bits_that_it_drops(count: int, dtype: type) -> None:
    from lovasz.kernels.cpu import vectors
    from lovasz.loops import compiled

    @compiled
    def weigh(found, rest, lines, count, weights, ahead):
        vectors.weigh(found, rest, lines, count, weights, ahead)

    random = np.random.default_rng(count)
    lines = random.standard_normal((100, 2)).astype(np.float32)
    room = -(-count // vectors.LANES) * vectors.LANES
    found = random.integers(0, 100, room).astype(np.int32)
    rest = random.integers(0, 1 << CELL_BITS, room).astype(np.int32)
    ahead = None if count == 1 else np.empty(0, np.float32)
    weights = np.full(room + 8, GUARD, dtype)
    weigh(found, rest, lines, count, weights, ahead)
    expected = lines[found, 0] + lines[found, 1].astype(np.float64) * rest
    # The product and the sum may be rounded once or twice.
    largest = np.abs(lines[found, 0]) + np.abs(lines[found, 1].astype(np.float64) * rest)
    assert (np.abs(weights[:count] - expected[:count]) <= 2**-23 * largest[:count]).all()
    assert (weights[room:] == GUARD).all()
