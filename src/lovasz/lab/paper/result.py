"""The folder of one experiment: its configuration is kept when resumed, its result is one JSON with all that it needs.

Apart from the sections, so that every result says the same (config, seed, environment, time, scores, pictures), and
every section of the page too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch

from lovasz.lab.config import hash_of, read_json, write_json
from lovasz.lab.data import PUBLISHED
from lovasz.lab.environment import describe_environment
from lovasz.lab.errors import LabError
from lovasz.lab.run_folder import hold, release
from lovasz.lab.splits import contents_difference

VERSION = 1
RESULT = "result.json"
STATE = "state.json"
FROZEN = ", batch normalisation with the statistics of the start"  # of --freeze-batch-norm, in the setting sentences


@dataclass
class Experiment:
    """One run of one section in one folder, from `open` to `finish`.

    inputs: "data", what `contents_of` says of them, and "weights", a hash: the configuration has their names alone.
    state: what was computed so far; written by `keep`, so that a killed run goes on from there.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    state: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    inputs: dict[str, Any] = field(default_factory=dict)
    _clock: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(
        cls,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
        *,
        resume: bool,
        data: Mapping[str, Any] | None = None,
        weights: str | Path | None = None,
    ) -> Experiment:
        """Make the folder, or go on in it. data: what `contents_of` says; weights: the file that it starts from.

        A folder in which nothing was computed yet begins anew. Raises LabError for one that holds something when
        `resume` is off, that holds another configuration, or results of other data or weights, or that another process
        works in, until its `finish` or its end.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise LabError(f"{folder}: the output folder is a file. Choose another --out.")
        inputs = {"data": data, "weights": None if weights is None else hash_of(Path(weights))}
        experiment = cls(name, folder, config, inputs={key: value for key, value in inputs.items() if value})
        begun = folder.is_dir() and not _untouched(folder)
        if begun and not resume:
            raise LabError(
                f"{folder}: the output folder exists and is not empty. Add --resume to go on in it, or choose another "
                "--out."
            )
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
        try:
            if begun:
                experiment._take_up()
            experiment.keep()
        except LabError:
            release(folder)
            raise
        return experiment

    def _take_up(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            raise LabError(f"{self.folder}: no {STATE}, so nothing to resume here. Choose another --out.")
        before = read_json(path)
        if not isinstance(before, dict) or before.get("name") != self.name or not isinstance(before.get("state"), dict):
            raise LabError(f"{path}: not the state of `lovasz paper {self.name}`. Choose another --out.")
        theirs = before.get("config")
        for key, value in self.config.items():
            if not isinstance(theirs, dict) or theirs.get(key) != value:
                there = theirs.get(key) if isinstance(theirs, dict) else theirs
                raise LabError(
                    f"{path}: cannot resume with another configuration, {key}: {there!r} there, {value!r} now. "
                    "Use the old value or another --out."
                )
        seconds = before.get("seconds", 0.0)
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise LabError(f"{path}: seconds is {seconds!r}, expected a number. Correct it, or choose another --out.")
        self.state, self.seconds = before["state"], float(seconds)
        self.inputs = same_inputs(path, before, self.inputs, self.config.get("weights"))

    def keep(self) -> None:
        """Write the state; a kill loses what came after the last call."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        document = {"name": self.name, "config": dict(self.config), "inputs": self.inputs, "seconds": self.seconds}
        write_json(self.folder / STATE, document | {"state": self.state})

    def finish(
        self,
        scores: Mapping[str, Any],
        pictures: Mapping[str, str],
        *,
        device: torch.device | None = None,
        last: bool = True,
    ) -> Path:
        """Write result.json and return its path. pictures: file name in the folder to its caption; device: that of the
        computation, None: the CPU; last: False where more will follow, so that others are still kept out."""
        self.keep()
        path = self.folder / RESULT
        document = {
            "version": VERSION,
            "name": self.name,
            "config": dict(self.config),
            "environment": describe_environment(device or torch.device("cpu")),
            "seconds": self.seconds,
            "scores": dict(scores),
            "pictures": dict(pictures),
        }
        write_json(path, document)
        if last:
            release(self.folder)
        return path


def same_inputs(path: Path, before: Any, inputs: Mapping[str, Any], weights: Any) -> dict[str, Any]:
    """The inputs of a state and these together. before: what the state at `path` holds; weights: the file's name.

    Raises LabError where the data or the weights are others by now.
    """
    if not isinstance(before, dict) or not isinstance(before.get("state"), dict):
        raise LabError(f"{path}: not the state of an experiment. Choose another --out.")
    # Earlier versions kept no inputs, or the data of `finetune` in its state.
    changed = None
    try:
        noted = {"data": before["state"].get("data")} | (before.get("inputs") or {})
        kept = {key: value for key, value in noted.items() if value}
        if "data" in kept and "data" in inputs:
            changed = contents_difference(kept["data"], inputs["data"])
        hashes = {one["weights"] for one in (kept, inputs) if "weights" in one}
    except (KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path}: its inputs are none of an experiment ({error!r}). Choose another --out.") from error
    if changed:
        raise LabError(
            f"{path}: cannot resume with other data, {changed}. What was computed on both could not be compared: "
            "put the images and masks back as they were, or choose another --out."
        )
    if len(hashes) > 1:
        raise LabError(
            f"{path}: cannot resume with other weights, the file {weights} has changed. Put the one back that was "
            "there, or choose another --out."
        )
    return kept | dict(inputs)


def _untouched(folder: Path) -> bool:
    """Whether nothing is there but states in which nothing is computed: of a start that failed."""
    try:
        return all(
            file.name == STATE and not read_json(file)["state"] for file in folder.rglob("*") if not file.is_dir()
        )
    except (LabError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class Row:
    """One number: what it is, the paper's, ours, and a note where one is needed."""

    what: str
    paper: str
    ours: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A further table of a section, below its rows: the cells are text already."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One section of the page. comparable: what may be compared with the paper and what may not, in plain words.

    pictured: what follows the caption of the picture of this name. seconds, machine: what the computation took, and
    where, if that is not the result's own, as with earlier runs.
    """

    title: str
    command: str
    setting: str
    rows: Sequence[Row]
    comparable: str
    seen: str = ""
    tables: Sequence[Table] = ()
    pictured: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    machine: str = ""


def captions_of(section: Section, result: Mapping[str, Any]) -> dict[str, str]:
    """The whole caption of each picture of a result, by the picture's name."""
    return {name: caption + section.pictured.get(name, "") for name, caption in result["pictures"].items()}


def read_result(path: Path) -> dict[str, Any]:
    """A result, checked as far as every section needs it. Raises LabError naming the file and the field."""
    result = read_json(path)
    expected = {"name": str, "config": dict, "environment": dict, "seconds": int | float, "scores": dict}
    if not isinstance(result, dict) or result.get("version") != VERSION:
        raise LabError(f"{path}: expected a result of version {VERSION}; run the experiment again.")
    for name, kind in (expected | {"pictures": dict}).items():
        if not isinstance(result.get(name), kind):
            raise LabError(f"{path}: {name} is {result.get(name)!r}; run the experiment again.")
    if not math.isfinite(result["seconds"]):
        raise LabError(f"{path}: seconds is {result['seconds']}; run the experiment again.")
    return result


def number(value: Any) -> str:
    """A value of an option as text, a float as short as it can be without becoming another."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def data_options(data: str) -> dict[str, Any]:
    """{"data_options": {option: text}} of a specification that has options, by name; results hold no paths."""
    _, mark, query = data.rpartition("?")
    pairs = (part.partition("=") for part in filter(None, query.split("&"))) if mark else ()
    options = {}
    for name, _, value in sorted(pairs):
        elsewhere = name == "sbd" or (name in ("images", "masks") and Path(unquote(value)).is_absolute())
        options[name] = Path(unquote(value)).name if elsewhere else value
    return {"data_options": options} if options else {}


def data_words(config: Mapping[str, Any]) -> str:
    """The data set and its options, as a sentence has them."""
    options = ", ".join(f"{name}={value}" for name, value in config.get("data_options", {}).items())
    return f"{config['data']} ({options})" if options else config["data"]


def spec_of(name: str, options: Mapping[str, str] | None = None) -> str:
    """How a data set of this name is given to `--data`, its places left open: results hold no paths."""
    place = name if name == "shapes" else f"{name}:PATH" if name in PUBLISHED else f"folder:{name}"
    given = "&".join(f"{key}={'PATH' if key == 'sbd' else value}" for key, value in (options or {}).items())
    return f"{place}?{given}" if given else place


def matplotlib_pyplot() -> Any:
    """matplotlib's pyplot, drawing into files. Raises LabError where the extra `paper` is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise LabError(
            "the paper's figures need matplotlib, which is not installed. Run: pip install 'lovasz[paper]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
