"""A radix sort of 32-bit keys, each with 32 bits of what is to be known of it, inlined into the loops of ``order.py``.

Apart because it knows nothing of losses.
"""

import numpy as np

from lovasz.kernels.cpu.arithmetic import inlined

DIGIT = 11  # bits of a key that one round looks at, three rounds for its 32
SHORT, FEW = 8, 2048  # the same for so few keys that counters would cost more than a fourth round
ROUNDS = 4  # at most
LOW = np.uint64(0xFFFFFFFF)


@inlined
def pack(key, known):
    """An int32 key and what is to be known of it, in one number that is ordered as the keys are."""
    return np.uint64(np.uint32(key) ^ np.uint32(0x80000000)) << np.uint64(32) | known


@inlined
def key_of(packed):
    """The key again."""
    return np.int32(np.uint32(packed >> np.uint64(32)) ^ np.uint32(0x80000000))


@inlined
def sort(packed, other, n, counts):
    """The first n by their keys in rising order, equal ones as they came. Returns the array that holds them, then the
    other. counts: (ROUNDS, 2^DIGIT) int32 to work in."""
    rounds, bits = (4, np.uint64(SHORT)) if n < FEW else (3, np.uint64(DIGIT))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    counts[:rounds, : np.int64(mask) + 1] = 0
    for i in range(n):
        key = packed[i] >> np.uint64(32)
        counts[0, key & mask] += np.int32(1)
        counts[1, (key >> bits) & mask] += np.int32(1)
        counts[2, (key >> (bits + bits)) & mask] += np.int32(1)
        if rounds == 4:
            counts[3, key >> np.uint64(3 * SHORT)] += np.int32(1)
    source, sink = packed, other
    for r in range(rounds):
        shift = np.uint64(32) + np.uint64(r) * bits
        begin = counts[r]
        if begin[(source[0] >> shift) & mask] == n:
            continue  # all have this digit in common
        total = np.int32(0)
        for digit in range(np.int64(mask) + 1):
            count = begin[digit]
            begin[digit] = total
            total += count
        for i in range(n):
            value = source[i]
            digit = (value >> shift) & mask
            at = begin[digit]
            begin[digit] = at + np.int32(1)
            sink[np.uint32(at)] = value
        source, sink = sink, source
    return source, sink
