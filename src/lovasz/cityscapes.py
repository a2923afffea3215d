"""CityscapesScores: class and category IoU and instance-weighted iIoU, as cityscapesScripts computes them (Table 4).

Apart from `metrics.py`, whose IoU needs no table of labels, and because iIoU needs the instances of the ground truth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ModuleNotFoundError(
        "lovasz.cityscapes needs torchmetrics, which is not installed. Run: pip install 'lovasz[metrics]'",
        name="torchmetrics",
    ) from error

# In the order of label ids: name, category, whether its objects are told apart, whether it counts. It is the table of
# cityscapesScripts (helpers/labels.py) without the licence plate, whose id is negative. The rank among those that count
# is the train id.
_LABELS: tuple[tuple[str, str, bool, bool], ...] = (
    ("unlabeled", "void", False, False),
    ("ego vehicle", "void", False, False),
    ("rectification border", "void", False, False),
    ("out of roi", "void", False, False),
    ("static", "void", False, False),
    ("dynamic", "void", False, False),
    ("ground", "void", False, False),
    ("road", "flat", False, True),
    ("sidewalk", "flat", False, True),
    ("parking", "flat", False, False),
    ("rail track", "flat", False, False),
    ("building", "construction", False, True),
    ("wall", "construction", False, True),
    ("fence", "construction", False, True),
    ("guard rail", "construction", False, False),
    ("bridge", "construction", False, False),
    ("tunnel", "construction", False, False),
    ("pole", "object", False, True),
    ("polegroup", "object", False, False),
    ("traffic light", "object", False, True),
    ("traffic sign", "object", False, True),
    ("vegetation", "nature", False, True),
    ("terrain", "nature", False, True),
    ("sky", "sky", False, True),
    ("person", "human", True, True),
    ("rider", "human", True, True),
    ("car", "vehicle", True, True),
    ("truck", "vehicle", True, True),
    ("bus", "vehicle", True, True),
    ("caravan", "vehicle", True, False),
    ("trailer", "vehicle", True, False),
    ("train", "vehicle", True, True),
    ("motorcycle", "vehicle", True, True),
    ("bicycle", "vehicle", True, True),
)
NAMES = tuple(label[0] for label in _LABELS)
EVALUATED = tuple(i for i, label in enumerate(_LABELS) if label[3])  # label id of each train id
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
INSTANCE_CLASSES = tuple(i for i, label in enumerate(_LABELS) if label[2] and label[3])
INSTANCE_CATEGORIES = ("human", "vehicle")
# Mean size in pixels of the objects of a class in the training set (cityscapesScripts, avgClassSize).
MEAN_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
_PER_INSTANCE = 1000  # an object's value in instanceIds.png: its label id times this, plus its number


def label_ids(train_ids: Tensor) -> Tensor:
    """Label ids of train ids, as the files of a submission hold them; 255 becomes 0, "unlabeled".

    Args:
        train_ids: integers 0..18, or 255, of any shape and integer dtype.

    Returns:
        int64 label ids 0..33 of the same shape, on the same device.

    Raises:
        TypeError: what is no tensor, or holds no integers.
        ValueError: another id; the message names it.

    >>> label_ids(torch.tensor([0, 18, 255]))
    tensor([ 7, 33,  0])
    """
    if not isinstance(train_ids, Tensor):
        raise TypeError(f"train_ids must be a torch.Tensor, got {type(train_ids).__name__}; torch.as_tensor makes one.")
    if train_ids.is_floating_point() or train_ids.is_complex() or train_ids.dtype == torch.bool:
        raise TypeError(f"train_ids must be integers 0..{len(EVALUATED) - 1} or 255, got {train_ids.dtype}.")
    train_ids = train_ids.long()  # torch cannot compare unsigned integers of 16 bits and more
    table = torch.zeros(256, dtype=torch.int64, device=train_ids.device)
    table[: len(EVALUATED)] = torch.tensor(EVALUATED, device=train_ids.device)
    wrong = train_ids[(train_ids < 0) | ((train_ids >= len(EVALUATED)) & (train_ids != 255))]
    if wrong.numel():
        raise ValueError(f"train_ids holds {int(wrong[0])}; expected 0..{len(EVALUATED) - 1} or 255.")
    return table[train_ids]


class CityscapesScores(Metric):
    """The four scores of the Cityscapes benchmark, equal to those of cityscapesScripts on the same label images.

    With n[t, p] the pixels of true label t predicted as p, over all images, and E the labels that count (19)::

        IoU_c  = TP / (TP + FP + FN)      TP = n[c, c]; FN = the rest of row c; FP = the rest of column c over rows in E
        iIoU_c = iTP / (iTP + FP + iFN)   iTP, iFN: right and wrong pixels of each true object of class c, each pixel
                                          weighted by (mean size of the class's objects) / (size of its object)

    and likewise for a category, whose labels are taken as one. iIoU (Cordts et al., CVPR 2016, Section 4.1; mean sizes
    as in cityscapesScripts) keeps large objects from deciding alone; it is defined for the 8 classes (2 categories)
    whose objects are told apart. Pixels of a group (the bare label id in instanceIds.png) belong to no object: they are
    in none of iTP, iFN and, predicted right, FP. A class that is nowhere has no score and is left out of the means.

    Args:
        kwargs: those of torchmetrics.Metric.

    `compute()` gives the four means as float64 scalars under "class_iou", "class_iiou", "category_iou" and
    "category_iiou"; `per_class()` and `per_category()` give (IoU, iIoU) by name, NaN where there is none.

    >>> truth = torch.tensor([[[24, 24, 7, 0]]])
    >>> objects = torch.tensor([[[24001, 24001, 7, 0]]])
    >>> scores = CityscapesScores()
    >>> scores.update(torch.tensor([[[24, 7, 7, 7]]]), truth, objects)
    >>> {name: round(float(value), 3) for name, value in scores.compute().items()}
    {'class_iou': 0.5, 'class_iiou': 0.5, 'category_iou': 0.5, 'category_iiou': 0.5}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor
    weighted: Tensor
    weighted_category: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        count = len(NAMES)
        self.add_state("confusion", torch.zeros(count, count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("weighted", torch.zeros(count, 2, dtype=torch.float64), dist_reduce_fx="sum")
        categories = torch.zeros(len(INSTANCE_CATEGORIES), 2, dtype=torch.float64)
        self.add_state("weighted_category", categories, dist_reduce_fx="sum")

    def set_dtype(self, dst_type: str | torch.dtype) -> Metric:  # noqa: ARG002
        """Nothing: counts are integers, weighted ones float64, whatever the dtype of anything else."""
        return self

    def update(self, preds: Tensor, target: Tensor, instances: Tensor) -> None:
        """Add images.

        Args:
            preds, target: (N, H, W) integer label ids 0..33 (not train ids: see `label_ids`).
            instances: (N, H, W) integer values of instanceIds.png: label id, or label id * 1000 + number for an object.

        Raises:
            TypeError: what is no tensor, or holds no integers.
            ValueError: other shapes, ids out of range; the message names them.
        """
        for name, tensor in (("preds", preds), ("target", target), ("instances", instances)):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"{name} must be a torch.Tensor, got {type(tensor).__name__}; torch.as_tensor makes one."
                )
            if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
                raise TypeError(f"{name} must hold integer ids, got dtype {tensor.dtype}.")
            if tensor.ndim != 3 or tensor.shape != target.shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; expected (N, H, W) as target {tuple(target.shape)}."
                )
        if not target.numel():
            raise ValueError("target holds no pixels.")
        preds, target, instances = preds.long(), target.long(), instances.long()
        for name, tensor, most in (
            ("preds", preds, len(NAMES)),
            ("target", target, len(NAMES)),
            ("instances", instances, len(NAMES) * _PER_INSTANCE),
        ):
            low, high = (int(value) for value in torch.aminmax(tensor))
            if low < 0 or high >= most:
                wrong = low if low < 0 else high
                raise ValueError(f"{name} holds {wrong}; expected 0..{most - 1} (label ids, not train ids).")
        count = len(NAMES)
        cells = torch.bincount((target * count + preds).flatten(), minlength=count * count)
        # Not in place: the states may stem from torch.inference_mode.
        self.confusion = self.confusion + cells.view(count, count)
        weighted, weighted_category = torch.zeros_like(self.weighted), torch.zeros_like(self.weighted_category)
        for labels, objects in zip(preds, instances, strict=True):
            self._add_objects(labels.flatten(), objects.flatten(), weighted, weighted_category)
        self.weighted = self.weighted + weighted
        self.weighted_category = self.weighted_category + weighted_category

    def _add_objects(self, labels: Tensor, objects: Tensor, weighted: Tensor, weighted_category: Tensor) -> None:
        """Adds the weighted pixels of one image's objects, by class and by category."""
        inside = objects > _PER_INSTANCE
        values, which, sizes = torch.unique(objects[inside], return_inverse=True, return_counts=True)  # (K,)
        if not len(values):
            return
        found = labels[inside]
        classes = values // _PER_INSTANCE  # (K,)
        right = torch.bincount(which[found == classes[which]], minlength=len(values))
        of_category = self._categories(labels.device)
        alike = of_category[found] == of_category[classes[which]]
        right_category = torch.bincount(which[alike], minlength=len(values))
        for i, label in enumerate(classes.tolist()):
            if label not in INSTANCE_CLASSES:
                continue
            size = int(sizes[i])
            weight = MEAN_SIZES[NAMES[label]] / size
            weighted[label, 0] += int(right[i]) * weight
            weighted[label, 1] += (size - int(right[i])) * weight
            category = INSTANCE_CATEGORIES.index(_LABELS[label][1])
            weighted_category[category, 0] += int(right_category[i]) * weight
            weighted_category[category, 1] += (size - int(right_category[i])) * weight

    @staticmethod
    def _categories(device: torch.device) -> Tensor:
        """The number of each label's category; void labels have one too."""
        names = ("void", *CATEGORIES)
        return torch.tensor([names.index(label[1]) for label in _LABELS], device=device)

    def compute(self) -> dict[str, Tensor]:
        """The four means, float64 scalars in [0, 1]; NaN where nothing has the score.

        Raises ValueError before any image, as the other metrics do.
        """
        if not self.confusion.any():
            raise ValueError("no pixel has been counted: call update() before compute().")
        classes, categories = self._class_scores(), self._category_scores()
        return {
            "class_iou": classes[:, 0].nanmean(),
            "class_iiou": classes[:, 1].nanmean(),
            "category_iou": categories[:, 0].nanmean(),
            "category_iiou": categories[:, 1].nanmean(),
        }

    def per_class(self) -> dict[str, tuple[float, float]]:
        """IoU and iIoU of the 19 classes by name, as Python floats. All processes must call it together."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            rows = self._class_scores().tolist()
        return {NAMES[label]: (row[0], row[1]) for label, row in zip(EVALUATED, rows, strict=True)}

    def per_category(self) -> dict[str, tuple[float, float]]:
        """IoU and iIoU of the 7 categories by name, as Python floats. All processes must call it together."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            rows = self._category_scores().tolist()
        return {name: (row[0], row[1]) for name, row in zip(CATEGORIES, rows, strict=True)}

    def _class_scores(self) -> Tensor:
        """(19, 2) float64."""
        rows = []
        for label in EVALUATED:
            right = int(self.confusion[label, label])
            missed = int(self.confusion[label].sum()) - right
            extra = int(self.confusion[list(EVALUATED), label].sum()) - right
            weighted = self.weighted[label].tolist() if label in INSTANCE_CLASSES else None
            rows.append(_scores(right, missed, extra, extra, weighted))
        return torch.tensor(rows, dtype=torch.float64)

    def _category_scores(self) -> Tensor:
        """(7, 2) float64."""
        rows = []
        for name in CATEGORIES:
            members = [label for label in EVALUATED if _LABELS[label][1] == name]
            others = [label for label in EVALUATED if _LABELS[label][1] != name]
            right = int(self.confusion[members][:, members].sum())
            missed = int(self.confusion[members].sum()) - right
            extra = int(self.confusion[others][:, members].sum())
            weighted = None
            every = extra
            if name in INSTANCE_CATEGORIES:
                weighted = self.weighted_category[INSTANCE_CATEGORIES.index(name)].tolist()
                # Here predictions of the category's labels that do not count (caravan, trailer) are mistakes as well.
                every = int(self.confusion[others][:, [i for i, x in enumerate(_LABELS) if x[1] == name]].sum())
            rows.append(_scores(right, missed, extra, every, weighted))
        return torch.tensor(rows, dtype=torch.float64)


def _scores(right: int, missed: int, extra: int, extra_weighted: int, weighted: list[float] | None) -> list[float]:
    """IoU and iIoU; NaN for 0/0, and for an iIoU that is not defined."""
    union = right + missed + extra
    iou = right / union if union else float("nan")
    if weighted is None:
        return [iou, float("nan")]
    total = weighted[0] + extra_weighted + weighted[1]
    return [iou, weighted[0] / total if total else float("nan")]
