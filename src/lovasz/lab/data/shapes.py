"""The procedural data set `shapes`: small coloured objects on textured ground, drawn from a seed with numpy alone.

Nothing has to be downloaded, and yet IoU and pixel accuracy differ as in real data: classes differ by a factor of
a hundred in pixels, some are one or two pixels thin, some are rare, and only the shape tells them apart for sure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lovasz.lab.data.dataset import SPLITS, Colour, DatasetInfo, Sample, SegmentationDataset

Array = np.ndarray
# A shape is the signed distance in pixels to its outline (negative inside), from coordinates in its own frame.
Outline = Callable[[Array, Array, float, float], Array]

REFERENCE_SIZE = 64  # the sizes below are in pixels of a picture of this side, and grow with it


def _disc(x: Array, y: Array, r: float, _: float) -> Array:
    return np.hypot(x, y) - r


def _square(x: Array, y: Array, r: float, _: float) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - r


def _triangle(x: Array, y: Array, r: float, _: float) -> Array:
    return np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - r / 2


def _ring(x: Array, y: Array, r: float, width: float) -> Array:
    return np.abs(np.hypot(x, y) - r) - width / 2


def _cross(x: Array, y: Array, r: float, width: float) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - width / 2, np.maximum(x, y) - r)


def _star(x: Array, y: Array, r: float, _: float) -> Array:
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, y) + sector) % (2 * sector) - sector)  # five points, folded onto half of one
    radius = np.hypot(x, y)
    # the edge runs from the tip (r, 0) to the notch at half a sector; its normal is at a fixed angle
    notch = 0.45 * r
    tip_to_notch = np.array([notch * np.sin(sector), r - notch * np.cos(sector)])
    normal = tip_to_notch / np.linalg.norm(tip_to_notch)
    return radius * np.sin(angle) * normal[1] + (radius * np.cos(angle) - r) * normal[0]


def _crescent(x: Array, y: Array, r: float, _: float) -> Array:
    return np.maximum(np.hypot(x, y) - r, 0.8 * r - np.hypot(x - 0.55 * r, y))


def _bar(x: Array, y: Array, r: float, width: float) -> Array:
    return np.hypot(np.maximum(np.abs(x) - r, 0), y) - width / 2


@dataclass(frozen=True)
class ShapeClass:
    """How often a class is drawn, how large (half its extent, pixels), how wide its strokes, and its usual hue."""

    name: str
    colour: Colour  # in masks shown to people; the objects themselves are drawn in varying hues
    outline: Outline
    share: float
    radius: tuple[float, float]
    width: tuple[float, float]
    hue: float
    opacity: tuple[float, float] = (0.75, 1.0)


SHAPES = (
    ShapeClass("disc", (76, 159, 232), _disc, 0.22, (8.0, 14.0), (0, 0), 0.58),
    ShapeClass("square", (245, 146, 58), _square, 0.18, (6.0, 10.0), (0, 0), 0.07),
    ShapeClass("triangle", (74, 184, 112), _triangle, 0.14, (8.0, 12.0), (0, 0), 0.36),
    ShapeClass("bar", (238, 110, 172), _bar, 0.13, (8.0, 20.0), (1.6, 2.8), 0.90),
    ShapeClass("dot", (244, 244, 248), _disc, 0.12, (1.6, 2.8), (0, 0), 0.16),
    ShapeClass("ring", (226, 72, 80), _ring, 0.07, (6.0, 10.0), (2.0, 3.2), 0.98),
    ShapeClass("cross", (150, 110, 230), _cross, 0.06, (5.0, 8.0), (2.2, 3.4), 0.75),
    ShapeClass("star", (250, 208, 64), _star, 0.05, (5.5, 8.5), (0, 0), 0.25),
    ShapeClass("crescent", (56, 196, 204), _crescent, 0.03, (6.0, 10.0), (0, 0), 0.48),
)

SHAPES_INFO = DatasetInfo(
    name="shapes",
    classes=("background", *(shape.name for shape in SHAPES)),
    palette=((46, 52, 70), *(shape.colour for shape in SHAPES)),
)


COUNTS = {"train": 600, "val": 100, "test": 100}


def open_shapes(split: str, *, seed: int = 0, size: int = REFERENCE_SIZE, **counts: int) -> ShapesDataset:
    """One split. size: side of the pictures in pixels, in whose proportion everything is drawn; train, val, test:
    numbers of pictures (default COUNTS)."""
    return ShapesDataset(split, seed=seed, size=size, counts=COUNTS | counts)


def shapes_splits(*, size: int = REFERENCE_SIZE, **counts: int) -> tuple[str, ...]:  # noqa: ARG001 - any size has them
    """The splits that hold at least one picture."""
    return tuple(split for split in SPLITS if (COUNTS | counts)[split])


class ShapesDataset(SegmentationDataset):
    """Picture i of a split is a function of (seed, split, i, size) alone; no two splits share a picture.

    Pictures are kept once drawn (four bytes a pixel).
    """

    def __init__(self, split: str, *, seed: int, size: int, counts: Mapping[str, int]) -> None:
        self.info, self.split = SHAPES_INFO, split
        self.seed, self.size, self.counts = seed, size, dict(counts)
        self._drawn: dict[int, Sample] = {}

    def __len__(self) -> int:
        return self.counts[self.split]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"shapes, {self.split}: picture {index} of {len(self)}")
        if index not in self._drawn:
            rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
            image, labels = draw_scene(rng, self.size)
            pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()  # (3, H, W)
            self._drawn[index] = Sample(pixels, torch.from_numpy(labels), f"{self.split}-{index:04d}")
        drawn = self._drawn[index]
        return Sample(drawn.image.clone(), drawn.mask.clone(), drawn.name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_drawn": {}}  # a worker process draws its own rather than unpack them

    def describe(self) -> str:
        """What the pictures are."""
        counts = " / ".join(f"{count} {split}" for split, count in self.counts.items() if count)
        return (
            f"shapes: {self.info.num_classes} classes ({', '.join(self.info.classes)}); no void. {counts} pictures of "
            f"{self.size} x {self.size} pixels, drawn from seed {self.seed}."
        )


def draw_scene(rng: np.random.Generator, size: int = REFERENCE_SIZE) -> tuple[Array, Array]:
    """One random picture: image uint8 (size, size, 3) and labels uint8 (size, size), indices of SHAPES_INFO.classes."""
    unit = size / REFERENCE_SIZE
    canvas = _ground(rng, size)  # (size, size, 3) float32, 0..1
    labels = np.zeros((size, size), np.uint8)
    _clutter(rng, canvas, unit)
    for _ in range(int(rng.integers(4, 10))):
        label = int(np.searchsorted(_CUMULATIVE_SHARE, rng.random(), side="right"))
        _draw(rng, canvas, labels, SHAPES[label], label + 1, unit)
    canvas *= 1 + 0.25 * (_smooth_noise(rng, size, 3) - 0.5)[..., None]  # uneven light
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * float(rng.uniform(0.015, 0.05))  # sensor noise
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8), labels


_CUMULATIVE_SHARE = np.cumsum([shape.share for shape in SHAPES])
_CUMULATIVE_SHARE[-1] = 1.0  # whatever the rounding of the sum, a draw in [0, 1) stays inside


def _draw(rng: np.random.Generator, canvas: Array, labels: Array, shape: ShapeClass, label: int, unit: float) -> None:
    size = labels.shape[0]
    radius = float(rng.uniform(*shape.radius)) * unit
    width = float(rng.uniform(*shape.width)) * unit
    centre_y, centre_x = rng.uniform(0.04, 0.96, 2) * size
    angle = rng.uniform(0, 2 * np.pi)
    # The usual hue of the class three times in four, any hue otherwise: a hint, never an answer.
    hue = rng.normal(shape.hue, 0.04) if rng.random() < 0.75 else rng.random()
    colour = _rgb(hue, rng.uniform(0.45, 0.9), rng.uniform(0.6, 1.0))
    opacity = float(rng.uniform(*shape.opacity))
    shade = rng.uniform(-0.012, 0.012, 2) / unit

    reach = radius * 1.45 + width + 2  # the diagonal of the square, and the soft edge
    top, bottom = max(0, int(centre_y - reach)), min(size, int(centre_y + reach) + 1)
    left, right = max(0, int(centre_x - reach)), min(size, int(centre_x + reach) + 1)
    if top >= bottom or left >= right:
        return
    dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - centre_y))[:, None]
    dx = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - centre_x))[None, :]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    distance = shape.outline(dx * cos + dy * sin, dy * cos - dx * sin, radius, width)

    patch = canvas[top:bottom, left:right]
    cover = (np.clip(0.5 - distance, 0, 1) * opacity)[..., None]
    tint = colour * (1 + shade[0] * dx + shade[1] * dy)[..., None]
    patch += cover * (tint.astype(np.float32) - patch)
    labels[top:bottom, left:right][distance <= 0] = label


def _clutter(rng: np.random.Generator, canvas: Array, unit: float) -> None:
    """Faint unlabelled strokes and spots: what a thin or small object is easily taken for."""
    nothing = np.zeros(canvas.shape[:2], np.uint8)
    for shape, fewest, most in ((_STROKE, 1, 5), (_SPOT, 2, 7)):
        for _ in range(int(rng.integers(fewest, most))):
            _draw(rng, canvas, nothing, shape, 0, unit)


_STROKE = ShapeClass("stroke", (0, 0, 0), _bar, 0, (5.0, 16.0), (0.8, 2.2), 0.5, opacity=(0.1, 0.35))
_SPOT = ShapeClass("spot", (0, 0, 0), _disc, 0, (1.0, 3.0), (0, 0), 0.5, opacity=(0.1, 0.35))


def _ground(rng: np.random.Generator, size: int) -> Array:
    hue = rng.random()
    dark = _rgb(hue, rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.45))
    light = _rgb(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.1, 0.4), rng.uniform(0.45, 0.8))
    texture = (
        0.55 * _smooth_noise(rng, size, 3) + 0.3 * _smooth_noise(rng, size, 8) + 0.15 * _smooth_noise(rng, size, 24)
    )
    if rng.random() < 0.5:  # a woven or striped ground
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(4, 12)
        across = np.linspace(0, 2 * np.pi * frequency, size, dtype=np.float32)
        wave = np.sin(across[None, :] * np.float32(np.cos(angle)) + across[:, None] * np.float32(np.sin(angle)))
        texture = texture + np.float32(0.09) * wave
    return dark + np.clip(texture, 0, 1)[..., None] * (light - dark)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Random values on a grid of `cells` intervals, interpolated linearly: (size, size) float32 in 0..1."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / size)
    low = position.astype(np.intp)
    part = position - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]  # (size, cells + 1)
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _rgb(hue: float, saturation: float, value: float) -> Array:
    """HSV to RGB, all in 0..1, the hue modulo 1."""
    ramp = np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return (value * (1 - saturation + saturation * np.clip(ramp, 0, 1))).astype(np.float32)
