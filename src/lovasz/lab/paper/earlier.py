"""Runs of `lovasz train` and `lovasz compare` as entries of a table: what was run, and what it scored.

Apart from `finetune`, because these files lie in other folders, come from other machines and may be older.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lovasz.lab.config import MAY_DIFFER, RunConfig, read_json
from lovasz.lab.errors import LabError
from lovasz.lab.paper.result import data_options

ENTRY = {"loss", "batch_size", "learning_rate", "sampler", "seed", "epochs", "val", "test", "same"}
VARIED = {"loss", "batch_size", "learning_rate", "sampler", "seed", "epochs"}
OF_THE_MACHINE = {*MAY_DIFFER, "device", "devices", "threads", "validate_every"}
SCORES = ("dataset_miou", "image_miou", "pixel_accuracy", "per_class_iou")


def entry_of(record: Mapping[str, Any], config: RunConfig, source: str) -> dict[str, Any]:
    """One line of the tables from a run.json and its configuration.

    Raises LabError naming `source` for a record without scores on val.
    """
    try:
        scores = record["scores"]
        environment = record.get("environment") or {}
        return {
            "loss": config.loss,
            "batch_size": config.batch_size * config.devices,
            "learning_rate": config.learning_rate,
            "sampler": config.sampler,
            "seed": config.seed,
            "epochs": config.epochs,
            "val": {name: scores["val"][name] for name in SCORES},
            "test": {name: scores["test"][name] for name in SCORES} if scores.get("test") else None,
            "curve": _curve(record, "dataset_miou"),
            "image_curve": _curve(record, "image_miou"),
            "batch_curve": _curve(record, "batch_miou"),
            "steps": record["steps"],
            "seconds": record["seconds"],
            "machine": machine(environment),
            "source": source,
            "same": same_of(config),
        }
    except (KeyError, TypeError) as error:
        raise LabError(f"{source}: not the record of a finished run ({error!r}).") from error


def same_of(config: RunConfig) -> dict[str, Any]:
    """What all runs of a grid share: every field but those that a grid varies or that are of the machine."""
    kept = {name: value for name, value in config.to_json().items() if name not in VARIED | OF_THE_MACHINE}
    kept["weights"] = Path(config.weights).name if config.weights else None
    # Options may stand in the specification or apart; a path in it is of the machine.
    options = data_options(config.data).get("data_options", {})
    kept["data"] = data_name(config.data)
    options = {name: str(value) for name, value in sorted((options | kept["data_options"]).items())}
    kept["data_options"] = options | ({"sbd": Path(options["sbd"]).name} if "sbd" in options else {})
    return kept


def _curve(record: Mapping[str, Any], score: str) -> list[float | None]:
    """The score on val after each epoch, None where there was no validation or an older version left it out."""
    return [None if entry["val"] is None else entry["val"].get(score) for entry in record["history"]]


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a run.json, a comparison.json, the result of a grid, or of all runs below a folder, by path.

    A run.json of `compare` has neither a configuration nor a machine: those of the folder above it are taken, from
    config.json and comparison.json. A result is taken as it is, entry by entry: so a grid can be gone on with where
    only its result was kept. Raises LabError naming the file.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("run.json") if "pretraining" not in file.parts)
        if not files:
            raise LabError(f"{path}: no run.json in this folder.")
        return [entry for file in files for entry in read_entries(file)]
    document = read_json(path)
    if not isinstance(document, dict) or not ({"runs", "config"} <= document.keys() or "scores" in document):
        raise LabError(f"{path}: neither a run.json nor a comparison.json of the lab, nor the result of a grid.")
    if "name" in document:
        return _entries_of_result(document, path)
    if "runs" in document:
        environment = {"environment": document.get("environment")}
        return [
            entry_of({**environment, **run}, _config(document["config"], run, path), _source(path))
            for run in document["runs"]
        ]
    config = document.get("config")
    if config is None:
        above = next((folder / "config.json" for folder in path.parents if (folder / "config.json").is_file()), None)
        if above is None:
            raise LabError(f"{path}: no configuration in it, and no config.json in a folder above.")
        config = read_json(above).get("run") or {}
        beside = above.with_name("comparison.json")
        environment = read_json(beside).get("environment") if beside.is_file() else None
        document = {"environment": environment, **document}
    return [entry_of(document, _config(config, document, path), _source(path))]


def _source(path: Path) -> str:
    """The file with the folders of its loss and seed; results are published, so not the whole path."""
    return "/".join(path.parts[-3:])


def _entries_of_result(document: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    scores = document.get("scores")
    entries = scores.get("runs") if isinstance(scores, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.keys() >= ENTRY for entry in entries):
        raise LabError(f"{path}: the result of {document['name']!r}, which has no runs that a grid could take.")
    return entries


def read_start(paths: Sequence[Path]) -> dict[str, Any] | None:
    """The scores of the start on val and test, from the first comparison.json or result that has them."""
    for path in (Path(path) for path in paths):
        document = read_json(path) if path.suffix == ".json" else {}
        initial = document.get("initial") or document.get("scores", {}).get("start")
        if initial:
            return {name: initial.get(name) for name in ("val", "test")}
    return None


def machine(environment: Mapping[str, Any]) -> str:
    """The device, or the processor and its threads, as the page says it."""
    if environment.get("device", "cpu") != "cpu":
        return str(environment["device"])
    threads = environment.get("threads", "?")
    return f"{environment.get('processor', 'unknown processor')}, {threads} thread{'s' if threads != 1 else ''}"


def _config(values: Mapping[str, Any], run: Mapping[str, Any], path: Path) -> RunConfig:
    try:
        return RunConfig.from_json({**values, "loss": run["loss"], "seed": run["seed"], "out": ""})
    except (KeyError, TypeError, LabError) as error:
        raise LabError(f"{path}: its configuration is not one of a run ({error}).") from error


def data_name(data: str) -> str:
    """`camvid:PATH` -> `camvid`; of a folder its own name, as the data set is called."""
    kind, _, place = (data.rpartition("?")[0] or data).partition(":")
    return Path(place).name if kind == "folder" else kind
