"""DatasetIoU and ImageIoU: the two means that are both called "mIoU", as torchmetrics metrics on integer counts.

Apart from the losses because it needs torchmetrics, which `import lovasz` must not load.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ModuleNotFoundError(
        "lovasz.metrics needs torchmetrics, which is not installed. Run: pip install 'lovasz[metrics]'",
        name="torchmetrics",
    ) from error

from lovasz.choices import plain_classes
from lovasz.confusion import confusion_counts
from lovasz.devices import where_float64_is
from lovasz.validation import counting

OTHER_SETTINGS = (
    "the state is of a metric with other settings (ignore_index, absent, classes or threshold), so that its counts or "
    "its mean are of something else; give both metrics the same"
)
Absent = Literal["exclude", "one"]

# One image's mean IoU is kept as an integer number of these steps, so that sums do not depend on the order of images.
# 2^36 steps leave room for 2^27 images in an int64 and round one image's IoU by at most 2^-37.
_STEPS = 2**36


def _labels(classes: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """The classes whose IoU counts, checked."""
    try:
        chosen = plain_classes(classes)
    except (TypeError, ValueError):
        chosen = ""
    if isinstance(chosen, str) or not all(0 <= label < num_classes for label in chosen):
        words = "; leave classes out for all of them: absent decides about those that do not occur"
        hint = words if isinstance(classes, str) else ""
        raise ValueError(f"classes must be different labels of 0..{num_classes - 1}, got {classes!r}{hint}.")
    return chosen


class _ConfusionIoU(Metric):
    """What the two metrics share: arguments, the IoU of counts, and reading states over all processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False  # a batch adds to the counts whatever they are
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    _counted: Tensor
    setting: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = None,
        absent: Absent = "exclude",
        *,
        classes: Sequence[int] | None = None,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_classes, ignore_index, threshold = counting(num_classes, ignore_index, threshold)
        if absent not in ("exclude", "one"):
            raise ValueError(f'absent must be "exclude" or "one" (the paper\'s 0/0 = 1), got {absent!r}.')
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.absent: Absent = absent
        self.threshold = threshold
        self._forward_running = False
        chosen = range(num_classes) if classes is None else _labels(classes, num_classes)
        counted = torch.zeros(num_classes, dtype=torch.bool)
        counted[list(chosen)] = True
        if ignore_index is not None and 0 <= ignore_index < num_classes:
            if classes is not None and ignore_index in chosen:
                raise ValueError(f"classes contains {ignore_index}, which is also ignore_index.")
            counted[ignore_index] = False  # it has no true pixel, so its IoU says nothing
        self.register_buffer("_counted", counted, persistent=False)
        # A MetricCollection lets metrics whose states are alike share them: those of other settings must differ.
        setting = repr((ignore_index, absent, threshold, sorted(chosen))).encode()
        self.add_state("setting", default=torch.tensor(zlib.crc32(setting)), dist_reduce_fx="max")
        self._add_states()

    def _add_states(self) -> None:
        raise NotImplementedError

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the counts of another metric, which must have the same settings. Raises ValueError where it has not."""
        if isinstance(incoming_state, dict):
            theirs = incoming_state.get("setting")
        else:
            theirs = getattr(incoming_state, "setting", None)
        if isinstance(theirs, Tensor) and not torch.equal(theirs.cpu(), self.setting.cpu()):
            raise ValueError(OTHER_SETTINGS)
        super().merge_state(incoming_state)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As torch calls it; what is told here load_state_dict raises as RuntimeError."""
        kept = state_dict.get(f"{prefix}setting")
        if isinstance(kept, Tensor) and not torch.equal(kept.cpu(), self.setting.cpu()):
            error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {OTHER_SETTINGS}")
            return
        given = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *given)

    def set_dtype(self, dst_type: str | torch.dtype) -> Metric:  # noqa: ARG002
        """Nothing: the counts are integers whatever the dtype of scores, and results are float64."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and return its own value: NaN for a batch without a valid pixel."""
        self._forward_running = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._forward_running = False

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw ``val``, a value or a list of them over the steps (default: compute()), as torchmetrics' metrics do.

        Needs matplotlib. Returns its figure and axes.
        """
        return self._plot(val, ax)

    def _class_iou(self, confusion: Tensor) -> Tensor:
        """IoU of every class, float64 (..., C), of counts (..., C, C); NaN where the class does not count."""
        confusion = where_float64_is(confusion)
        intersection = confusion.diagonal(dim1=-2, dim2=-1)  # (..., C)
        union = confusion.sum(-1) + confusion.sum(-2) - intersection
        iou = intersection.double() / union.double()  # 0/0 is NaN
        if self.absent == "one":
            iou = iou.masked_fill(union == 0, 1.0)
        return iou.masked_fill(~self._counted.to(iou.device), torch.nan)

    def _no_pixels(self) -> Tensor:
        if self._forward_running:
            return torch.tensor(torch.nan, dtype=torch.float64, device=where_float64_is(self.setting).device)
        raise ValueError(
            f"{type(self).__name__} has no valid pixel to score: update() was not called, or every pixel of every "
            f"target was ignore_index={self.ignore_index}."
        )


class DatasetIoU(_ConfusionIoU):
    """Intersection over union of every class, over all pixels of all images together, and its mean (dataset-mIoU).

    With n[t, p] the number of valid pixels of true class t predicted as p, summed over every update and process,

        IoU_c = n[c, c] / (sum_p n[c, p] + sum_t n[t, c] - n[c, c])        compute() = mean of IoU_c over the classes

    (Eq. 3 of Berman et al. 2018 on the concatenation of all images; the measure of the Pascal VOC and Cityscapes
    benchmarks.) Counts are int64 and processes add them up, so the distributed result equals that of one process
    exactly. `confusion` holds this process's counts, int64 (C, C), rows = truth.

    A class is *absent* when its union is empty: no valid pixel of the data has it as truth or as prediction. A class
    that is never true but sometimes predicted is not absent, its IoU is 0.

    Args:
        num_classes: number of classes C, at least 2.
        ignore_index: void label; pixels with this target count nowhere. Any integer, also a negative one. If it is one
            of 0..C-1, that class is left out of the result (predicting it at a valid pixel is still a mistake).
        absent: "exclude" leaves absent classes out of the mean (NaN in per_class()), as benchmarks do, because a class
            that the data do not contain should not raise the score; "one" counts them as 1, the convention 0/0 = 1 of
            Eq. 3.
        classes: the classes to report; all by default. `num_classes=2, classes=[1]` is the IoU of the foreground.
        threshold: with num_classes=2 and scores of the foreground alone, see `confusion_counts`.
        kwargs: those of torchmetrics.Metric.

    Raises:
        ValueError, TypeError: from the constructor, settings without a meaning, such as a threshold for more than two
            classes; from update(), as in `confusion_counts`; from compute() when there was no valid pixel (forward()
            gives NaN for such a batch).

    Not the same as torchmetrics.segmentation.MeanIoU, which is a per-image mean (see ImageIoU). The same as
    torchmetrics.JaccardIndex(task="multiclass", average="macro") up to its float32 arithmetic; its average="none"
    gives 0 for absent classes, where this gives NaN or 1.

    >>> metric = DatasetIoU(3, ignore_index=255)
    >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 255]]))
    >>> metric.per_class()
    tensor([1., 1., nan], dtype=torch.float64)
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    confusion: Tensor

    def _add_states(self) -> None:
        counts = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        self.add_state("confusion", default=counts, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch; shapes and errors as in `confusion_counts`."""
        counts = confusion_counts(
            preds, target, self.num_classes, ignore_index=self.ignore_index, threshold=self.threshold
        )
        self.confusion = self.confusion + counts  # not in place: it may stem from torch.inference_mode

    def compute(self) -> Tensor:
        """Mean IoU over the classes, float64 scalar in [0, 1]; on the CPU where the metric's device has no float64."""
        if not self.confusion.any():
            return self._no_pixels()
        return self._class_iou(self.confusion).nanmean()

    def per_class(self) -> Tensor:
        """IoU of every class, float64 (C,), NaN where a class is left out. All processes must call it together.

        Raises ValueError where there was no valid pixel, as compute() does.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            if not self.confusion.any():
                return self._no_pixels()
            return self._class_iou(self.confusion)

    def pixel_accuracy(self) -> Tensor:
        """Share of the valid pixels predicted right, float64 scalar. All processes must call it together.

        Raises ValueError where there was no valid pixel, as compute() does.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            if not self.confusion.any():
                return self._no_pixels()
            confusion = where_float64_is(self.confusion)
            return confusion.diagonal().sum().double() / confusion.sum().double()


class ImageIoU(_ConfusionIoU):
    """Mean over images of each image's own mean IoU (image-mIoU): small objects and rare classes weigh like large ones.

    With IoU_c(i) the IoU of class c over the valid pixels of image i alone (Eq. 3 of Berman et al. 2018),

        compute() = mean over images i of ( mean over classes c of IoU_c(i) )
        per_class()[c] = mean over images i of IoU_c(i)

    A class is *absent from an image* when its union there is empty: no valid pixel of the image has it as truth or as
    prediction. With absent="exclude" it is left out of that image's mean (and that image out of the class's mean);
    with "one" it counts as 1, the convention 0/0 = 1 of Eq. 3, which lifts the score where there are many classes: an
    image of VOC shows 2 or 3 of 21. Images whose pixels are all void, or which show none of `classes`, are left out; if
    there are valid pixels but no image shows any of `classes`, compute() is NaN, as in DatasetIoU.
    `num_classes=2, classes=[1], absent="one"` is `iou_binary` of the authors' code (divided by 100).

    Arguments, errors and shapes as in DatasetIoU, with the images always in the first of at least three dimensions of
    target. Each image's IoU is rounded to a multiple of 2^-36 and summed in int64, next to integer counts of images:
    the result depends neither on the order of the images nor on how processes share them.

    torchmetrics.segmentation.MeanIoU is a per-image mean too, despite its plain name: as of release 1.9 it averages the
    IoU over all pairs (image, class) at once, so that an image with many classes weighs more, and has no ignore_index;
    with per_class=True it is per_class() here, with -1 for NaN. The two means of one set of predictions can lie far
    apart: report which one it is.

    >>> metric = ImageIoU(2)
    >>> target = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 0, 1]]])
    >>> preds = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 1, 1]]])
    >>> round(float(metric(preds, target)), 6)  # (1 + (2/3 + 1/2) / 2) / 2
    0.791667
    """

    image_steps: Tensor
    image_count: Tensor
    valid_images: Tensor
    class_steps: Tensor
    class_count: Tensor

    def _add_states(self) -> None:
        self.add_state("image_steps", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("image_count", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("valid_images", default=torch.tensor(0), dist_reduce_fx="sum")  # whatever they show
        self.add_state("class_steps", default=torch.zeros(self.num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("class_count", default=torch.zeros(self.num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch of images; shapes and errors as in `confusion_counts`, target at least (N, H, W)."""
        confusion = confusion_counts(
            preds,
            target,
            self.num_classes,
            ignore_index=self.ignore_index,
            threshold=self.threshold,
            per_image=True,
        )
        confusion, device = where_float64_is(confusion), self.class_steps.device
        iou = self._class_iou(confusion)  # (N, C)
        valid = confusion.any(-1).any(-1)  # (N,)
        iou = iou.masked_fill(~valid[:, None], torch.nan)  # all void: no score, also under "one"
        mean = iou.nanmean(1)  # (N,)
        self.image_steps = self.image_steps + _steps(mean).sum()
        self.image_count = self.image_count + (~mean.isnan()).sum()
        self.valid_images = self.valid_images + valid.sum()
        self.class_steps = self.class_steps + _steps(iou).sum(0).to(device)
        self.class_count = self.class_count + (~iou.isnan()).sum(0).to(device)

    def compute(self) -> Tensor:
        """Mean over the images of their mean IoU, float64 scalar in [0, 1]."""
        if self.valid_images == 0:
            return self._no_pixels()
        return where_float64_is(self.image_steps).double() / where_float64_is(self.image_count) / _STEPS

    def per_class(self) -> Tensor:
        """Mean over the images of each class's IoU, float64 (C,), NaN for a class left out of every image.

        All processes must call it together. Raises ValueError where there was no valid pixel, as compute() does.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            if self.valid_images == 0:
                return self._no_pixels()
            return where_float64_is(self.class_steps).double() / where_float64_is(self.class_count) / _STEPS


def _steps(iou: Tensor) -> Tensor:
    """IoU as an integer number of steps; 0 where it is NaN."""
    return (iou.nan_to_num(0.0) * _STEPS).round().long()
