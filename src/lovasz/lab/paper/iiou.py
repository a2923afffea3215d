"""Table 4's scores of a network on Cityscapes: class and category IoU, and iIoU, which needs the objects of each image.

Apart from `lovasz.cityscapes`, which has the measure: here stands which files it is of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from lovasz.cityscapes import NAMES, CityscapesScores, label_ids
from lovasz.lab.config import read_json, write_json
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.data.masks import read_mask
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.errors import LabError
from lovasz.lab.models.resized import ask_as
from lovasz.lab.predict import predict_labels
from lovasz.lab.progress import tracked

ENDING, OBJECTS = "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
SCORES = {
    "class_iou": "class IoU",
    "class_iiou": "class iIoU",
    "category_iou": "category IoU",
    "category_iiou": "category iIoU",
}


def require_objects(dataset: SegmentationDataset) -> list[Path]:
    """The files of the objects of each image. Raises LabError for one that is missing, or masks of other ids."""
    assert isinstance(dataset, PairDataset)
    found = []
    for pair in dataset.pairs:
        if not pair.mask.name.endswith(ENDING):
            raise LabError(f"{pair.mask}: iIoU needs label ids; expected *{ENDING} of gtFine_trainvaltest.zip.")
        objects = pair.mask.with_name(pair.mask.name.removesuffix(ENDING) + OBJECTS)
        if not objects.is_file():
            raise LabError(f"{objects}: missing, iIoU needs the objects; it is in gtFine_trainvaltest.zip.")
        found.append(objects)
    return found


def cityscapes_scores(
    network: nn.Module,
    dataset: PairDataset,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, float]:
    """The four scores on a split of Cityscapes at its own size, as cityscapesScripts computes them; kept in `path`.

    size: (height, width) that images are resized to before the network is asked; 512 x 1024 in the paper.
    Raises LabError naming the file where masks are not of label ids, or the objects' file is missing.
    """
    if path.is_file():
        return read_json(path)
    asked, metric = ask_as(network, size=size, scales=None, crf=False).eval().to(device), CityscapesScores()
    pairs = zip(dataset.pairs, require_objects(dataset), strict=True)
    for index, (pair, objects) in enumerate(tracked(pairs, len(dataset), "Cityscapes scores", progress)):
        labels = predict_labels(asked, dataset[index].image[None], device, dataset.info.num_classes)
        truth = read_mask(pair.mask).values
        instances = read_mask(objects).values.astype(np.int64)
        plates = truth >= len(NAMES)  # the licence plate's id is -1: in no score, as unlabelled pixels
        truth = np.where(plates, 0, truth).astype(np.int64)
        instances = np.where(instances >= len(NAMES) * 1000, 0, np.where(plates, 0, instances))
        metric.update(label_ids(labels), torch.from_numpy(truth)[None], torch.from_numpy(instances)[None])
    values = {name: float(value) for name, value in metric.compute().items()}
    found = {name: (None if np.isnan(value) else value) for name, value in values.items()}
    write_json(path, found)
    return read_json(path)
