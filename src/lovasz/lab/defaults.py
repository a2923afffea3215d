"""What a run is where the user says nothing: how long it trains and on what crops, from the data's number and sizes of
images. Apart from the command line, so that the rules stand at one place and are tested without training."""

from __future__ import annotations

import math
import re
from pathlib import Path

from lovasz.lab.budget import budget
from lovasz.lab.config import RunConfig
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.data.masks import image_size
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.losses import LossSpec

# (least steps, least epochs): a network with random weights needs far more than one that is fine-tuned. Counting steps
# as well as epochs keeps forty images from being a run of forty steps.
FROM_SCRATCH = 1000, 10
FROM_WEIGHTS = 150, 5
DRAWN = 400, 5  # nobody needs a network for drawn images: they are for a first look, in minutes
LARGEST_SIDE = 512  # of a crop that the user did not choose, so that a batch of ten fits an ordinary machine


def default_epochs(dataset: SegmentationDataset, batch_size: int, *, from_weights: bool) -> int:
    """Epochs enough for the least number of steps, and no fewer than the least number of epochs."""
    from_scratch = FROM_SCRATCH if isinstance(dataset, PairDataset) else DRAWN
    least_steps, least_epochs = FROM_WEIGHTS if from_weights else from_scratch
    steps = max(1, len(dataset) // batch_size)  # an incomplete last batch is left out
    return max(least_epochs, math.ceil(least_steps / steps))


def default_crop(dataset: SegmentationDataset, size: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """(height, width) of training crops, None for whole images: those share one size that is not too large.

    Otherwise sides of 512, or less where no image is so large. size: to which all images are resized first. Without it
    this reads the heads of all image files; raises LabError naming a damaged one.
    """
    if size is not None:
        sizes = {size}
    elif isinstance(dataset, PairDataset):
        sizes = {image_size(pair.image) for pair in dataset.pairs}
    else:
        height, width = dataset[0].mask.shape  # a data set that is drawn has one size
        sizes = {(height, width)}
    if len(sizes) == 1 and all(height * width <= LARGEST_SIDE**2 for height, width in sizes):
        return None
    return min(LARGEST_SIDE, max(h for h, _ in sizes)), min(LARGEST_SIDE, max(w for _, w in sizes))


def default_loss(config: RunConfig, images: int) -> str:
    """The loss that the configuration has, or the first of its phases alone where the run has no step for all."""
    idle = LossSpec.parse(config.loss).idle(budget(config, images).steps)
    return config.loss if idle is None else config.loss.partition(">")[0].strip()


def default_folder(data: str, model: str, losses: tuple[str, ...], *further: str) -> Path:
    """`runs/<data>-<model>-<losses>` from the names alone, so that the same command finds its folder to resume."""
    kind, _, place = (data.rpartition("?")[0] or data).partition(":")  # without the options after the question mark
    name = (Path(place).expanduser().resolve().name or kind) if place else kind
    words = [*(LossSpec.parse(loss).slug for loss in losses), *further]
    parts = [re.sub(r"[^\w.]+", "-", part).strip("-") for part in (name, model, *words)]
    return Path("runs") / "-".join(parts)[:150]
