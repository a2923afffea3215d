"""Section 4.2: one class against the rest, trained with each of four losses and measured by all (Table 1, Figure 4).

Every run is a folder with its run.json; a killed experiment goes on with the first one that is not there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress
from torch import nn

from lovasz.lab.config import RunConfig, read_json, write_json
from lovasz.lab.data import (
    Augmentation,
    SegmentationDataset,
    TrainingView,
    available_splits,
    open_dataset,
)
from lovasz.lab.data.resized import Resized
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import Scores
from lovasz.lab.fitting import fit
from lovasz.lab.losses import TrainingLoss
from lovasz.lab.models import brings_weights, create_model, load_weights
from lovasz.lab.models.deeplab import load_deeplab
from lovasz.lab.models.layouts import LAYOUTS
from lovasz.lab.paper.foreground import LOSSES, Foreground, ForegroundLoss, half_and_half, measure
from lovasz.lab.paper.result import Experiment, data_options, matplotlib_pyplot, number
from lovasz.lab.progress import bar, display, say
from lovasz.lab.splits import contents_of, held_classes
from lovasz.lab.training import NOTHING_TO_FREEZE

NAME = "binary"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained. data, model, weights, optimizer and so on as in RunConfig.

    classes: names of the foregrounds, None: all but the data set's first, its background. size: images are resized to
    it (height, width), None: their own; those of training then by `scale` at random. learning_rates: tried for each
    loss under the same budget. pretrain_epochs: of cross-entropy, before, where the start is random; all losses share
    it. freeze_batch_norm: as in RunConfig.
    """

    data: str
    classes: tuple[str, ...] | None = None
    model: str = "espnetv2"
    weights: str | None = None
    losses: tuple[str, ...] = tuple(LOSSES)
    learning_rates: tuple[float, ...] = (2e-5, 1e-4)
    epochs: int = 2
    pretrain_epochs: int = 0
    batch_size: int = 10
    optimizer: str = "adam"
    weight_decay: float = 2e-4
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    freeze_batch_norm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.losses:
            ForegroundLoss(name)
        if not self.losses or not self.learning_rates or self.classes == ():
            raise LabError("losses, learning_rates, classes: give at least one of each.")
        for rate in self.learning_rates:
            self.run(self.losses[0], rate, "cpu")  # checks the rest
        random = self.weights is None and not self.pretrain_epochs and not brings_weights(self.model)
        if self.freeze_batch_norm and random:
            raise LabError(NOTHING_TO_FREEZE)

    def run(self, loss: str, learning_rate: float, device: str) -> RunConfig:
        """The configuration of one run. Half of each epoch's images hold the class: equibatch over "does, does not"."""
        same = ("data", "model", "epochs", "batch_size", "optimizer", "weight_decay", "crop", "scale")
        same += ("freeze_batch_norm", "seed")
        return RunConfig(
            **{name: getattr(self, name) for name in same},
            loss=loss,
            learning_rate=learning_rate,
            sampler="equibatch",
            device=device,
            logger="none",
        )

    def to_json(self, classes: tuple[str, ...], name: str) -> dict[str, Any]:
        """As the result holds it: names of files without their folders."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        weights = None if self.weights is None else Path(self.weights).name
        return values | {"data": name, **data_options(self.data), "classes": list(classes), "weights": weights}


def run(
    folder: Path,
    setting: Setting,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: Progress | bool = False,
) -> Path:
    """Train every class with every loss and learning rate; writes result.json and Figure 4.

    Each loss keeps the learning rate at which its own value on val is least (mean over classes). Table 1 is of test,
    where the data have one, else of val. On both, all images that hold the class and as many that do not are measured.
    """
    pyplot = matplotlib_pyplot()
    splits = available_splits(setting.data)
    if not {"train", "val"} <= set(splits):
        raise LabError(f"data {setting.data!r}: it has {', '.join(splits)}; expected train and val.")
    opened = {name: open_dataset(setting.data, name) for name in splits}
    bases = {name: Resized(dataset, setting.size) for name, dataset in opened.items()}
    info = bases["train"].info
    classes = setting.classes or info.classes[1:]
    for name in classes:
        if name not in info.classes:
            raise LabError(f"classes: the data have no class {name!r}; they have {', '.join(info.classes)}.")
    place = torch.device(device)
    if setting.weights is not None:  # a file that cannot be used is told before there is a folder
        one_output(setting.model, Path(setting.weights), classes[0], info.classes, None)
    experiment = Experiment.open(
        NAME,
        folder,
        setting.to_json(classes, info.name),
        resume=resume,
        data=contents_of(list(opened.values())),
        weights=setting.weights,
    )
    with display(progress) as shown:
        held = {
            name: held_classes(base, folder / f"classes-{name}.json", setting.data, shown)
            for name, base in bases.items()
        }
        total = len(classes) * len(setting.losses) * len(setting.learning_rates)
        records, starts = [], {}
        with bar(total, "runs", shown) as done:
            for name in classes:
                label = info.classes.index(name)
                task = _Class(setting, name, label, bases, held, folder / "runs" / _slug(name), place, shown)
                starts[name] = task.start_values()
                for loss in setting.losses:
                    for rate in setting.learning_rates:
                        records.append(task.trained(loss, rate))
                        experiment.keep()
                        done.advance()
    chosen = choose(records, setting.losses)
    reported = "test" if "test" in bases else "val"
    scores = {
        "runs": records,
        "starts": starts,
        "chosen": chosen,
        "split": reported,
        "images": {split: {n: task_images(held[split], info.classes.index(n)) for n in classes} for split in bases},
    }
    picture = f"paper-figure-4-{_slug(info.name)}.png"
    draw(pyplot, scores, setting.losses, experiment.folder / picture)
    caption = f"Figure 4: image-IoU on {info.name}'s validation images over the epochs, mean over classes"
    return experiment.finish(scores, {picture: caption}, device=place)


def choose(records: list[dict[str, Any]], losses: tuple[str, ...]) -> dict[str, float]:
    """For each loss the learning rate at which its own value on val, averaged over classes, is least."""
    chosen = {}
    for loss in losses:
        values: dict[float, list[float]] = {}
        for record in records:
            if record["loss"] == loss:
                values.setdefault(record["learning_rate"], []).append(record["values"]["val"][loss])
        chosen[loss] = min(values, key=lambda rate: sum(values[rate]) / len(values[rate]))
    return chosen


def task_images(held: list[list[int]], label: int) -> int:
    """How many images of a split hold the class."""
    return sum(label in classes for classes in held)


class _Class:
    """The runs of one foreground class."""

    def __init__(
        self,
        setting: Setting,
        name: str,
        label: int,
        bases: Mapping[str, SegmentationDataset],
        held: Mapping[str, list[list[int]]],
        folder: Path,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.setting, self.name, self.folder, self.device, self.progress = setting, name, folder, device, progress
        self.classes = bases["train"].info.classes
        self.label = label
        self.train = Foreground(bases["train"], label)
        self.holds = [[int(label in found)] for found in held["train"]]
        if [1] not in self.holds:
            raise LabError(f"classes: no training image holds {name!r}; choose another class.")
        self.measured = {
            split: Foreground(base, label, half_and_half([label in found for found in held[split]], setting.seed))
            for split, base in bases.items()
            if split != "train"
        }
        for split, view in self.measured.items():
            if not len(view):
                raise LabError(f"classes: no image of {split} holds {name!r}; choose another class.")

    def start_values(self) -> dict[str, dict[str, float]]:
        path = self.folder / "start.json"
        if not path.is_file():
            network = self.start(self.progress)
            values = {split: measure(network, view, self.device) for split, view in self.measured.items()}
            write_json(path, values)
        return read_json(path)

    def start(self, shown: Progress | None = None) -> nn.Module:
        """The network before any of the four losses; the same each time."""
        setting = self.setting
        torch.manual_seed(setting.seed)  # of weights that no file holds, the classifier's too
        if setting.weights is not None:
            return one_output(setting.model, Path(setting.weights), self.name, self.classes, shown)
        network = create_model(setting.model, 1)
        if not setting.pretrain_epochs:
            return network
        kept = self.folder / "pretraining.pt"
        if kept.is_file():
            network.load_state_dict(torch.load(kept, weights_only=True))
            return network
        rate = setting.learning_rates[-1]
        config = setting.run("cross_entropy", rate, str(self.device))
        config = config.replace(epochs=setting.pretrain_epochs, freeze_batch_norm=False)  # there is nothing to keep yet
        self._fit(config, network, self.folder / "pretraining", f"{self.name}, pretraining", validate=None)
        partial = kept.with_name(kept.name + ".partial")  # a kill leaves the whole file or none
        torch.save(network.cpu().state_dict(), partial)
        partial.replace(kept)
        return network

    def trained(self, loss: str, rate: float) -> dict[str, Any]:
        """The record of one run, trained where it is not there yet."""
        folder = self.folder / f"{loss}-{number(rate)}"
        path = folder / "run.json"
        if path.is_file():
            return read_json(path)
        network = self.start()
        start = self.start_values()["val"]["image_iou"]

        def validate(network: nn.Module) -> Scores:
            found = measure(network, self.measured["val"], self.device)
            iou = found["dataset_iou"]
            return Scores(iou, found["image_iou"], found["pixel_accuracy"], {self.name: iou})

        config = self.setting.run(loss, rate, str(self.device))
        words = f"{self.name}, {loss}, {rate:g}"
        result = self._fit(config, network, folder, words, validate)
        values = {split: measure(network, view, self.device) for split, view in self.measured.items()}
        record = {
            "class": self.name,
            "loss": loss,
            "learning_rate": rate,
            "seed": self.setting.seed,
            "history": [start, *(entry["val"]["image_miou"] for entry in result.history)],
            "values": values,
            "steps": result.steps,
            "seconds": result.seconds,
        }
        write_json(path, record)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the record is what is wanted of a finished run
        say(self.progress, f"{words}: image-IoU {100 * values['val']['image_iou']:.2f} %")
        return record

    def _fit(
        self, config: RunConfig, network: nn.Module, folder: Path, words: str, validate: Callable[..., Scores] | None
    ) -> Any:
        if validate is None:
            config = config.replace(validate_every=0)
        augmentation = Augmentation(crop=config.crop, scale=config.scale, flip=config.flip)
        return fit(
            config,
            network,
            cast(TrainingLoss, ForegroundLoss(config.loss)),
            TrainingView(self.train, augmentation, config.seed),
            folder,
            device=self.device,
            validate=validate or _never,
            image_classes=self.holds,
            resume=True,
            progress=self.progress,
            description=words,
        )


def _never(network: nn.Module) -> Scores:
    raise AssertionError(f"{type(network).__name__} is not to be validated here")


def one_output(
    model: str, weights: Path, name: str, classes: tuple[str, ...], shown: Progress | None = None
) -> nn.Module:
    """The network of a weights file with one output: the logit of class `name` minus that of the background.

    That difference is the network's own score to begin with; where no class is called background, the mean logit of all
    others takes its place. model "deeplab" takes the published files of `load_deeplab` as well, with outputs in the
    order of `classes`.
    """
    if model == "deeplab" and not weights.with_suffix(".json").is_file():
        network: nn.Module = load_deeplab(weights, len(classes), shown)
    else:
        network = load_weights(model, weights, classes)
    label = classes.index(name)
    others = [i for i in range(len(classes)) if i != label]
    if "background" in classes and name != "background":
        others = [classes.index("background")]
    outputs = next(layout.outputs for layout in LAYOUTS if model in layout.names)
    for key, dimension in (pair for pair in outputs if pair[0] in network.state_dict()):  # some have no bias
        owner, _, tensor = key.rpartition(".")
        values = network.get_parameter(key).detach()
        rest = values.index_select(dimension, torch.tensor(others)).mean(dimension, keepdim=True)
        setattr(network.get_submodule(owner), tensor, nn.Parameter(values.narrow(dimension, label, 1) - rest))
    return network


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "-", text)


def draw(pyplot: Any, scores: Mapping[str, Any], losses: tuple[str, ...], path: Path) -> None:
    """Figure 4: image-IoU on val over the epochs, at the learning rate that each loss keeps."""
    figure, axes = pyplot.subplots(figsize=(5.6, 3.6), dpi=110)
    for loss, style in zip(losses, (":", "--", "-.", "-") * 2, strict=False):
        kept = [r for r in scores["runs"] if r["loss"] == loss and r["learning_rate"] == scores["chosen"][loss]]
        mean = [100 * sum(values) / len(values) for values in zip(*(r["history"] for r in kept), strict=True)]
        axes.plot(range(len(mean)), mean, style, marker="o", markersize=3, label=LOSSES[loss])
    axes.set(xlabel="epoch", ylabel="image-IoU on val, %")
    axes.locator_params(axis="x", integer=True)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
