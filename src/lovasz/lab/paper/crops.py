"""Figures 5, 7 and 8: parts of images where two networks differ most, beside the image and the truth.

The pictures stay in the experiment's folder: they show the data set, so they are not for the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from lovasz.lab.data import IGNORE_INDEX, SegmentationDataset
from lovasz.lab.data.colours import colourise
from lovasz.lab.predict import predict_labels
from lovasz.lab.progress import tracked

PART = 0.4  # of each side of an image that a crop shows
LOOKED_AT = 60  # images among which the crops are sought, evenly over the split


def draw_crops(
    pyplot: Any,
    networks: Mapping[str, nn.Module],
    between: tuple[str, str],
    dataset: SegmentationDataset,
    path: Path,
    *,
    device: torch.device,
    count: int = 4,
    progress: Progress | None = None,
) -> list[str]:
    """Draw one row for each of `count` images: the crop, its truth, and what each network says; returns their names.

    networks: by the name that stands above their column; between: the two of them whose difference decides. A crop has
    the most pixels on which exactly one of these two is right; so neither loss is favoured. An image on which both are
    right and wrong alike is not drawn.
    """
    places = np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset))).round().astype(int).tolist()
    found: list[tuple[int, int, tuple[slice, slice]]] = []  # (pixels, index, window)
    classes = len(dataset.info.classes)
    for network in networks.values():
        network.eval().to(device)
    for index in tracked(places, len(places), "crops", progress):
        sample = dataset[index]
        one, other = (predict_labels(networks[name], sample.image[None], device, classes)[0] for name in between)
        truth = sample.mask
        differs = ((one == truth) != (other == truth)) & (truth != IGNORE_INDEX)
        pixels, window = densest_window(differs.numpy())
        if pixels:
            found.append((pixels, index, window))
    found.sort(key=lambda item: (-item[0], item[1]))
    rows = found[:count]
    if not rows:
        return []
    head = ["image", "truth", *networks]
    figure, panels = pyplot.subplots(
        len(rows), len(head), figsize=(2.4 * len(head), 2.2 * len(rows)), dpi=110, squeeze=False
    )
    names = []
    for (_, index, window), row in zip(rows, panels, strict=True):
        sample = dataset[index]
        names.append(sample.name)
        pictures = [sample.image.permute(1, 2, 0).numpy(), colourise(sample.mask.numpy(), dataset.info)]
        for network in networks.values():
            labels = predict_labels(network, sample.image[None], device, classes)[0]
            pictures.append(colourise(labels.to(torch.uint8).numpy(), dataset.info))
        for axes, picture, title in zip(row, pictures, head, strict=True):
            axes.imshow(picture[window])
            axes.set_axis_off()
            if axes in panels[0]:
                axes.set_title(title, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return names


def densest_window(marked: np.ndarray) -> tuple[int, tuple[slice, slice]]:
    """The window of `PART` of each side that holds the most marked pixels, and their number; the first of equal ones.

    marked: (H, W) bool.
    """
    height, width = (max(1, round(PART * side)) for side in marked.shape)
    sums = np.zeros((marked.shape[0] + 1, marked.shape[1] + 1), np.int64)
    sums[1:, 1:] = marked.cumsum(0, dtype=np.int64).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return int(inside[top, left]), (slice(int(top), int(top) + height), slice(int(left), int(left) + width))
