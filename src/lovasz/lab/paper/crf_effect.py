"""Figure 5: what the CRF changes in the answer of a network, by class and on images.

Apart from `answers`, which counts: here is drawn what these counts say, and where on images the CRF changes most.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from lovasz.lab.crf import CRF, WithCRF
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.models.resized import ask_as
from lovasz.lab.paper.answers import WAYS
from lovasz.lab.paper.crops import draw_crops

PICTURE = "paper-figure-5.png"
CROPS = "crops-figure-5.png"


def gains(found: Mapping[str, Any]) -> dict[str, float | None]:
    """By class, the IoU behind the CRF less that without it, both at several scales; None where an IoU is 0/0.

    found: of one network, as `multiclass` keeps it under "answers".
    """
    before, after = (found["ways"][way]["per_class_iou"] for way in ("multi", "crf"))
    return {
        name: None if before[name] is None or after[name] is None else after[name] - before[name] for name in before
    }


def draw_gains(pyplot: Any, answers: Mapping[str, Any], labels: Mapping[str, str], path: Path) -> None:
    """Bars of `gains` for each network, class by class. labels: of the networks to draw, by their name in `answers`."""
    found = {label: gains(answers[name]) for name, label in labels.items()}
    classes = list(next(iter(found.values())))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.5 * len(classes) + 2), 3.8), dpi=110)
    width = 0.8 / len(found)
    for number, (label, of) in enumerate(found.items()):
        values = [np.nan if gain is None else 100 * gain for gain in of.values()]
        places = np.arange(len(classes)) + (number - (len(found) - 1) / 2) * width
        axes.bar(places, values, width, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.set_ylabel("IoU with the CRF\nless without, points")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def draw_images(
    pyplot: Any,
    network: nn.Module,
    crf: CRF,
    dataset: SegmentationDataset,
    path: Path,
    *,
    size: tuple[int, int] | None,
    scales: tuple[float, ...],
    device: torch.device,
    progress: Progress | None = None,
) -> list[str]:
    """Parts of the images on which the CRF sets most right or wrong, as `draw_crops` has them; returns their names."""
    asked = ask_as(network, size=size, scales=scales, crf=False)
    networks = {WAYS["multi"]: asked, WAYS["crf"]: WithCRF(asked, crf)}
    between = (WAYS["multi"], WAYS["crf"])
    return draw_crops(pyplot, networks, between, dataset, path, device=device, progress=progress)
