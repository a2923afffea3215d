"""Scores of a network on a data set at full resolution. Apart from training, so that all commands share one measure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as distributed
from rich.progress import Progress
from torch import nn

from lovasz.lab.data import IGNORE_INDEX, Sample, SegmentationDataset
from lovasz.lab.environment import resolve_device
from lovasz.lab.errors import LabError
from lovasz.lab.predict import predict_labels
from lovasz.lab.processes import ALONE, Team
from lovasz.lab.progress import bar, display
from lovasz.metrics import DatasetIoU, ImageIoU, confusion_counts

BATCH = 10  # images of a batch for batch_miou: a training step's, in the paper and by default here
PIXELS_AT_ONCE = 4 * 360 * 480  # images of one size go through the network together up to this many pixels


@dataclass(frozen=True)
class Scores:
    """Fractions in [0, 1].

    dataset_miou: mean over classes of the IoU of the whole set's counts; a class in neither truth nor prediction is
    left out.
    image_miou: mean over images of the image's own mean IoU over the classes in its truth or prediction.
    batch_miou: mean over batches of BATCH images of the batch's mean IoU over the classes in its truth or prediction;
    which images share a batch is drawn once for a number of images, and the last batch takes what is left
    (Section 3.1: between the two above). pixel_accuracy: share of pixels that are right, void left out.
    per_class_iou: None where the class is nowhere.
    images: mean IoU of each image by name; kept out of the JSON of the scores; None for an image that is all void.
    """

    dataset_miou: float
    image_miou: float
    pixel_accuracy: float
    per_class_iou: Mapping[str, float | None]
    images: Mapping[str, float | None] = field(default_factory=dict, repr=False, compare=False)
    batch_miou: float | None = None  # where only the others are wanted

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON holds them, without `images`."""
        return {
            "dataset_miou": self.dataset_miou,
            "image_miou": self.image_miou,
            "batch_miou": self.batch_miou,
            "pixel_accuracy": self.pixel_accuracy,
            "per_class_iou": dict(self.per_class_iou),
        }


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    others: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | bool = False,
    description: str | None = None,
    team: Team = ALONE,
) -> Scores:
    """Scores of `model` on `dataset`, each image at its own full size, no augmentation.

    model: float RGB in [0, 1], (N, 3, H, W), to logits (N, C, H, W). It is in eval mode for the pass only.
    others: how many outputs follow those of the data's classes; a pixel given to one of them is wrong, and they have no
    score of their own.
    device: a torch device, or its name as `resolve_device` takes it. progress: a running rich display that gets a bar
    for this pass, or whether to show one. team: processes that call this together, each for its share of the images;
    integer counts are added up, so the scores are the same in all, as if one had done them, with the first one's
    statistics of batch norm.
    Raises LabError for an empty data set, one that is all void, and a network with another number of outputs.
    """
    classes = dataset.info.classes
    if not len(dataset):
        raise LabError(f"data set {dataset.info.name}, split {dataset.split}: no images to evaluate.")
    outputs = len(classes) + others
    how: dict[str, Any] = {"ignore_index": IGNORE_INDEX, "absent": "exclude", "classes": range(len(classes))}
    how["distributed_available_fn"] = lambda: team.size > 1
    whole, by_image = DatasetIoU(outputs, **how), ImageIoU(outputs, **how)
    names: list[str] = []
    counts: list[torch.Tensor] = []  # of each image: hits and union of each class, (2, C)
    if isinstance(device, str):
        device = resolve_device(device)
    was_training = model.training
    model.eval().to(device)
    share = team.share_of(len(dataset))
    if team.size > 1:
        for buffer in model.buffers():  # each process has its own running statistics
            distributed.broadcast(buffer, src=0)
    try:
        what = description or f"evaluating {dataset.split}"
        with display(progress) as shown, bar(len(share), what, shown) as done:
            for some, batch, masks in _batches(dataset, share):
                labels = predict_labels(model, batch, device, outputs)
                whole.update(labels, masks)
                by_image.update(labels, masks)
                names += some
                counts += [one[:, : len(classes)] for one in _hits_and_unions(labels, masks, outputs)]
                done.advance(len(some))
    finally:
        model.train(was_training)
    found = [one for part in team.collect(list(zip(names, counts, strict=True))) for one in part]
    if not any(team.collect(bool(whole.confusion.any()))):
        raise LabError(
            f"data set {dataset.info.name}, split {dataset.split}: every pixel is void, there is nothing to score."
        )
    per_class = dict(zip(classes, map(_fraction, whole.per_class()[: len(classes)]), strict=True))
    images = {name: _fraction(_mean_iou(one)) for name, one in found}
    return Scores(
        float(whole.compute()),
        float(by_image.compute()),
        float(whole.pixel_accuracy()),
        per_class,
        images,
        _batch_miou([one for _, one in found]),
    )


def _hits_and_unions(labels: torch.Tensor, masks: torch.Tensor, num_classes: int) -> list[torch.Tensor]:
    """For each image the pixels of each class in truth and prediction, and in either: int64 (2, C)."""
    counts = confusion_counts(labels, masks, num_classes, ignore_index=IGNORE_INDEX, per_image=True)  # (n, C, C)
    hits = counts.diagonal(dim1=1, dim2=2)  # (n, C)
    return list(torch.stack([hits, counts.sum(1) + counts.sum(2) - hits], 1))


def _mean_iou(counts: torch.Tensor) -> torch.Tensor:
    """Over the classes in truth or prediction; NaN where there is none."""
    hits, union = counts.double()
    return (hits / union).nanmean()


def _batch_miou(counts: list[torch.Tensor]) -> float | None:
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(0))
    batches = [torch.stack([counts[i] for i in some.tolist()]).sum(0) for some in order.split(BATCH)]
    return _fraction(torch.stack([_mean_iou(batch) for batch in batches]).nanmean())


def _batches(dataset: SegmentationDataset, share: range) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
    """Names, images (n, 3, H, W) and masks (n, H, W) of neighbours that have one size, in order."""
    samples: list[Sample] = []
    for i in share:
        sample = dataset[i]
        pixels = (len(samples) + 1) * sample.mask.numel()
        if samples and (sample.mask.shape != samples[0].mask.shape or pixels > PIXELS_AT_ONCE):
            yield _stack(samples)
            samples = []
        samples.append(sample)
    if samples:
        yield _stack(samples)


def _stack(samples: list[Sample]) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    return (
        [s.name for s in samples],
        torch.stack([s.image for s in samples]),
        torch.stack([s.mask for s in samples]).long(),
    )


def _fraction(value: torch.Tensor) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number
