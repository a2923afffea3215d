"""The binned method's two halves: which bin an error falls into, and what an error in each bin weighs.

The same ideas as `lovasz.kernels.bins`, with bins that are fixed beforehand: compiled code wants sizes that do not
depend on the values. An error is placed by its float's own bits, mirrored at 1/2. Around a centre, where the errors of
an untrained network meet, the bins are narrower the nearer they lie to it; farther away an octave has equally many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lovasz.ports.arrays import Arrays

FLOOR = 0x30800000  # bits of 2^-30; everything below shares its place
HALF = 0x3F000000 - FLOOR  # places from 2^-30 up to 1/2
OCTAVE = 1 << 23  # places in one octave of a float32
FAR = 32 * OCTAVE  # beyond this distance from the centre 16 bins to the octave do
LARGEST = 0x7F800000  # bits of infinity

UNKNOWN_IMAGES = 4  # taken for the images of a batch whose size is not known when the graph is made
SLOTS = 1 << 20  # bins that all groups together may have in any case
# Finest first, as (near, dropped) of a layout: 110,000, 40,000, 28,000, 14,000, 7,000 and 3,500 bins.
FINENESS = ((11, 13), (10, 15), (9, 15), (8, 16), (7, 17), (6, 18))


@dataclass(frozen=True)
class Layout:
    """How finely errors are binned.

    Attributes:
        mirrored: errors lie in [0, 1] and 1/2 is the centre; else they have no upper end.
        centre: bits of the error around which an unmirrored layout is finest.
        near: each doubling of the distance from the centre has 2^near bins, within an octave.
        dropped: low bits of a place that a bin beyond that octave does not tell apart.
    """

    mirrored: bool
    centre: int
    near: int
    dropped: int

    def distance_bins(self, distance: int) -> int:
        """Bins from the centre up to a distance in places."""
        near = (_bits(min(distance, OCTAVE) + (1 << self.near)) - _bits(1 << self.near)) >> (23 - self.near)
        return near + (max(min(distance, FAR) - OCTAVE, 0) >> self.dropped) + (max(distance - FAR, 0) >> 19)

    @property
    def below(self) -> int:
        """Bins below the centre."""
        return self.distance_bins(HALF - 1 if self.mirrored else self.centre - FLOOR) + 1

    @property
    def size(self) -> int:
        """All bins."""
        return self.below + (self.below if self.mirrored else self.distance_bins(LARGEST - self.centre) + 1)


def _bits(value: int) -> int:
    """The bits of the float32 nearest below a positive integer."""
    exponent = value.bit_length() - 1
    mantissa = value - (1 << exponent)
    return ((127 + exponent) << 23) + (mantissa << 23 >> exponent)


def layout(errors: str, groups: int, elements: int | None) -> Layout:
    """The finest layout whose tables stay small beside the errors themselves.

    Args:
        errors: "softmax", "sigmoid", "probability", "hinge" or "elu".
        groups: groups of pixels, each of which has its own bins.
        elements: errors in all; None if not known.
    """
    mirrored = errors not in ("hinge", "elu")
    centre = 0x40000000 if errors == "elu" else 0x3F800000  # the error at score 0: 2 or 1
    room = max(SLOTS, (elements or 0) // 16)
    layouts = [Layout(mirrored, centre, near, dropped) for near, dropped in FINENESS]
    fitting = [found for found in layouts if 2 * groups * found.size <= room]
    return fitting[0] if fitting else layouts[-1]


@dataclass(frozen=True)
class Whole:
    """Numbers that are added up as int32.

    Attributes:
        parts: counts of pixels; where pixels have weights, those and their fractions, see `whole_parts`.
        base: how many of a part make one of the part before it; None for one part.
    """

    parts: list[Any]
    base: Any = None

    def map(self, change: Callable[[Any], Any]) -> Whole:
        """The same change of every part, which must be linear: sums, selections, moves."""
        return Whole([change(part) for part in self.parts], self.base)

    def value(self, arrays: Arrays, dtype: str) -> Any:
        """As floating numbers."""
        value = arrays.cast(self.parts[0], dtype)
        return value if self.base is None else value + arrays.cast(self.parts[1], dtype) / arrays.cast(self.base, dtype)


def walk(arrays: Arrays, background: Whole, foreground: Whole, dtype: str) -> tuple[Any, Any, Any]:
    """The foreground of each row (G, 1), and before each place of it (G, K): foreground with the background met so far,
    and the foreground still to come. Floating; added up as whole numbers."""
    n = foreground.map(lambda f: arrays.sum(f, -1, keepdims=True))
    union = Whole([n + arrays.cumsum(b) - b for n, b in zip(n.parts, background.parts, strict=True)], background.base)
    remaining = Whole(
        [n - arrays.cumsum(f) + f for n, f in zip(n.parts, foreground.parts, strict=True)], foreground.base
    )
    return n.value(arrays, dtype), union.value(arrays, dtype), remaining.value(arrays, dtype)


def bin_of(arrays: Arrays, errors: Any, complement: Any, layout: Layout) -> Any:
    """The bin (int32) of each error, counted from the largest error down.

    Args:
        errors: float32, not negative up to rounding.
        complement: 1 - errors, with its own digits; not used by a layout without mirror.
    """
    if layout.mirrored:
        low = arrays.minimum(arrays.maximum(arrays.bits(errors), FLOOR) - FLOOR, HALF - 1) - HALF
        high = HALF - 1 - arrays.minimum(arrays.maximum(arrays.bits(complement), FLOOR) - FLOOR, HALF - 1)
        offset = arrays.where(errors <= 0.5, low, high)  # places above the centre, -1 is the first below
    else:
        bits = arrays.minimum(arrays.maximum(arrays.bits(errors), FLOOR), LARGEST)
        offset = bits - layout.centre
    is_below = offset < 0
    distance = arrays.where(is_below, -1 - offset, offset)
    start = 1 << layout.near
    near = arrays.bits(arrays.cast(arrays.minimum(distance, OCTAVE) + start, "float32")) - _bits(start)
    bins = arrays.shift_right(near, 23 - layout.near)
    bins = bins + arrays.shift_right(arrays.maximum(arrays.minimum(distance, FAR) - OCTAVE, 0), layout.dropped)
    if not layout.mirrored:
        bins = bins + arrays.shift_right(arrays.maximum(distance - FAR, 0), 19)
    above = layout.size - layout.below
    return arrays.where(is_below, above + bins, above - 1 - bins)


def whole_parts(arrays: Arrays, weight: Any, per_image: bool) -> Whole:
    """Float32 weights of pixels as whole numbers, whose sums are exact however many there are and in any order.

    Each weight is taken in units of largest / base, with base so small that all of them together fit into an int32: its
    whole part, and its fraction in units of 1 / base, to the nearest. At four million pixels that is 1 part in 260,000
    of the largest weight, for fewer pixels less. The largest is that of the batch or, ``per_image``, of each image.
    """
    pixels = arrays.sum(arrays.ones_like(arrays.reshape(weight, (-1,)), "int32"), 0)
    base = arrays.minimum((2**31 - 1) // pixels, 1 << 20)
    base = arrays.cast(base, "float32")
    axes = range(1 if per_image else 0, len(arrays.static_shape(weight)))
    largest = arrays.max(weight, tuple(axes))  # (N or 1, 1), or with a channel
    scaled = weight / arrays.where(largest > 0, largest, 1.0) * base
    high = arrays.cast(scaled, "int32")
    low = arrays.cast((scaled - arrays.cast(high, "float32")) * base + 0.5, "int32")
    return Whole([high, low], base)


def weights(arrays: Arrays, background: Whole, foreground: Whole) -> Any:
    """What an error in each bin weighs, from (G, K) counts of background and foreground pixels, largest errors first.

    The average of the Jaccard loss's slope over the straight path through the bin, as in `lovasz.kernels.bins.weights`:
    with a = n + j and A = n - k at the bin's start, and f and b pixels in it::

        foreground: log1p(b / a) / b                                          (1 / a for b = 0)
        background: A / (a (a + b)) - f (log1p(b / a) - b / (a + b)) / b^2
        n = 0: the pixels of the first bin that has any share the weight 1

    Returns:
        (G, 2, K) weights of background and foreground in float32.
    """
    n, union, remaining = walk(arrays, background, foreground, "float32")
    b, f = background.value(arrays, "float32"), foreground.value(arrays, "float32")
    first = (n == 0) & (union == 0) & (b > 0)
    a = arrays.where(union > 0, union, 1.0)
    some = arrays.where(b > 0, b, 1.0)
    x = b / a
    log = arrays.log1p(x)
    # log1p(x) - x / (1 + x), by its series where the difference would lose its digits
    series = x * x * (1 / 2 - x * (2 / 3 - x * (3 / 4 - x * (4 / 5 - x * (5 / 6 - x * (6 / 7 - x * 7 / 8))))))
    rest = arrays.where(x < 0.1, series, log - x / (1 + x))
    of_foreground = arrays.where(b > 0, log / some, 1 / a)
    of_background = remaining / (a * (a + b)) - f * rest / (some * some)
    of_background = arrays.where(n == 0, arrays.cast(first, "float32") / some, of_background)
    return arrays.stack([of_background, arrays.where(n == 0, 0.0, of_foreground)])
