"""Trained weights on a data set of which they may know nothing: by which classes they are scored, and what a reader of
the score must know. Apart from evaluation, which counts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lovasz.lab.cautions import some
from lovasz.lab.console import print_notes
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.evaluation import Scores, evaluate
from lovasz.lab.models import load_weights, other_classes
from lovasz.lab.models.resized import ask_as
from lovasz.lab.predict import with_outputs_of
from lovasz.lab.seen import seen_in_training


def score(
    model: str,
    weights: Path,
    dataset: SegmentationDataset,
    *,
    size: tuple[int, int] | None = None,
    scales: Sequence[float] | None = None,
    crf: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> tuple[Scores, str]:
    """The scores, and in words what they are of. Prints the notes of `open_network`; size, scales, crf as `ask_as`."""
    network, others, notes = open_network(model, weights, dataset)
    print_notes(notes)
    network = ask_as(network, size=size, scales=scales, crf=crf)
    scores = evaluate(network, dataset, others=others, device=device, progress=progress)
    words = "1 image" if len(dataset) == 1 else f"{len(dataset)} images"
    return scores, words if size is None else f"{words}, resized to {size[0]} x {size[1]}"


def open_network(model: str, weights: Path, dataset: SegmentationDataset) -> tuple[nn.Module, int, list[str]]:
    """The network, how many of its outputs stand for no class of the data and come last, and notes on its score.

    Every output that `predict` writes is kept, so that what is scored is what it writes: `dataset.info` gets the
    classes of `with_outputs_of`, and answers beside them are wrong.
    """
    found, dataset.info = dataset.info, with_outputs_of(weights, dataset.info)
    others = other_classes(weights, dataset.info.classes)
    notes = []
    if lacking := dataset.info.classes[found.num_classes :]:
        notes.append(
            f"No mask of {found.name} holds {some(lacking)}, but the weights know them: pixels given to them are wrong."
        )
    if others:
        notes.append(
            f"The weights also know {some(others)}, which the data do not name: pixels given to them are wrong."
        )
    count = seen_in_training(weights, dataset) if dataset.split != "train" else 0
    if count:
        notes.append(
            f"{count} of {len(dataset)} images were in training: the network has seen them, and scores better on them "
            "than on new ones. Give the data and the --data-seed of its training."
        )
    return load_weights(model, weights, [*dataset.info.classes, *others]), len(others), notes
