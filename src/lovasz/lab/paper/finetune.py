"""Section 4.4: a trained network trained further, over losses, learning rates, batch sizes, seeds and samplers.

Every run is one of `lovasz train` in a folder of its own; what is there is not trained again. The tables and Figure 9
are made from the entries of the result (`table4.py`), which may also come from runs of `lovasz train` and `compare`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from lovasz.lab.config import RunConfig, read_json, write_json
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.environment import resolve_device
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.losses import LossSpec
from lovasz.lab.models import load_weights
from lovasz.lab.models.resized import ask_as
from lovasz.lab.paper import table4
from lovasz.lab.paper.crops import draw_crops
from lovasz.lab.paper.earlier import entry_of, read_entries, read_start, same_of
from lovasz.lab.paper.iiou import cityscapes_scores, require_objects
from lovasz.lab.paper.result import Experiment, data_options, matplotlib_pyplot, number
from lovasz.lab.progress import display, say, tracked
from lovasz.lab.splits import Data
from lovasz.lab.training import train

NAME = "finetune"
KEY = ("loss", "batch_size", "learning_rate", "sampler", "seed", "epochs")  # what tells two runs of a grid apart


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The grid. data, model, weights, epochs, optimizer, crop, scale and keep as in RunConfig, the same for all runs.

    learning_rates: searched for each loss and batch size with the first seed and sampler, by mean IoU on val after all
    epochs; the other seeds and samplers then run at the one that was best. size: to which images are resized (height,
    width) before a network is asked, in validation, for Table 4 and for the crops.
    """

    data: str
    weights: str
    model: str = "enet"
    losses: tuple[str, ...] = ("weighted_cross_entropy", "cross_entropy", "lovasz_softmax")
    learning_rates: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    batch_sizes: tuple[int, ...] = (10, 5, 2)
    seeds: tuple[int, ...] = (0, 1, 2)
    samplers: tuple[str, ...] = ("shuffle", "equibatch")
    epochs: int = 5
    optimizer: str = "adam"
    weight_decay: float = 2e-4
    freeze_batch_norm: bool = False
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] | None = None
    keep: str = "last"
    workers: int = 0
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("losses", "learning_rates", "batch_sizes", "seeds", "samplers"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise LabError(f"{name}: got {list(values)}, expected at least one, each once.")
        for loss in self.losses:
            LossSpec.parse(loss)
        for sampler, size, rate, seed in itertools.product(
            self.samplers, self.batch_sizes, self.learning_rates, self.seeds
        ):
            self.run(self.losses[0], size, rate, sampler, seed)  # checks the rest

    def run(self, loss: str, batch_size: int, learning_rate: float, sampler: str, seed: int) -> RunConfig:
        """One run; its folder is set where it is trained."""
        same = ("data", "model", "weights", "epochs", "optimizer", "weight_decay", "freeze_batch_norm", "crop", "scale")
        same += ("size", "keep", "threads", "device")
        return RunConfig(
            **{name: getattr(self, name) for name in same},
            num_workers=self.workers,
            loss=str(LossSpec.parse(loss)),
            batch_size=batch_size,
            learning_rate=learning_rate,
            sampler=sampler,
            seed=seed,
        )

    def searched(self) -> Iterator[RunConfig]:
        """The runs of the search."""
        for batch_size in self.batch_sizes:
            for loss in self.losses:
                for rate in self.learning_rates:
                    yield self.run(loss, batch_size, rate, self.samplers[0], self.seeds[0])

    def final(self, chosen: Sequence[dict[str, Any]]) -> Iterator[RunConfig]:
        """The runs that are reported, seed by seed, so that an experiment that is stopped has whole seeds."""
        for seed in self.seeds:
            for sampler in self.samplers:
                for one in chosen:
                    yield self.run(one["loss"], one["batch_size"], one["learning_rate"], sampler, seed)

    def to_json(self, data: str) -> dict[str, Any]:
        """As the result holds it: names of files without their folders, nothing that leaves the weights alone."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        unsaid = {"workers", "threads", "device"} | ({"keep"} if self.keep == "last" else set())  # once the only one
        values = {name: value for name, value in values.items() if name not in unsaid}
        losses = [str(LossSpec.parse(loss)) for loss in self.losses]
        return values | {"data": data, **data_options(self.data), "weights": Path(self.weights).name, "losses": losses}


def run(
    folder: Path,
    setting: Setting,
    *,
    earlier: Sequence[Path] = (),
    training: bool = True,
    crops: bool = True,
    resume: bool = False,
    progress: Progress | bool = False,
) -> Path:
    """Search the learning rates, train the grid; writes result.json and Figure 9 after every run.

    earlier: run.json, comparison.json or folders of `lovasz train` and `compare` whose runs are taken instead of
    training the same again, and stand in the tables; with `training` off, these and what is in `folder` alone.
    crops: whether to draw Figure 8's.
    Raises LabError where an earlier run is of other data, another network or another start.
    """
    pyplot = matplotlib_pyplot()
    data = Data.open(setting.run(setting.losses[0], setting.batch_sizes[0], setting.learning_rates[0], "shuffle", 0))
    config = setting.to_json(data.train.info.name)
    entries = [entry for path in earlier for entry in read_entries(path)]
    for entry in entries:
        check_same(entry, setting)
    if not training and not entries and not any((folder / "runs").glob("*/run.json")):
        raise LabError(f"{folder}: nothing is trained here, and no earlier runs are given; leave --no-training out.")
    # What cannot be used is told before there is a folder, and before days of training.
    load_weights(setting.model, Path(setting.weights), data.classes)
    if setting.data.startswith("cityscapes:"):
        require_objects(data.val)
    experiment = Experiment.open(NAME, folder, config, resume=resume, data=data.contents(), weights=setting.weights)
    grid = _Grid(experiment, setting, entries, training, pyplot)
    with display(progress) as shown:
        grid.start = read_start(earlier) or _start_scores(folder / "start.json", setting, data, grid.size, shown)
        searched = list(setting.searched())
        for one in tracked(searched, len(searched), "learning rates", shown):
            grid.take(one, shown)
        chosen = choose(grid.entries, setting)
        jobs = list(setting.final(chosen))
        for one in tracked(jobs, len(jobs), "runs", shown):
            grid.take(one, shown)
        if setting.data.startswith("cityscapes:"):
            _table_4(grid, data.val, shown)
        grid.complete = all(map(grid.has, [*searched, *jobs]))  # without training, some may be missing
        if crops:
            _figure_8(grid, data.val if data.test is None else data.test, shown)
    return grid.write()


def choose(entries: Sequence[dict[str, Any]], setting: Setting) -> list[dict[str, Any]]:
    """For each loss and batch size the learning rate with the best mean IoU on val, of the runs of the search alone."""
    chosen = []
    for batch_size in setting.batch_sizes:
        for loss in (str(LossSpec.parse(loss)) for loss in setting.losses):
            kept = [
                entry
                for entry in entries
                if (entry["loss"], entry["batch_size"], entry["epochs"]) == (loss, batch_size, setting.epochs)
                and (entry["sampler"], entry["seed"]) == (setting.samplers[0], setting.seeds[0])
                and entry["learning_rate"] in setting.learning_rates
            ]
            if kept:
                best = max(kept, key=lambda entry: entry["val"]["dataset_miou"])
                chosen.append({name: best[name] for name in ("loss", "batch_size", "learning_rate", "epochs")})
    return chosen


def check_same(entry: dict[str, Any], setting: Setting) -> None:
    """Raise LabError where an earlier run does not belong into these tables; entries of earlier versions say less."""
    ours, theirs = same_of(next(setting.searched())), {"keep": "last"} | entry["same"]
    if theirs.get("resize_training"):
        raise LabError(
            f"{entry['source']}: a run of --size, which resizes the images of training too; the runs of a grid train "
            "on them as they are. Leave it out."
        )
    for name in (name for name in ours if name in theirs):
        if theirs[name] != ours[name]:
            raise LabError(
                f"{entry['source']}: a run with {name} {theirs[name]!r}, this grid has {ours[name]!r}; leave "
                "it out, or give the grid the same."
            )


class _Grid:
    """The runs that are there, and those that are still to be trained."""

    def __init__(
        self, experiment: Experiment, setting: Setting, entries: list[dict[str, Any]], training: bool, pyplot: Any
    ) -> None:
        self.experiment, self.setting, self.training, self.pyplot = experiment, setting, training, pyplot
        self.start: dict[str, Any] = {}
        before = (experiment.folder / "runs").glob("*/config.json")
        # Earlier versions validated at the images' own size; a grid of theirs goes on so, to be one curve with another.
        self.size = None if any("size" not in read_json(path).get("run", {}) for path in before) else setting.size
        self.complete = False  # a result is written after every run
        self.cityscapes: list[dict[str, Any]] = []  # the four scores of the start and of every run trained here
        self.entries: list[dict[str, Any]] = []
        self.folders: dict[tuple[Any, ...], Path] = {}  # of the runs trained here; the sources of others lie elsewhere
        for entry in entries:
            self._add(entry)

    def take(self, config: RunConfig, shown: Progress | None) -> None:
        """The entry of one run: from the earlier ones, from its folder, or trained now."""
        if self.has(config):
            return
        config = config.replace(size=self.size)
        folder = self._folder(config)
        if not (folder / "run.json").is_file():
            if not self.training:
                return
            train(config.replace(out=str(folder)), resume=True, progress=shown or False)
        name = folder.relative_to(self.experiment.folder).as_posix()
        self._add(entry_of(read_json(folder / "run.json"), config, name))
        self.folders[_key(_flat(config))] = folder
        self.experiment.keep()
        self.write(last=False)  # a grid takes days: what is there can be looked at

    def _folder(self, config: RunConfig) -> Path:
        """Of one run; with its epochs where an earlier run of another length came from a folder of the same name."""
        place = self.experiment.folder / "runs"
        plain, longer = place / _name(config), place / f"{_name(config)}-epochs-{config.epochs}"
        taken = any(entry["source"] == f"runs/{plain.name}" for entry in self.entries)
        return longer if longer.is_dir() or (taken and not plain.is_dir()) else plain

    def weights(self, run: dict[str, Any]) -> Path | None:
        """The weights of a run that was trained here."""
        folder = self.folders.get(_key(run))
        return folder / "model.safetensors" if folder and (folder / "model.safetensors").is_file() else None

    def has(self, config: RunConfig) -> bool:
        """Whether the entry of one run is there."""
        return any(_key(entry) == _key(_flat(config)) for entry in self.entries)

    def write(self, *, last: bool = True) -> Path:
        chosen = choose(self.entries, self.setting)
        scores = {"start": self.start, "chosen": chosen, "runs": self.entries, "cityscapes": self.cityscapes}
        scores["complete"] = self.complete
        name = "paper-figure-9.png"
        caption = table4.draw(self.pyplot, scores, self.experiment.folder / name)
        device = resolve_device(self.setting.device)
        return self.experiment.finish(scores, {name: caption}, device=device, last=last)

    def _add(self, entry: dict[str, Any]) -> None:
        if all(_key(entry) != _key(one) for one in self.entries):
            self.entries.append(entry)


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in KEY)


def _flat(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in KEY}


def _name(config: RunConfig) -> str:
    loss = LossSpec.parse(config.loss).slug
    parts = f"batch-{config.batch_size}", f"rate-{number(config.learning_rate)}", config.sampler, f"seed-{config.seed}"
    return "-".join((loss, *parts))


def _table_4(grid: _Grid, val: SegmentationDataset, shown: Progress | None) -> None:
    """The four scores of Cityscapes, of the start and of the runs at the rates that are kept; kept beside the runs."""
    assert isinstance(val, PairDataset)
    setting, folder = grid.setting, grid.experiment.folder
    scores = {"runs": grid.entries, "chosen": choose(grid.entries, setting)}
    jobs: list[tuple[str, Path, Path]] = [("before", Path(setting.weights), folder / "start-cityscapes.json")]
    for group in (group for group in table4.groups(scores) if group["reported"]):
        for run in group["runs"]:
            weights = grid.weights(run)
            if weights is not None:
                jobs.append((table4.line_of(group), weights, weights.with_name("cityscapes.json")))
    how: dict[str, Any] = {"size": setting.size, "device": resolve_device(setting.device), "progress": shown}
    for name, weights, kept in jobs:
        network = load_weights(setting.model, weights, val.info.classes)
        grid.cityscapes.append({"name": name, **cityscapes_scores(network, val, kept, **how)})


def _figure_8(grid: _Grid, dataset: SegmentationDataset, shown: Progress | None) -> None:
    """Crops of the start, of the first loss and of Lovász-Softmax, where both were trained here; drawn once."""
    setting, path = grid.setting, grid.experiment.folder / "crops-figure-8.png"
    files = {"before": Path(setting.weights)}
    scores = {"runs": grid.entries, "chosen": choose(grid.entries, setting)}
    for group in (group for group in table4.groups(scores) if group["reported"]):
        found = [file for run in group["runs"] if (file := grid.weights(run)) is not None]
        if group["loss"] not in files and found:
            files[group["loss"]] = found[0]
    losses = [loss for loss in files if loss not in ("before", "lovasz_softmax")]
    if path.is_file() or not losses or "lovasz_softmax" not in files:
        return
    kept = ("before", losses[0], "lovasz_softmax")
    networks = {
        name: ask_as(
            load_weights(setting.model, files[name], dataset.info.classes), size=setting.size, scales=None, crf=False
        )
        for name in kept
    }
    between = losses[0], "lovasz_softmax"
    device = resolve_device(setting.device)
    draw_crops(grid.pyplot, networks, between, dataset, path, device=device, progress=shown)


def _start_scores(
    path: Path, setting: Setting, data: Data, size: tuple[int, int] | None, shown: Progress | None
) -> dict[str, Any]:
    """Scores of the weights that all runs start from, asked as these are in validation; kept beside them."""
    if path.is_file():
        return read_json(path)
    found: dict[str, Any] = {"val": None, "test": None}
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    network = load_weights(setting.model, Path(setting.weights), data.classes)
    network = ask_as(network, size=size, scales=None, crf=False)
    for split, dataset in (("val", data.val), ("test", data.test)):
        if dataset is None:
            continue
        scores = evaluate(
            network, dataset, device=setting.device, progress=shown or False, description=f"start: {split}"
        )
        say(shown, f"start: {split} mIoU {100 * scores.dataset_miou:.2f} %")
        found[split] = scores.to_json()
    write_json(path, found)
    return found
