"""The folder of one experiment: its configuration is kept when resumed, its result is one JSON with all that it needs.

Apart from the sections, so that every result says the same (config, seed, environment, time, scores, pictures), and
every section of the page too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lovasz.lab.config import read_json, write_json
from lovasz.lab.data import PUBLISHED
from lovasz.lab.environment import describe_environment
from lovasz.lab.errors import LabError

VERSION = 1
RESULT = "result.json"
STATE = "state.json"


@dataclass
class Experiment:
    """One run of one section in one folder, from `open` to `finish`.

    state: what was computed so far; written by `keep`, so that a killed run goes on from there.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    state: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    _clock: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(cls, name: str, folder: Path, config: Mapping[str, Any], *, resume: bool) -> Experiment:
        """Make the folder, or go on in it.

        Raises LabError for a folder that holds something when `resume` is off, or holds another configuration.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise LabError(f"{folder}: the output folder is a file. Choose another --out.")
        experiment = cls(name, folder, config)
        if folder.is_dir() and any(folder.iterdir()):
            if not resume:
                raise LabError(
                    f"{folder}: the output folder exists and is not empty. Add --resume to go on in it, or choose "
                    "another --out."
                )
            experiment._take_up()
        folder.mkdir(parents=True, exist_ok=True)
        experiment.keep()
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
        self.state, self.seconds = before["state"], float(before.get("seconds", 0.0))

    def keep(self) -> None:
        """Write the state; a kill loses what came after the last call."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        write_json(
            self.folder / STATE,
            {"name": self.name, "config": dict(self.config), "seconds": self.seconds, "state": self.state},
        )

    def finish(
        self, scores: Mapping[str, Any], pictures: Mapping[str, str], *, device: torch.device | None = None
    ) -> Path:
        """Write result.json and return its path. pictures: file name in the folder to its caption; device: that of the
        computation, None: the CPU."""
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
        return path


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

    seconds, machine: what the computation took, and where, if that is not the result's own, as with earlier runs.
    """

    title: str
    command: str
    setting: str
    rows: Sequence[Row]
    comparable: str
    seen: str = ""
    tables: Sequence[Table] = ()
    seconds: float | None = None
    machine: str = ""


def read_result(path: Path) -> dict[str, Any]:
    """A result, checked as far as every section needs it. Raises LabError naming the file and the field."""
    result = read_json(path)
    expected = {"name": str, "config": dict, "environment": dict, "seconds": int | float, "scores": dict}
    if not isinstance(result, dict) or result.get("version") != VERSION:
        raise LabError(f"{path}: expected a result of version {VERSION}; run the experiment again.")
    for name, kind in (expected | {"pictures": dict}).items():
        if not isinstance(result.get(name), kind):
            raise LabError(f"{path}: {name} is {result.get(name)!r}; run the experiment again.")
    return result


def spec_of(name: str) -> str:
    """How a data set of this name is given to `--data`, its place left open: results hold no paths."""
    if name == "shapes":
        return name
    return f"{name}:PATH" if name in PUBLISHED else f"folder:{name}"


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
