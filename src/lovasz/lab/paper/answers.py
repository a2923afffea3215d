"""What a trained network answers, Section 4.3: at one scale, at several, behind the CRF; and by three decision rules.

Apart from `multiclass`, which trains: here a network is only asked, and what was counted is kept as it goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from lovasz.confusion import confusion_counts
from lovasz.lab.config import read_json, write_json
from lovasz.lab.crf import CRF
from lovasz.lab.data import IGNORE_INDEX, SegmentationDataset
from lovasz.lab.data.resized import Resized
from lovasz.lab.decision import decide, rank
from lovasz.lab.models.resized import ask_as
from lovasz.lab.progress import tracked
from lovasz.sampling import EquibatchSampler

WAYS = {"single": "one scale", "multi": "several scales", "crf": "several scales and CRF"}
RULES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "argmax": ("arg max", lambda p: p.argmax(1)),
    "nowozin": ("Nowozin 2014, the batch together", lambda p: _together(p)),
    "rankseg": ("rankseg, each image alone", rank),
}
KEPT_EVERY = 5  # images
# What DeepLab's authors search over: around their parameters for other networks.
CRF_GRID = {
    "appearance_weight": (3.0, 4.0, 6.0),
    "appearance_pixels": (30.0, 67.0, 100.0),
    "appearance_colours": (3.0, 6.0),
}


def scores_of(counts: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Mean IoU over the classes in truth or prediction, IoU of each class and pixel accuracy of counts (C, C)."""
    right = counts.diagonal().double()
    iou = right / (counts.sum(0) + counts.sum(1) - counts.diagonal())  # 0/0 is NaN
    each = dict(zip(classes, (None if np.isnan(v) else v for v in iou.tolist()), strict=True))
    return {
        "dataset_miou": float(iou.nanmean()),
        "pixel_accuracy": float(right.sum() / counts.sum()),
        "per_class_iou": each,
    }


def answer(
    network: nn.Module,
    dataset: SegmentationDataset,
    images: Sequence[int],
    path: Path,
    *,
    size: tuple[int, int] | None,
    scales: Sequence[float],
    crf: CRF | None,
    device: torch.device,
    progress: Progress | None = None,
    description: str = "asking",
) -> dict[str, Any]:
    """The scores of each of WAYS ("crf" where `crf` is given) on these images, at their own size.

    path: a JSON that keeps the counts, so that a killed pass goes on.
    """
    classes = dataset.info.classes
    ways = ["single", "multi", *(["crf"] if crf is not None else [])]
    empty = {"done": 0, "counts": {way: [[0] * len(classes)] * len(classes) for way in ways}}
    kept = read_json(path) if path.is_file() else empty
    counts = {way: torch.tensor(kept["counts"][way]) for way in ways}
    networks = {"single": ask_as(network, size=size, scales=None, crf=False)}
    networks["multi"] = ask_as(network, size=size, scales=scales, crf=False)
    network.eval().to(device)
    done = kept["done"]
    for number in tracked(range(done, len(images)), len(images), description, progress, completed=done):
        sample = dataset[images[number]]
        target = sample.mask[None].long()  # (1, H, W)
        found = torch.empty(0)
        for way, asked in networks.items():  # several scales last, for the CRF
            with torch.inference_mode():
                found = asked(sample.image[None].to(device).float() / 255).float().softmax(1).cpu()  # (1, C, H, W)
            counts[way] += confusion_counts(found.argmax(1), target, len(classes), ignore_index=IGNORE_INDEX)
        if crf is not None:
            refined = crf.refine(sample.image.permute(1, 2, 0).contiguous().numpy(), found[0].numpy())
            labels = torch.from_numpy(refined).argmax(0)[None]
            counts["crf"] += confusion_counts(labels, target, len(classes), ignore_index=IGNORE_INDEX)
        if (number + 1) % KEPT_EVERY == 0 or number + 1 == len(images):
            write_json(path, {"done": number + 1, "counts": {way: counts[way].tolist() for way in ways}})
    return {way: scores_of(counts[way], classes) for way in ways}


def search_crf(
    network: nn.Module,
    dataset: SegmentationDataset,
    images: Sequence[int],
    path: Path,
    *,
    size: tuple[int, int] | None,
    scales: Sequence[float],
    device: torch.device,
    grid: Mapping[str, Sequence[float]] = CRF_GRID,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The parameters of `grid`, and DeepLab-v2's, with the best mean IoU on these images.

    Returns {"best": the CRF's fields, "tried": [{fields of the grid, "dataset_miou"}]}; `path` keeps it.
    """
    if path.is_file():
        return read_json(path)
    standard = CRF()
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    points = [{name: getattr(standard, name) for name in grid}, *points]
    points = [point for number, point in enumerate(points) if point not in points[:number]]
    crfs = [replace(standard, **point) for point in points]
    classes = len(dataset.info.classes)
    counts = torch.zeros(len(crfs), classes, classes, dtype=torch.int64)
    asked = ask_as(network, size=size, scales=scales, crf=False).eval().to(device)
    for index in tracked(images, len(images), "CRF search", progress):
        sample = dataset[index]
        with torch.inference_mode():
            found = asked(sample.image[None].to(device).float() / 255).float().softmax(1).cpu()[0].numpy()
        pixels = sample.image.permute(1, 2, 0).contiguous().numpy()
        for number, crf in enumerate(crfs):
            labels = torch.from_numpy(crf.refine(pixels, found)).argmax(0)[None]
            counts[number] += confusion_counts(labels, sample.mask[None].long(), classes, ignore_index=IGNORE_INDEX)
    values = [scores_of(one, dataset.info.classes)["dataset_miou"] for one in counts]
    best = max(range(len(crfs)), key=lambda number: values[number])
    tried = [point | {"dataset_miou": value} for point, value in zip(points, values, strict=True)]
    found = {"best": asdict(crfs[best]), "tried": tried, "images": len(images)}
    write_json(path, found)
    return found


def decisions(
    network: nn.Module,
    dataset: SegmentationDataset,
    held: Sequence[Sequence[int]],
    path: Path,
    *,
    batches: int,
    rules: Sequence[str],
    size: tuple[int, int] | None,
    shape: tuple[int, int],
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Mean over batches of batch-mIoU and image-mIoU of each rule; each batch has |C| images, among which every class
    that an image of the data set holds occurs.

    held: the classes of each image; shape: (height, width) at which probabilities and masks are compared, because the
    rule for a batch needs all its probabilities at once. Void counts in no score. `path` keeps the values.
    """
    kept = read_json(path) if path.is_file() else {"values": []}
    order = list(EquibatchSampler(held, num_samples=batches * len(dataset.info.classes), seed=seed))
    asked = ask_as(network, size=size, scales=None, crf=False).eval().to(device)
    masks, classes = Resized(dataset, shape), len(dataset.info.classes)
    done = len(kept["values"])
    for number in tracked(range(done, batches), batches, "decision rules", progress, completed=done):
        chosen = order[number * classes : (number + 1) * classes]
        found = []
        for index in chosen:
            with torch.inference_mode():
                p = asked(dataset[index].image[None].to(device).float() / 255).float().softmax(1)
                found.append(F.interpolate(p, shape, mode="bilinear", align_corners=False, antialias=True).cpu())
        probabilities = torch.cat(found).clone().clamp_(0, 1)  # (N, C, h, w)
        target = torch.stack([masks[index].mask.long() for index in chosen])
        values = {}
        for rule in rules:
            labels = RULES[rule][1](probabilities)
            counts = confusion_counts(labels, target, classes, ignore_index=IGNORE_INDEX, per_image=True)  # (N, C, C)
            values[rule] = [_mean_iou(counts.sum(0, keepdim=True)), _mean_iou(counts)]
        kept["values"].append(values)
        write_json(path, kept)
    means = {rule: np.mean([values[rule] for values in kept["values"]], axis=0).tolist() for rule in rules}
    return {rule: {"batch_miou": both[0], "image_miou": both[1]} for rule, both in means.items()}


def _mean_iou(counts: Tensor) -> float:
    """Mean over the first dimension of the mean IoU over classes in truth or prediction."""
    right = counts.diagonal(dim1=1, dim2=2).double()
    return float((right / (counts.sum(1) + counts.sum(2) - right)).nanmean(1).nanmean())


def _together(probabilities: Tensor) -> Tensor:
    """Nowozin's rule for the pixels of all images as one set: (N, C, h, w) to (N, h, w)."""
    pixels = probabilities.movedim(1, -1)  # (N, h, w, C)
    return decide(pixels.reshape(-1, pixels.shape[-1])).view(pixels.shape[:-1])
