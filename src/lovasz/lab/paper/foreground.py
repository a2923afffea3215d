"""One class against the rest, for Section 4.2: the data, the four losses as training has them, and their values.

Apart from `binary`, which trains: here stands what one number of Table 1 means.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.baselines import hinge_loss, soft_jaccard_loss
from lovasz.functional import lovasz_hinge
from lovasz.lab.data import IGNORE_INDEX, DatasetInfo, Sample, SegmentationDataset
from lovasz.lab.errors import LabError
from lovasz.metrics import DatasetIoU, ImageIoU

LOSSES = {
    "cross_entropy": "cross-entropy",
    "hinge": "hinge",
    "lovasz_hinge": "Lovász hinge",
    "soft_jaccard": "soft Jaccard",
}


class Foreground(SegmentationDataset):
    """Class `label` of another data set as 1, the others as 0, void as it was; `images` chooses some, None all."""

    def __init__(self, dataset: SegmentationDataset, label: int, images: Sequence[int] | None = None) -> None:
        name = dataset.info.classes[label]
        self.info = DatasetInfo(dataset.info.name, ("rest", name), ((0, 0, 0), (255, 255, 255)))
        self.split, self.dataset, self.label = dataset.split, dataset, label
        self.images = range(len(dataset)) if images is None else list(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[self.images[index]]
        mask = (sample.mask == self.label).to(torch.uint8).masked_fill(sample.mask == IGNORE_INDEX, IGNORE_INDEX)
        return Sample(sample.image, mask, sample.name)

    def describe(self) -> str:
        return f"{self.dataset.describe()} Foreground: {self.info.classes[1]}."


def half_and_half(holds: Sequence[bool], seed: int) -> list[int]:
    """All images that hold the class and as many that do not, or as many as there are, drawn by `seed`; in order."""
    inside = [i for i, held in enumerate(holds) if held]
    outside = np.array([i for i, held in enumerate(holds) if not held], int)
    drawn = np.random.default_rng(seed).permutation(outside)[: len(inside)]
    return sorted([*inside, *drawn.tolist()])


class ForegroundLoss(nn.Module):
    """A loss of LOSSES of one score for each pixel, for training: called as `loss(scores, target, progress)`.

    - cross_entropy: mean over pixels of log(1 + exp(-F y)); hinge: of max(0, 1 - F y); y is 1 or -1. Per image, then
      the mean over images.
    - lovasz_hinge: Eq. 8 with the hinge errors, per image, then the mean over images: the surrogate of image-IoU.
    - soft_jaccard: Rahman & Wang 2016, with the sigmoid of the scores, the batch as one set of pixels: per image it
      would have no gradient where the class is not there.

    Shapes: scores (N, 1, H, W), target (N, H, W) of 0, 1 and 255 (void).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in LOSSES:
            raise LabError(f"losses: there is no binary loss {name!r}; choose from {', '.join(LOSSES)}.")
        self.spec = name
        self._loss = {
            "cross_entropy": logistic_loss,
            "hinge": partial(hinge_loss, per_image=True, ignore_index=IGNORE_INDEX),
            "lovasz_hinge": partial(lovasz_hinge, per_image=True, ignore_index=IGNORE_INDEX),
            "soft_jaccard": partial(soft_jaccard_loss, per_image=False, ignore_index=IGNORE_INDEX),
        }[name]

    def phase_at(self, progress: float) -> int:  # noqa: ARG002
        """The one phase there is."""
        return 0

    def forward(self, scores: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:  # noqa: ARG002
        return self._loss(scores[:, 0], target)


def logistic_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the sigmoid: mean over the valid pixels of each image (N, H, W), then over images."""
    valid = target != IGNORE_INDEX
    each = F.softplus(torch.where(target == 1, -scores, scores).float()).masked_fill(~valid, 0)  # (N, H, W)
    return (each.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)).mean()


def measure(network: nn.Module, view: SegmentationDataset, device: torch.device | str = "cpu") -> dict[str, float]:
    """The value of every loss, image-IoU and dataset-IoU of the foreground, of a network with one output on a split.

    Keys: those of LOSSES, "image_iou", "dataset_iou", "pixel_accuracy". Per-image losses are means over images;
    soft_jaccard takes all pixels of the split as one set; an image with neither true nor predicted foreground has
    image-IoU 1 (Eq. 3's 0/0 = 1). Raises LabError for a split that is all void.
    """
    how = {"ignore_index": IGNORE_INDEX, "classes": [1], "absent": "one"}
    by_image, whole = ImageIoU(2, **how), DatasetIoU(2, **how)  # type: ignore[arg-type]
    per_image = {name: ForegroundLoss(name) for name in LOSSES if name != "soft_jaccard"}
    sums = dict.fromkeys(per_image, 0.0)
    shared = probable = true = 0.0
    images = 0
    training = network.training
    network.eval().to(device)
    try:
        for index in range(len(view)):
            sample = view[index]
            with torch.inference_mode():
                scores = network(sample.image[None].to(device).float() / 255).float().cpu()  # (1, 1, H, W)
            target = sample.mask[None].long()  # (1, H, W)
            valid = target != IGNORE_INDEX
            if not valid.any():
                continue
            images += 1
            for name, loss in per_image.items():
                sums[name] += float(loss(scores, target))
            probability = scores[:, 0].double().sigmoid()[valid]
            inside = target[valid] == 1
            shared += float(probability[inside].sum())
            probable += float(probability.sum())
            true += float(inside.sum())
            labels = (scores[:, 0] > 0).long()
            by_image.update(labels, target)
            whole.update(labels, target)
    finally:
        network.train(training)
    if not images:
        raise LabError(f"data set {view.info.name}, split {view.split}: every pixel is void, nothing to measure.")
    union = probable + true - shared
    return {
        **{name: value / images for name, value in sums.items()},
        "soft_jaccard": 1 - shared / union if union else 0.0,
        "image_iou": float(by_image.compute()),
        "dataset_iou": float(whole.compute()),
        "pixel_accuracy": float(whole.pixel_accuracy()),
    }
