"""Section 3.1 on real predictions: the mean IoU of an image, of a batch and of the data set are three measures.

The loss of a batch is the surrogate of its own mean IoU, and the mean over batches of a ratio of sums is not the ratio
of the sums (the inequality of Eq. 15). Which classes a batch averages over, and how batches are drawn, decide how far
they lie apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from lovasz.confusion import confusion_counts
from lovasz.lab.data import IGNORE_INDEX, open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.models import load_weights
from lovasz.lab.models.resized import ask_as
from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.result import Experiment, Row, Section, data_options, data_words, matplotlib_pyplot
from lovasz.lab.predict import predict_labels
from lovasz.lab.progress import display, tracked
from lovasz.lab.splits import contents_of
from lovasz.sampling import EquibatchSampler

NAME = "batches"
KEPT_EVERY = 10  # images
ORDERS = {"shuffle": "plain shuffle", "equibatch": "equibatch"}
CLASSES = {"present": "classes present in the batch's truth", "all": "all classes, 0/0 = 1"}


def run(
    folder: Path,
    data: str,
    weights: Path,
    *,
    model: str = "espnetv2",
    size: tuple[int, int] | None = None,
    batch_sizes: Sequence[int] = (1, 2, 5, 10, 21, 50, 100),
    passes: int = 50,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: Progress | bool = False,
) -> Path:
    """Ask the network on val, then draw batches of each size, `passes` times the data; writes result.json and a figure.

    Raises LabError for batch sizes below 1 or above the number of images.
    """
    pyplot = matplotlib_pyplot()
    dataset = open_dataset(data, "val")
    if not batch_sizes or min(batch_sizes) < 1 or max(batch_sizes) > len(dataset):
        raise LabError(f"batch_sizes: got {list(batch_sizes)}, expected 1 to {len(dataset)}, the images of val.")
    if passes < 1:
        raise LabError(f"passes: got {passes}, expected at least 1.")
    config = {
        "data": dataset.info.name,
        **data_options(data),
        "images": len(dataset),
        "model": model,
        "weights": Path(weights).name,
        "size": None if size is None else list(size),
        "batch_sizes": list(batch_sizes),
        "passes": passes,
        "seed": seed,
    }
    network = ask_as(load_weights(model, weights, dataset.info.classes), size=size, scales=None, crf=False)
    network.eval().to(device)
    experiment = Experiment.open(NAME, folder, config, resume=resume, data=contents_of([dataset]), weights=weights)
    counts: list[list[list[int]]] = experiment.state.setdefault("counts", [])  # of each image: right, predicted, true
    done = len(counts)
    with display(progress) as shown:
        for index in tracked(range(done, len(dataset)), len(dataset), "predicting val", shown, completed=done):
            sample = dataset[index]
            labels = predict_labels(network, sample.image[None], device, len(dataset.info.classes))
            found = confusion_counts(
                labels, sample.mask[None].long(), len(dataset.info.classes), ignore_index=IGNORE_INDEX
            )
            counts.append([found.diagonal().tolist(), found.sum(0).tolist(), found.sum(1).tolist()])
            if (index + 1) % KEPT_EVERY == 0 or index + 1 == len(dataset):
                experiment.keep()
    scores = summarise(np.array(counts), batch_sizes, passes, seed)
    picture = "paper-section-3.1.png"
    _draw(pyplot, scores, experiment.folder / picture)
    caption = "Section 3.1: mean over batches of the batch's mean IoU, over the batch size; line: the data set's"
    return experiment.finish(scores, {picture: caption}, device=torch.device(device))


def mean_iou(counts: np.ndarray, classes: str) -> np.ndarray:
    """Mean IoU of counts (..., 3, C) of right, predicted and true pixels, as `classes` says; NaN where none counts."""
    right, predicted, true = np.moveaxis(counts, -2, 0).astype(float)  # (..., C)
    union = predicted + true - right
    iou = np.where(union > 0, right / np.maximum(union, 1), 1.0)
    counted = true > 0 if classes == "present" else np.ones_like(true, bool)
    number = counted.sum(-1)
    return np.where(number > 0, (iou * counted).sum(-1) / np.maximum(number, 1), np.nan)


def summarise(counts: np.ndarray, batch_sizes: Sequence[int], passes: int, seed: int) -> dict[str, Any]:
    """Means over batches for every order, choice of classes and batch size, of counts (images, 3, C)."""
    images = len(counts)
    rng = np.random.default_rng(seed)
    shuffled = np.concatenate([rng.permutation(images) for _ in range(passes)])
    held = [np.flatnonzero(true).tolist() for true in counts[:, 2]]
    orders = {
        "shuffle": shuffled,
        "equibatch": np.array(list(EquibatchSampler(held, num_samples=images * passes, seed=seed))),
    }
    found: dict[str, Any] = {
        "dataset": {classes: float(mean_iou(counts.sum(0), classes)) for classes in CLASSES},
        "batches": {},
    }
    for name, order in orders.items():
        found["batches"][name] = {classes: [] for classes in CLASSES}
        for size in batch_sizes:
            batches = order[: len(order) // size * size].reshape(-1, size)
            sums = counts[batches].sum(1)  # (batches, 3, C)
            for classes in CLASSES:
                values = mean_iou(sums, classes)
                values = values[~np.isnan(values)]
                one = {"size": size, "mean": float(values.mean()), "spread": float(values.std()), "count": len(values)}
                found["batches"][name][classes].append(one)
    return found


def _draw(pyplot: Any, scores: Mapping[str, Any], path: Path) -> None:
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.6), dpi=110)
    ticks = sorted(
        {one["size"] for order in ORDERS for classes in CLASSES for one in scores["batches"][order][classes]}
    )
    for axes, (classes, words) in zip(panels, CLASSES.items(), strict=True):
        for order, style in zip(ORDERS, ("-", "--"), strict=True):
            points = scores["batches"][order][classes]
            sizes, means = [one["size"] for one in points], [100 * one["mean"] for one in points]
            axes.errorbar(
                sizes, means, [100 * one["spread"] for one in points], linestyle=style, capsize=3, label=ORDERS[order]
            )
        axes.axhline(100 * scores["dataset"][classes], color="grey", linewidth=1, label="data set")
        axes.set(xscale="log", xlabel="batch size", ylabel="mean IoU, %", title=words)
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()  # a logarithmic axis labels them with powers of ten where it is short
    panels[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    config, scores = result["config"], result["scores"]
    rows = []
    for classes, words in CLASSES.items():
        whole = scores["dataset"][classes]
        rows.append(Row(f"{words}: the data set, mean IoU, %", "", f"{100 * whole:.2f}"))
        for order, label in ORDERS.items():
            for one in scores["batches"][order][classes]:
                name = "one image" if one["size"] == 1 else f"batches of {one['size']}"
                ours = f"{100 * one['mean']:.2f} ± {100 * one['spread']:.2f}"
                rows.append(Row(f"{words}: {name}, {label}", "differs", ours, f"{100 * (one['mean'] - whole):+.2f}"))
    size = f" at {config['size'][0]} x {config['size'][1]}" if config["size"] else ""
    return Section(
        title="Section 3.1: the mean IoU of images, batches and the data set (Eq. 15)",
        command=command_line(NAME, config),
        setting=f"{config['model']} with {config['weights']}{size}, {config['images']} images of val of "
        f"{data_words(config)}; batches from {config['passes']} passes over them, mean and standard deviation over "
        f"batches; seed {config['seed']}.",
        rows=tuple(rows),
        comparable="That they differ, which the paper argues without numbers; a batch of one image is image-mIoU.",
        seen=_seen(scores),
    )


def _seen(scores: Mapping[str, Any]) -> str:
    parts = []
    for classes, words in CLASSES.items():
        plain = scores["batches"]["shuffle"][classes]
        gaps = [100 * (one["mean"] - scores["dataset"][classes]) for one in (plain[0], plain[-1])]
        parts.append(
            f"{words}: {gaps[0]:+.2f} points from the data set's with batches of {plain[0]['size']}, {gaps[1]:+.2f} "
            f"with {plain[-1]['size']}"
        )
    return "; ".join(parts) + "."
