"""Inputs whose errors are distributed as in real training, and some that are hard for bins; tests use them too."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BINARY = (
    "typical",
    "trained",
    "confident",
    "all wrong",
    "tiny errors",
    "bimodal",
    "rare class, 3 px",
    "rare class, 30 px",
    "rare class, 300 px",
    "untrained",
    "untrained, rare class",
)


def binary(kind: str, pixels: int = 10**6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (1, P) float32 and 0/1 targets (1, P) of one class."""
    random = np.random.default_rng([seed, BINARY.index(kind)])
    foreground = random.random(pixels) < 0.2
    if "rare" in kind:
        count = int(kind.split()[-2]) if kind.startswith("rare") else 30
        foreground = np.zeros(pixels, bool)
        foreground[random.choice(pixels, count, replace=False)] = True
    sign = np.where(foreground, 1.0, -1.0)
    noise = random.standard_normal(pixels)
    logits = {
        "typical": 2 * noise + sign,
        "trained": sign * (4 + 2 * noise),
        "confident": sign * (10 + 4 * noise),
        "all wrong": -sign * (8 + 2 * noise),
        "tiny errors": sign * (14 + noise),
        "bimodal": sign * (9 + noise) * np.where(random.random(pixels) < 0.9, 1.0, -1.0),
    }
    if kind.startswith("rare"):
        values = np.where(foreground, 2 * noise, 2 * noise - 4)
    elif kind.startswith("untrained"):
        values = random.uniform(-0.01, 0.01, pixels)
    else:
        values = logits[kind]
    return torch.from_numpy(values.astype(np.float32))[None], torch.from_numpy(foreground)[None].long()


MULTICLASS = ("trained", "untrained", "confident", "all wrong", "rare classes")
RARE_PIXELS = (3, 30, 300)


def multiclass(kind: str, classes: int, size: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (2, C, size, size) float32 and labels of frequencies that fall like 1 / rank.

    "rare classes": all but class 0 have 3, 30 or 300 pixels in turn, fewer where they would not fit; logits as trained.
    """
    random = np.random.default_rng([seed, MULTICLASS.index(kind), classes])
    frequency = 1 / np.arange(1, classes + 1)
    target = random.choice(classes, size=(2, size, size), p=frequency / frequency.sum())
    if kind == "rare classes":
        target = _rare_labels(random, classes, target.size).reshape(target.shape)
    logits = random.standard_normal((2, classes, size, size))
    if kind == "untrained":
        logits *= 0.01
    else:
        spread, margin = {
            "trained": (2.0, 6.0),
            "confident": (3.0, 20.0),
            "all wrong": (2.0, -8.0),
            "rare classes": (2.0, 6.0),
        }[kind]
        logits *= spread
        np.put_along_axis(logits, target[:, None], np.take_along_axis(logits, target[:, None], 1) + margin, 1)
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(target)


def _rare_labels(random: np.random.Generator, classes: int, pixels: int) -> np.ndarray:
    counts = np.array([RARE_PIXELS[c % len(RARE_PIXELS)] for c in range(classes - 1)])
    counts = np.minimum(counts, max(1, pixels // (2 * classes)))
    target = np.zeros(pixels, np.int64)
    places = random.choice(pixels, counts.sum(), replace=False)
    target[places] = np.repeat(np.arange(1, classes), counts)
    return target
