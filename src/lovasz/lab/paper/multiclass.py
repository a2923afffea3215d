"""Section 4.3: cross-entropy against Lovász-Softmax on all classes, with and without equibatch, under one budget.

Training is `finetune`'s grid, with the optimiser and the crops of this section; then each network is asked at one
scale, at several and behind the CRF, and by the decision rules of `answers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from lovasz.lab.config import RunConfig, read_json
from lovasz.lab.crf import CRF, require_densecrf
from lovasz.lab.data import SegmentationDataset, open_dataset
from lovasz.lab.environment import resolve_device, use_machine
from lovasz.lab.errors import LabError
from lovasz.lab.models import load_weights, save_weights
from lovasz.lab.models.deeplab import load_deeplab
from lovasz.lab.models.resized import MultiScale, ask_as
from lovasz.lab.paper import crf_effect, finetune
from lovasz.lab.paper.answers import RULES, answer, decisions, search_crf
from lovasz.lab.paper.crops import draw_crops
from lovasz.lab.paper.result import STATE, Experiment, data_options, matplotlib_pyplot, read_result
from lovasz.lab.paper.table4 import groups
from lovasz.lab.progress import display
from lovasz.lab.splits import Data, held_classes

NAME = "multiclass"
KINDS = ("image", "batch", "dataset")  # of mean IoU, as the panels of Figure 6
COMPARED = {"cross_entropy": "cross-entropy", "lovasz_softmax": "Lovász-Softmax"}  # in Figures 5 and 7
START = "start"  # the network before the losses, which is asked as well


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained and how it is asked. data, model, weights, losses and so on as in `finetune.Setting`.

    size: images are resized to it (height, width) before the network is asked, in validation too, None: their own.
    scales: of the several-scale evaluation. images: of val that are asked, evenly over its list, None: all. crf:
    whether to refine; crf_search: images of train on which the CRF's parameters are searched for each network, 0:
    DeepLab-v2's own. batches: of |C| images for the decision rules, 0: none; shape: at which these see them.
    """

    data: str
    weights: str
    model: str = "espnetv2"
    losses: tuple[str, ...] = ("cross_entropy", "lovasz_softmax")
    samplers: tuple[str, ...] = ("shuffle", "equibatch")
    learning_rates: tuple[float, ...] = (1e-3,)
    epochs: int = 10
    batch_size: int = 10
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    freeze_batch_norm: bool = False
    crop: tuple[int, int] | None = (321, 321)
    scale: tuple[float, float] = (0.5, 1.5)
    size: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    images: int | None = None
    crf: bool = True
    crf_search: int = 0
    batches: int = 5
    shape: tuple[int, int] = (128, 128)
    rules: tuple[str, ...] = tuple(RULES)
    seed: int = 0
    workers: int = 0
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for rule in self.rules:
            if rule not in RULES:
                raise LabError(f"rules: there is no decision rule {rule!r}; choose from {', '.join(RULES)}.")
        for name, least in (("images", 1), ("crf_search", 0), ("batches", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise LabError(f"{name}: got {value}, expected at least {least}.")
        MultiScale(nn.Identity(), self.scales)
        self.training(self.weights)  # checks the rest

    def training(self, weights: str) -> finetune.Setting:
        """The grid that trains the networks, from this weights file."""
        same = ("data", "model", "losses", "samplers", "learning_rates", "epochs", "optimizer", "weight_decay")
        same += ("freeze_batch_norm", "crop", "scale", "size", "workers", "threads", "device")
        values = {name: getattr(self, name) for name in same}
        return finetune.Setting(**values, weights=weights, batch_sizes=(self.batch_size,), seeds=(self.seed,))

    def to_json(self, data: str) -> dict[str, Any]:
        """As the result holds it."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        for name in ("workers", "threads", "device"):
            del values[name]
        return values | {"data": data, **data_options(self.data), "weights": Path(self.weights).name}


def run(folder: Path, setting: Setting, *, resume: bool = False, progress: Progress | bool = False) -> Path:
    """Train, ask, decide; writes result.json and the figure. A killed run goes on with `resume`.

    Raises LabError before anything is trained where the CRF or a decision rule lacks its package.
    """
    pyplot = matplotlib_pyplot()
    if setting.crf or setting.crf_search:
        require_densecrf()
    if setting.batches and "rankseg" in setting.rules:
        RULES["rankseg"][1](torch.full((1, 2, 1, 1), 0.5))
    data = Data.open(RunConfig(data=setting.data))
    val = data.val
    given = Path(setting.weights)  # a file that cannot be used is told before there is a folder
    if setting.model == "deeplab" and not given.with_suffix(".json").is_file():
        load_deeplab(given, val.info.num_classes, None)
    else:
        load_weights(setting.model, given, val.info.classes)
    experiment = Experiment.open(
        NAME, folder, setting.to_json(val.info.name), resume=resume, data=data.contents(), weights=setting.weights
    )
    with display(progress) as shown:
        weights = str(starting_weights(setting, folder, val, shown))
        place = folder / "training"
        grid = setting.training(weights)
        if (place / STATE).is_file() and read_json(place / STATE).get("config", {}).get("size") is None:
            grid = replace(grid, size=None)  # an earlier version validated at the images' own size; it goes on so
        path = finetune.run(place, grid, crops=False, resume=place.exists(), progress=shown or False)
        experiment.keep()
        training = read_result(path)["scores"]
        networks = {START: Path(weights)}
        for group in (group for group in groups(training) if group["reported"]):
            key = f"{group['loss']}, {group['sampler']}"
            networks[key] = place / group["runs"][0]["source"] / "model.safetensors"
        asked = {}
        for name, file in networks.items():
            network = load_weights(setting.model, file, val.info.classes)
            asked[name] = _ask(name, network, setting, val, folder / "answers", shown)
            experiment.keep()
        if setting.crf:
            _figure_5(pyplot, networks, asked, setting, val, folder / crf_effect.CROPS, shown)
        _figure_7(pyplot, networks, setting, val, folder / "crops-figure-7.png", shown)
    scores = {"training": training, "answers": asked, "images": len(_chosen(len(val), setting.images))}
    return experiment.finish(scores, draw_all(pyplot, scores, folder), device=resolve_device(setting.device))


def draw_all(pyplot: Any, scores: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The pictures for the page, from the scores alone; returns their captions by name."""
    captions = {}
    if all("crf" in found["ways"] for found in scores["answers"].values()):
        labels = {START: "before"}
        labels |= {name: COMPARED[loss] for loss, name in compared(scores["answers"]).items()}
        crf_effect.draw_gains(pyplot, scores["answers"], labels, folder / crf_effect.PICTURE)
        captions[crf_effect.PICTURE] = "Figure 5: what the CRF changes in the IoU of each class, at several scales"
    draw(pyplot, scores["training"], folder / "paper-figure-6.png")
    captions["paper-figure-6.png"] = (
        "Figure 6: mean IoU on val over the epochs, of each image, of batches of ten and of the whole data set"
    )
    return captions


def starting_weights(setting: Setting, folder: Path, val: SegmentationDataset, shown: Progress | None = None) -> Path:
    """The weights file that the lab's training takes; the public DeepLab files are turned into one first."""
    given = Path(setting.weights)
    if setting.model != "deeplab" or given.with_suffix(".json").is_file():
        return given
    kept = folder / "start.safetensors"
    if not kept.is_file():
        torch.manual_seed(setting.seed)  # of a classifier that the file does not hold
        network = load_deeplab(given, val.info.num_classes, shown)
        save_weights(network, kept, model_name="deeplab", classes=val.info.classes, palette=val.info.palette)
    return kept


def _ask(
    name: str, network: nn.Module, setting: Setting, val: SegmentationDataset, folder: Path, shown: Progress | None
) -> dict[str, Any]:
    device = use_machine(setting.device, setting.threads)
    place = folder / name.replace(", ", "-").replace(">", "-then-").replace("*", "x").replace("+", "-plus-")
    how: dict[str, Any] = {"size": setting.size, "device": device, "progress": shown}
    search, crf = None, CRF() if setting.crf else None
    if setting.crf and setting.crf_search:
        train = open_dataset(setting.data, "train")
        chosen = _chosen(len(train), setting.crf_search)
        search = search_crf(network, train, chosen, place / "crf.json", scales=setting.scales, **how)
        crf = CRF(**search["best"])
    chosen = _chosen(len(val), setting.images)
    found: dict[str, Any] = {
        "ways": answer(
            network, val, chosen, place / "ways.json", scales=setting.scales, crf=crf, description=name, **how
        ),
        "crf": search,
        "rules": None,
    }
    if setting.batches:
        held = held_classes(val, folder / "image_classes.json", setting.data, shown)
        found["cycled"] = len({label for labels in held for label in labels})
        found["rules"] = decisions(
            network,
            val,
            held,
            place / "rules.json",
            batches=setting.batches,
            rules=setting.rules,
            shape=setting.shape,
            seed=setting.seed,
            **how,
        )
    return found


def _figure_7(
    pyplot: Any,
    files: Mapping[str, Path],
    setting: Setting,
    val: SegmentationDataset,
    path: Path,
    shown: Progress | None,
) -> None:
    """Crops of cross-entropy's and of Lovász-Softmax's network, where both are there; drawn once."""
    found = compared(files)
    if path.is_file() or len(found) < 2:
        return
    networks = {loss: load_weights(setting.model, files[name], val.info.classes) for loss, name in found.items()}
    networks = {loss: ask_as(one, size=setting.size, scales=None, crf=False) for loss, one in networks.items()}
    device = use_machine(setting.device, setting.threads)
    draw_crops(pyplot, networks, ("cross_entropy", "lovasz_softmax"), val, path, device=device, progress=shown)


def _figure_5(
    pyplot: Any,
    files: Mapping[str, Path],
    asked: Mapping[str, Any],
    setting: Setting,
    val: SegmentationDataset,
    path: Path,
    shown: Progress | None,
) -> None:
    """Crops of Lovász-Softmax's network without the CRF and behind it, where that network is there; drawn once."""
    name = compared(files).get("lovasz_softmax")
    if path.is_file() or name is None:
        return
    network = load_weights(setting.model, files[name], val.info.classes)
    search = asked[name]["crf"]
    crf = CRF(**search["best"]) if search else CRF()
    how = {"size": setting.size, "scales": setting.scales, "device": use_machine(setting.device, setting.threads)}
    crf_effect.draw_images(pyplot, network, crf, val, path, progress=shown, **how)


def compared(names: Iterable[str]) -> dict[str, str]:
    """Of the networks' names ("loss, sampler") the first of each loss of Figures 5 and 7."""
    found: dict[str, str] = {}
    for name in names:
        loss = name.partition(", ")[0]
        if loss in COMPARED:
            found.setdefault(loss, name)
    return found


def _chosen(length: int, count: int | None) -> list[int]:
    """`count` of `length` places, evenly; all for None or where there are no more."""
    if count is None or count >= length:
        return list(range(length))
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


def draw(pyplot: Any, training: Mapping[str, Any], path: Path) -> None:
    """Mean IoU on val over the epochs for each loss and sampler: of images, batches and the whole."""
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 3.6), dpi=110)
    for axes, curve, kind in zip(panels, ("image_curve", "batch_curve", "curve"), KINDS, strict=True):
        for group in (group for group in groups(training) if group["reported"]):
            values = [100 * value for value in group["runs"][0].get(curve, ()) if value is not None]
            style = "--" if group["sampler"] == "equibatch" else "-"
            axes.plot(
                range(1, len(values) + 1), values, style, marker="o", label=f"{group['loss']}, {group['sampler']}"
            )
        before = training["start"]["val"].get(f"{kind}_miou")
        if before is not None:
            axes.axhline(100 * before, color="grey", linewidth=1, label="before")
        axes.set(xlabel="epoch", ylabel=f"{kind}-mIoU on val, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, fontsize="small", loc="lower center", ncols=len(lines))
    figure.tight_layout(rect=(0, 0.08, 1, 1))  # the legend below, where it hides no curve
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
