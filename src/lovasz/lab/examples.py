"""Pictures for the report: the validation images on which the losses differ most, drawn in the data set's colours."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from lovasz.lab.data import SegmentationDataset
from lovasz.lab.data.colours import colourise
from lovasz.lab.predict import predict_labels


def largest_differences(images: Mapping[str, Mapping[str, float | None]], count: int) -> list[tuple[str, float]]:
    """Image names and differences, largest first.

    images: for each loss the mean IoU of each image. The difference of an image is the largest minus the smallest over
    the losses; images without a score (all void) are left out; equal differences go by name.
    """
    losses = list(images.values())
    differences = {}
    for name in losses[0] if losses else ():
        values = [scores[name] for scores in losses if scores.get(name) is not None]
        if len(values) == len(losses):
            differences[name] = max(values) - min(values)  # type: ignore[type-var, operator]
    return sorted(differences.items(), key=lambda item: (-item[1], item[0]))[:count]


def draw_examples(
    chosen: list[tuple[str, float]],
    models: Mapping[str, tuple[str, nn.Module]],
    images: Mapping[str, Mapping[str, float | None]],
    dataset: SegmentationDataset,
    out: Path,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Write OUT/examples/NAME/{image,truth,SLUG}.png and return "examples" of comparison.json.

    chosen: from `largest_differences`; models: for each loss its slug and network; images: for each loss the scores.
    """
    wanted = dict(chosen)
    shutil.rmtree(out / "examples", ignore_errors=True)  # of an earlier choice
    found: dict[str, dict[str, Any]] = {}
    for i in range(len(dataset)):
        sample = dataset[i]
        if sample.name not in wanted:
            continue
        place = f"examples/{sample.name}"
        (out / place).mkdir(parents=True)
        Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy()).save(out / place / "image.png")
        Image.fromarray(colourise(sample.mask.numpy(), dataset.info)).save(out / place / "truth.png")
        entry: dict[str, Any] = {"name": sample.name, "image": f"{place}/image.png", "truth": f"{place}/truth.png"}
        entry |= {"predictions": {}, "difference": wanted[sample.name]}
        for loss, (slug, model) in models.items():
            labels = predict_labels(model.eval().to(device), sample.image[None], device, len(dataset.info.classes))
            path = f"{place}/{slug}.png"
            Image.fromarray(colourise(labels[0].to(torch.uint8).numpy(), dataset.info)).save(out / path)
            entry["predictions"][loss] = {"image": path, "miou": images[loss][sample.name]}
        found[sample.name] = entry
        if len(found) == len(wanted):
            break
    return [found[name] for name, _ in chosen if name in found]
