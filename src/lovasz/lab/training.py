"""One run from its configuration to its folder: data, start, training, final scores, weights.

Apart from `fitting`, which is the loop itself: here stands what is opened before it and written after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from lovasz.lab.budget import budget, fewer_images, never_switches
from lovasz.lab.config import RunConfig, hash_of, write_json
from lovasz.lab.data import IGNORE_INDEX, SegmentationDataset
from lovasz.lab.environment import describe_environment, resolve_device
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import Scores, evaluate
from lovasz.lab.findings import examine
from lovasz.lab.fitting import fit
from lovasz.lab.losses import SHAREABLE, LossSpec, class_weights
from lovasz.lab.models import brings_weights, create_model, load_weights, new_classes, save_weights
from lovasz.lab.models.resized import ask_as
from lovasz.lab.processes import ALONE, Team, launched, together
from lovasz.lab.progress import display, say, tracked
from lovasz.lab.run_folder import check_folder, claimed, read_record
from lovasz.lab.seen import training_images
from lovasz.lab.splits import Data

NOTHING_TO_FREEZE = (
    "freeze_batch_norm: a network of random weights has no statistics to keep. Start from --weights or from "
    "--pretrain-epochs of cross-entropy, or leave --freeze-batch-norm out."
)


@dataclass(frozen=True)
class Start:
    """Where training starts: `build()` gives a new network with the same weights each time."""

    kind: str  # "weights", "pretraining" or "random"
    detail: str
    build: Callable[[], nn.Module]
    initial: dict[str, Any] | None = None  # its scores, where they are known already
    pretraining: dict[str, Any] | None = None  # the run of the first phase


def train(config: RunConfig, *, resume: bool = False, progress: Progress | bool = True) -> Path:
    """Train one network with one loss and one seed; returns the path of OUT/run.json.

    With `config.devices` above 1 this process starts the others, or is one of those that torchrun started, and the
    first of them writes.

    Writes OUT/config.json, run.json (history, scores, times), model.safetensors and its JSON, checkpoints/, logs/.
    With `resume`, goes on in an existing OUT and ends with the same weights as an uninterrupted run (same device and
    threads); without it, an existing folder raises LabError.
    """
    spec = LossSpec.parse(config.loss)
    if not config.out:
        raise LabError("out: a run needs a folder to write to.")
    check_shareable(config, [spec])
    check_machine(config)
    folder = Path(config.out)
    finished = folder / "run.json"
    if resume and finished.is_file() and launched() is None:
        _check_finished(config, folder)
        with display(progress) as shown:
            say(shown, f"{finished} is there: the run is finished.")
        return finished
    work = {"task": "train", "run": config.to_json(), "resume": resume}
    with together(config.devices, config.device, config.threads, work) as team:
        return _train(config, spec, folder, team, resume=resume, progress=progress)


def _train(
    config: RunConfig, spec: LossSpec, folder: Path, team: Team, *, resume: bool, progress: Progress | bool
) -> Path:
    device = team.device(config.device)
    finished = folder / "run.json"
    known: dict[str, Any] = {"run": config.to_json()} | hash_of_start(config)
    team.let_first(lambda: check_folder(folder, known, resume=resume))  # before the data are read, which may take long
    if team.tell(finished.is_file()):
        team.let_first(lambda: _check_finished(config, folder))
        return finished
    data = Data.open(config)  # it may show a bar of its own, for scanning masks
    known["data"] = data.contents()
    with display(progress) as shown, ExitStack() as held:
        say(shown, data.train.describe())
        check_run(config, [spec], data, folder, known, resume=resume, progress=shown, team=team)
        team.let_first(lambda: held.enter_context(claimed(folder, known, resume=resume)))
        data = data.for_sampler(config, folder, shown, team)
        start = find_start(config, data, folder, known, device=device, resume=resume, progress=shown, team=team)
        weights = training_class_weights(data.train, shown) if spec.needs_class_weights else None
        record = run_once(
            config,
            data,
            start,
            weights,
            folder,
            device=device,
            resume=resume,
            progress=shown,
            description=str(spec),
            team=team,
        )
        record |= {
            "start": {"kind": start.kind, "detail": start.detail},
            "config": config.to_json(),
            "environment": describe_environment(device),
        }
        if team.first:
            write_json(finished, record)
    return finished


def _check_finished(config: RunConfig, folder: Path) -> None:
    """LabError where a finished run is of another configuration; data are opened only where they lie elsewhere now."""
    known = {"run": config.to_json()} | hash_of_start(config)
    before, _ = check_folder(folder, known, resume=True)
    read_record(folder / "run.json")
    if before is not None and before["run"]["data"] != config.data:
        check_folder(folder, known | {"data": Data.open(config).contents()}, resume=True)


def check_shareable(config: RunConfig, specs: list[LossSpec]) -> None:
    """Raise LabError where `global_batch` would change nothing."""
    if config.global_batch and not any(spec.shareable for spec in specs):
        names = ", ".join(str(spec) for spec in specs)
        raise LabError(
            f"global_batch: {names} has no loss of a whole batch that processes can share; those are "
            f"{', '.join(SHAREABLE)}. A mean over pixels or images needs no sharing, for DDP averages: leave "
            "--global-batch out."
        )


def check_machine(config: RunConfig) -> None:
    """Raise LabError where the device is not there, or cannot compute in the precision."""
    device = resolve_device(config.device)
    if config.precision == "16-mixed" and device.type != "cuda":
        raise LabError(f"precision: '16-mixed' needs a CUDA device, this run is on {device.type}; use 'bf16-mixed'.")


def check_run(
    config: RunConfig,
    specs: list[LossSpec],
    data: Data,
    folder: Path,
    known: dict[str, Any],
    *,
    resume: bool,
    progress: Progress | None,
    team: Team,
) -> None:
    """Raise LabError, before the folder is claimed, for what would stop the runs or leave one without its loss.

    known: what `claimed` will be told of the folder; it gets what the files tell of the scores (see `findings`).
    """
    frozen = config.freeze_batch_norm and not config.pretrain_epochs  # the first phase learns what is frozen after it
    direct = config.replace(pretrain_epochs=0, freeze_batch_norm=frozen)
    find_start(direct, data, folder, known, device=torch.device("cpu"), resume=False, progress=None).build()
    images = len(data.train)
    steps = budget(config, images).steps
    for told in filter(None, (never_switches(spec, steps) for spec in specs)):
        if not resume:
            raise LabError(told)
        say(progress, told)  # begun by an earlier version, it may be finished
    few = fewer_images(config, images)
    if few:
        say(progress, few)
    workers = config.devices * config.num_workers
    team.let_first(lambda: examine(data.splits, folder, known, resume=resume, workers=workers, progress=progress))


def hash_of_start(config: RunConfig) -> dict[str, str]:
    """{"weights": the hash of the file that runs start from}, for config.json; {} where there is none."""
    found = None if config.weights is None else hash_of(Path(config.weights))
    return {} if found is None else {"weights": found}


def find_start(
    config: RunConfig,
    data: Data,
    folder: Path,
    known: Mapping[str, Any],
    *,
    device: torch.device,
    resume: bool,
    progress: Progress | None,
    team: Team = ALONE,
) -> Start:
    """The start of all losses of one seed: a weights file, a first phase of cross-entropy (trained here), or random.

    Outputs for classes that a weights file lacks are drawn by the seed. known: of the folder, with the file's hash.
    """
    if config.weights is not None:
        path = Path(config.weights)

        def build() -> nn.Module:
            if "weights" in known and hash_of(path) != known["weights"]:
                raise LabError(f"{path}: has changed since this command began. Put the file back, then use --resume.")
            return load_weights(config.model, path, data.classes, draw_missing=config.seed)

        drawn = ", ".join(new_classes(path, data.classes))
        if not drawn:
            return Start("weights", path.name, build)
        say(progress, f"{path.name} has no output for {drawn}: drawn by seed {config.seed}, these start anew.")
        return Start("weights", f"{path.name}; anew: {drawn}", build)

    def random() -> nn.Module:
        torch.manual_seed(config.seed)
        return create_model(config.model, len(data.classes))

    if not config.pretrain_epochs and brings_weights(config.model):
        return Start("weights", config.model, random)
    if not config.pretrain_epochs:
        if config.freeze_batch_norm:
            raise LabError(NOTHING_TO_FREEZE)
        return Start("random", f"seed {config.seed}", random)
    first = config.replace(
        loss="cross_entropy", epochs=config.pretrain_epochs, pretrain_epochs=0, keep="last", freeze_batch_norm=False
    )
    place = folder / "pretraining" / f"seed-{config.seed}"
    finished = place / "run.json"
    if team.tell(finished.is_file()):
        record = read_record(finished)
    else:
        name = f"pretraining, seed {config.seed}"
        record = run_once(
            first,
            data,
            Start("random", f"seed {config.seed}", random),
            None,
            place,
            device=device,
            resume=resume,
            progress=progress,
            description=name,
            team=team,
        )
    detail = f"{config.pretrain_epochs} epoch{'s' if config.pretrain_epochs > 1 else ''} of cross-entropy"
    weights = place / "model.safetensors"
    return Start(
        "pretraining", detail, lambda: load_weights(config.model, weights, data.classes), record["scores"], record
    )


def run_once(
    config: RunConfig,
    data: Data,
    start: Start,
    weights: Tensor | None,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    progress: Progress | None,
    description: str,
    team: Team = ALONE,
) -> dict[str, Any]:
    """Train, write the weights, score on val and test, write run.json, whose presence says that the run is finished.

    weights: class weights where the loss needs them. Returns run.json: an entry of "runs" in comparison.json, with the
    mean IoU of each validation image under "images".
    """
    spec = LossSpec.parse(config.loss)
    loss = spec.build(len(data.classes), IGNORE_INDEX, weights, team.group() if config.global_batch else None)
    model = start.build()
    view, seen = data.training_view(config), training_images(data.train, config)

    def score(dataset: SegmentationDataset, network: nn.Module) -> Scores:
        title = f"{description}: {dataset.split}"
        asked = ask_as(network, size=config.size, scales=None, crf=False)
        return evaluate(asked, dataset, device=device, progress=progress or False, description=title, team=team)

    result = fit(
        config,
        model,
        loss,
        view,
        folder,
        device=device,
        validate=lambda network: score(data.val, network),
        image_classes=data.image_classes,
        resume=resume,
        progress=progress,
        description=description,
        team=team,
    )
    info, path = data.train.info, folder / "model.safetensors"

    def save(**extra: Any) -> None:
        described = {"model_name": config.model, "classes": info.classes, "palette": info.palette}
        extra = {
            "loss": str(spec),
            "seed": config.seed,
            "data": info.name,
            "size": config.size,
            "training": seen,
        } | extra
        if team.first:
            save_weights(model, path, **described, extra=extra)

    save()  # what was trained is kept, whatever stops the scoring
    val = result.final_scores or score(data.val, model)
    test = score(data.test, model) if data.test is not None else None
    scores = {"val": val.to_json(), "test": None if test is None else test.to_json()}
    save(scores=scores)
    record = {
        "loss": str(spec),
        "seed": config.seed,
        "history": result.history,
        "scores": scores,
        "seconds_per_step": result.seconds_per_step,
        "loss_seconds_per_step": result.loss_seconds_per_step,
        "epoch": result.epoch,
        "steps": result.steps,
        "batch_size": result.batch_size,
        "seconds": result.seconds,
        "weights": path.name,
        "images": dict(val.images),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    record = team.tell(record)  # after the first one has written the weights
    if team.first:
        write_json(folder / "run.json", record)
    last = record["scores"]
    of = {"best": f" of epoch {result.epoch}", "average": " of the averaged weights"}.get(config.keep, "")
    line = f"{description}: val mIoU{of} {100 * last['val']['dataset_miou']:.2f} %"
    say(progress, line + (f", test mIoU {100 * last['test']['dataset_miou']:.2f} %" if last["test"] else ""))
    return record


def training_class_weights(dataset: SegmentationDataset, progress: Progress | None = None) -> Tensor:
    """ENet's weights, (C,) float32, from one pass over the training masks."""
    counts = torch.zeros(256, dtype=torch.int64)
    for i in tracked(range(len(dataset)), len(dataset), "counting classes", progress):
        counts += torch.bincount(dataset[i].mask.flatten().long(), minlength=256)
    counts = counts[: len(dataset.info.classes)]
    if not counts.sum():
        raise LabError(f"data set {dataset.info.name}: every training pixel is void, so classes have no frequencies.")
    return class_weights(counts.double() / counts.sum())
