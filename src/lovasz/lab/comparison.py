"""Several losses and seeds from one start under one budget; comparison.json is written after each run.

Apart from `training`, which does one run: here stands what makes runs comparable, and what a killed comparison keeps.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from lovasz.lab.config import ComparisonConfig, read_json, write_json
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.environment import describe_environment
from lovasz.lab.errors import Diverged, LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.examples import draw_examples, largest_differences
from lovasz.lab.losses import LossSpec
from lovasz.lab.models import load_weights
from lovasz.lab.models.resized import ask_as
from lovasz.lab.processes import Team, together
from lovasz.lab.progress import bar, display, say
from lovasz.lab.run_folder import check_folder, claimed, of_another_command, read_record
from lovasz.lab.training import (
    Data,
    Start,
    check_machine,
    check_run,
    check_shareable,
    find_start,
    hash_of_start,
    run_once,
    training_class_weights,
)

SET_PER_RUN = ("loss", "seed", "out")


def compare(config: ComparisonConfig, *, progress: Progress | bool = True) -> Path:
    """Train with each loss and seed from the same start; returns the path of OUT/comparison.json.

    For one seed all losses share the start, the order of images, their augmentation and the dropout of each step;
    between seeds these differ (and so does the start, unless it is a weights file).

    comparison.json is written anew after each run, so a kill loses at most the epoch that is running. With
    `config.resume`, finished runs are kept, the unfinished one goes on from its last checkpoint, and losses and seeds
    may be added. A loss that diverges takes no other its turn: Diverged is raised when all have had theirs and what
    they gave is written. Raises LabError when OUT exists and `resume` is off, when it holds another configuration
    (naming the field), and for everything that a run may raise.
    """
    out = Path(config.out)
    config = with_earlier(config)
    specs = _parse_losses(config.losses)
    check_shareable(config.run, specs)
    check_machine(config.run)
    run = config.run
    known = config.to_json() | hash_of_start(run)
    work = config.to_json() | {"task": "compare", "out": config.out, "resume": config.resume}
    with together(run.devices, run.device, run.threads, work) as team:
        device = team.device(run.device)
        team.let_first(lambda: check_folder(out, known, resume=config.resume))  # before the data are read
        data = Data.open(run)
        known["data"] = data.contents()
        with display(progress) as shown, ExitStack() as held:
            say(shown, data.train.describe())
            check_run(run, specs, data, out, known, resume=config.resume, progress=shown, team=team)
            team.meet()  # all have read the earlier configuration, and found the input usable
            team.let_first(lambda: held.enter_context(claimed(out, known, resume=config.resume)))
            data = data.for_sampler(run, out, shown, team)
            return _Comparison(config, out, known, specs, device, data, shown, team).run()


class _Comparison:
    """The state of one comparison while it runs."""

    def __init__(
        self,
        config: ComparisonConfig,
        out: Path,
        known: dict[str, Any],
        specs: list[LossSpec],
        device: torch.device,
        data: Data,
        progress: Progress | None,
        team: Team,
    ) -> None:
        self.config, self.out, self.known, self.specs, self.device = config, out, known, specs, device
        self.data, self.progress, self.team = data, progress, team
        self.path = out / "comparison.json"
        earlier = _read_earlier(self.path, progress)
        self.created = earlier.get("created") or datetime.now(UTC).isoformat(timespec="seconds")
        self.initial = earlier.get("initial")
        self.examples: list[dict[str, Any]] = earlier.get("examples", [])
        self.parameters: int = earlier.get("parameters", 0)
        self.start: Start | None = None
        self.pretraining: list[dict[str, Any]] = []
        self.records: dict[tuple[str, int], dict[str, Any]] = {}
        for spec in specs:
            for seed in config.seeds:
                finished = self._folder(spec, seed) / "run.json"
                if finished.is_file():
                    self.records[str(spec), seed] = read_record(finished)
        team.meet()  # before anything is written

    def run(self) -> Path:
        missing = [(s, seed) for seed in self.config.seeds for s in self.specs if (str(s), seed) not in self.records]
        if self.records:
            to_go = ", ".join(f"{spec} with seed {seed}" for spec, seed in missing)
            why = f": {to_go} (every loss of the folder gets every seed)" if missing else ""
            say(self.progress, f"{len(self.records)} finished runs are kept, {len(missing)} to go{why}.")
        total, diverged = len(missing) + len(self.records), []
        with bar(total, "runs", self.progress, completed=len(self.records)) as done:
            weights = None
            if any(spec.needs_class_weights for spec, _ in missing):
                weights = training_class_weights(self.data.train, self.progress)
            for seed in self.config.seeds:
                shared = self.config.run.replace(seed=seed)
                start = find_start(
                    shared,
                    self.data,
                    self.out,
                    self.known,
                    device=self.device,
                    resume=self.config.resume,
                    progress=self.progress,
                    team=self.team,
                )
                self._started(start)
                for spec in (spec for spec, of in missing if of == seed):
                    try:
                        self.records[str(spec), seed] = run_once(
                            shared.replace(loss=str(spec)),
                            self.data,
                            start,
                            weights if spec.needs_class_weights else None,
                            self._folder(spec, seed),
                            device=self.device,
                            resume=self.config.resume,
                            progress=self.progress,
                            description=f"{spec}, seed {seed}",
                            team=self.team,
                        )
                    except Diverged as error:
                        if self.team.size > 1:  # the others may wait for this one
                            raise
                        diverged.append(f"seed {seed}, {error}")
                        say(self.progress, diverged[-1])
                    self.write()
                    done.advance()
        if self.team.first:
            self.examples = self._draw_examples()
        self.write()
        if diverged:
            raise Diverged("\n".join(diverged))
        return self.path

    def write(self) -> None:
        """comparison.json as it stands."""
        if not self.team.first:
            return
        assert self.start is not None
        info, run = self.data.train.info, self.config.run
        order = [(str(spec), seed) for spec in self.specs for seed in self.config.seeds]
        splits = {"train": self.data.train, "val": self.data.val, "test": self.data.test}
        document = {
            "version": 1,
            "command": self.config.command,
            "created": self.created,
            "dataset": {
                "spec": run.data,
                "name": info.name,
                "classes": list(info.classes),
                "palette": [list(colour) for colour in info.palette],
                "images": {name: None if split is None else len(split) for name, split in splits.items()},
                **self.known["found"],
            },
            "model": run.model,
            "parameters": self.parameters,
            "start": {"kind": self.start.kind, "detail": self.start.detail},
            "config": {name: value for name, value in run.to_json().items() if name not in SET_PER_RUN},
            "environment": describe_environment(self.device),
            "initial": self.initial,
            "pretraining": self.pretraining,
            "losses": [str(spec) for spec in self.specs],
            "seeds": list(self.config.seeds),
            "runs": [self._entry(*key) for key in order if key in self.records],
            "examples": self.examples,
        }
        write_json(self.path, document)

    def _started(self, start: Start) -> None:
        """Scores of the start, once: evaluated for a weights file, known from the first phase for a pretrained one."""
        if start.pretraining is not None:
            keys = ("seed", "history", "scores", "seconds")
            self.pretraining.append({key: start.pretraining[key] for key in keys})
        if self.start is not None:
            return
        self.start = start
        network = start.build()
        self.parameters = sum(p.numel() for p in network.parameters())
        if self.initial is None and start.kind == "pretraining":
            self.initial = start.initial
        elif self.initial is None and start.kind == "weights":
            self.initial = {"val": self._score_start(network, self.data.val), "test": None}
            if self.data.test is not None:
                self.initial["test"] = self._score_start(network, self.data.test)
        self.write()

    def _score_start(self, network: torch.nn.Module, dataset: SegmentationDataset) -> dict[str, Any]:
        scores = evaluate(
            ask_as(network, size=self.config.run.size, scales=None, crf=False),
            dataset,
            device=self.device,
            progress=self.progress or False,
            description=f"start: {dataset.split}",
            team=self.team,
        )
        say(self.progress, f"start: {dataset.split} mIoU {100 * scores.dataset_miou:.2f} %")
        return scores.to_json()

    def _folder(self, spec: LossSpec, seed: int) -> Path:
        return self.out / spec.slug / f"seed-{seed}"

    def _entry(self, loss: str, seed: int) -> dict[str, Any]:
        record = {
            name: value for name, value in self.records[loss, seed].items() if name not in ("images", "parameters")
        }
        folder = self._folder(LossSpec.parse(loss), seed).relative_to(self.out)
        return record | {"weights": (folder / record["weights"]).as_posix()}

    def _draw_examples(self) -> list[dict[str, Any]]:
        """Of the first seed; where the runs differ, the reader should see how."""
        seed = self.config.seeds[0]
        finished = [spec for spec in self.specs if (str(spec), seed) in self.records]
        images = {str(spec): self.records[str(spec), seed]["images"] for spec in finished}
        chosen = largest_differences(images, self.config.examples)
        models = {}
        for spec in finished:
            path = self._folder(spec, seed) / "model.safetensors"
            network = load_weights(self.config.run.model, path, self.data.classes)
            models[str(spec)] = (spec.slug, ask_as(network, size=self.config.run.size, scales=None, crf=False))
        return draw_examples(chosen, models, images, self.data.val, self.out, self.device)


def _read_earlier(path: Path, progress: Progress | None) -> dict[str, Any]:
    """comparison.json as it stands; {} where it is damaged, for nearly all of it is in the records of the runs too."""
    if not path.is_file():
        return {}
    try:
        earlier = read_json(path)
    except LabError:
        earlier = None
    if not isinstance(earlier, dict):
        say(progress, f"{path}: is damaged, and is made anew.")
        return {}
    return earlier


def _parse_losses(losses: tuple[str, ...]) -> list[LossSpec]:
    specs = [LossSpec.parse(loss) for loss in losses]
    names = [str(spec) for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise LabError(f"losses: {name!r} stands twice; name each loss once.")
    return specs


def with_earlier(config: ComparisonConfig) -> ComparisonConfig:
    """With the losses and seeds of the folder that is resumed: what is there stays, what is new is added."""
    path = Path(config.out) / "config.json"
    if not config.resume:
        return config
    if path.is_file():
        before = read_json(path)
        if isinstance(before, dict) and "run" in before and "losses" not in before:
            raise LabError(of_another_command(path.parent, "train"))
        try:
            losses = {str(LossSpec.parse(loss)): None for loss in [*before["losses"], *config.losses]}
            seeds = dict.fromkeys([*before["seeds"], *config.seeds])
            same = {name: before["run"][name] for name in SET_PER_RUN}  # what each run replaces cannot differ
        except (KeyError, TypeError, AttributeError) as error:
            raise LabError(
                f"{path}: not the configuration of a comparison ({error!r}). Choose another --out."
            ) from error
        config = replace(config, run=config.run.replace(**same), losses=tuple(losses), seeds=tuple(seeds))
    return replace(config, command=_repeating(config.command, config.losses, config.seeds))


def _repeating(command: str, losses: Sequence[str], seeds: Sequence[int]) -> str:
    """The command line that makes the whole comparison anew: without --resume, with all losses and seeds."""
    if not command.startswith("lovasz compare"):  # a caller of the library may say anything
        return command
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in ("--losses", "--seeds"):
            next(words, None)
        elif word != "--resume" and not word.startswith(("--losses=", "--seeds=")):
            kept.append(word)
    several = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")  # "7" would be a count
    count = str(len(seeds)) if list(seeds) == list(range(len(seeds))) else several
    return shlex.join([*kept, "--losses", ",".join(losses), "--seeds", count])
