"""The output folder of a run or a comparison: whether work may begin or go on in it, what it is told to be, and who
works in it now. Apart from the training, so that a command is refused before it writes anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lovasz.lab.config import RunConfig, read_json, write_json
from lovasz.lab.errors import LabError
from lovasz.lab.splits import contents_difference

# What only training leaves, at any depth: results, or hours of work.
TRAINED = {"last.ckpt", "model.safetensors", "run.json", "report.html"}

_held: set[int] = set()  # the open folders that this process has locked
_kept: dict[tuple[int, int], int] = {}  # those of `hold`, by device and number on it


@contextmanager
def claimed(folder: Path, configuration: dict[str, Any], *, resume: bool) -> Iterator[None]:
    """`open_folder`, and until the end no other process can: two would write over one another.

    The lock is the system's, so a kill leaves none behind. Without one: on Windows, and on file systems that have none.
    """
    check_folder(folder, configuration, resume=resume)  # before the folder is made
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        open_folder(folder, configuration, resume=resume)
        yield


def open_folder(folder: Path, configuration: dict[str, Any], *, resume: bool) -> None:
    """Make the output folder and write config.json, where `check_folder` allows it.

    configuration: "run", "data" as `Data.contents` gives it, and "weights", the hash of the file that runs start from.
    """
    before, same = check_folder(folder, configuration, resume=resume)
    if before is not None and not same:
        for name in ("comparison.json", "image_classes.json"):  # of the former data or start, and with no run in it
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "config.json", configuration)


def check_folder(folder: Path, configuration: dict[str, Any], *, resume: bool) -> tuple[dict[str, Any] | None, bool]:
    """The configuration that is there, if any, and whether it is this one; writes nothing.

    Raises LabError when the folder holds something and `resume` is off, and when it belongs to another configuration or
    to data or start weights that have changed since, wherever these lie now: its runs and new ones would not be
    comparable. Where a run was begun and nothing trained there are none, so the folder may begin anew, whatever it is
    told to be. While no run is finished, files of val and test may be of another size: one that stopped the scoring has
    been repaired.
    """
    path = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise LabError(f"{folder}: the output folder is a file. Choose another --out.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return None, False
    if not path.is_file() or (not resume and _trained(folder)):
        if resume:
            raise LabError(
                f"{folder}: no config.json, so this is no folder of an earlier run to resume. Choose another --out."
            )
        raise LabError(
            f"{folder}: the output folder exists and is not empty. Add --resume to go on in it, or choose another "
            "--out."
        )
    before = read_json(path)
    there, asked = (isinstance(one, dict) and "losses" in one for one in (before, configuration))
    if there != asked and _trained(folder):
        raise LabError(of_another_command(folder, "compare" if there else "train"))
    try:
        old, noted = RunConfig.from_json(before["run"]), before.get("data")
        now = configuration.get("data", noted)
        same = noted is None or contents_difference(noted, now) is None
        repaired = () if any(folder.rglob("run.json")) else ("val", "test")
        changed = None if noted is None else contents_difference(noted, now, repaired)
        hashes = before.get("weights"), configuration.get("weights")
        both = all(hashes)  # earlier versions noted none
        moved = [*([] if noted is None else ["data"]), *(["weights"] if both else [])]
        difference = old.difference(RunConfig.from_json(configuration["run"]), moved)
    except (KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path}: not the configuration of a run ({error!r}). Choose another --out.") from error
    others = both and hashes[0] != hashes[1]
    if (difference or changed or others) and _trained(folder):
        if difference:
            raise LabError(
                f"{path}: cannot resume with another configuration, {difference}. Use the old value or another --out."
            )
        if others:
            raise LabError(
                f"{path}: cannot resume with other weights, the file {configuration['run']['weights']} has changed. "
                "Put the one back that was there, or choose another --out."
            )
        raise LabError(
            f"{path}: cannot resume with other data, {changed}. Runs on both could not be compared: put the images "
            "and masks back as they were, or choose another --out."
        )
    return before, same and not (difference or others)


def of_another_command(folder: Path, command: str) -> str:
    """What to tell of a folder in which `lovasz train` has worked, or `compare`, to the other one of the two."""
    kind = "a comparison" if command == "compare" else "a single run"
    return f"{folder}: the folder of {kind}, in which lovasz {command} goes on. Choose another --out."


def read_record(path: Path) -> dict[str, Any]:
    """A run.json that `run_once` wrote. Raises LabError with the remedy for a damaged one."""
    remedy = "Delete it, and the run is scored again from its checkpoint."
    try:
        record = read_json(path)
    except LabError as error:
        raise LabError(f"{error} {remedy}") from error
    kinds = {"history": list, "scores": dict, "seconds": int | float, "weights": str, "images": dict}
    for name, kind in kinds.items():
        if not isinstance(record, dict) or not isinstance(record.get(name), kind):
            raise LabError(f"{path}: not the record of a finished run, {name} is missing or wrong. {remedy}")
    weights = path.with_name(record["weights"])
    if not weights.is_file():
        raise LabError(
            f"{weights}: is missing, though its run is finished. Put it back, or delete {path}, and the run is scored "
            "again from its checkpoint."
        )
    return record


def _trained(folder: Path) -> bool:
    """Whether a folder holds what a person could miss."""
    if any(path.name in TRAINED for path in folder.rglob("*")):
        return True
    comparison = folder / "comparison.json"
    try:
        return comparison.is_file() and bool(read_json(comparison)["runs"])
    except (LabError, KeyError, TypeError):  # not to be written over
        return True


def hold(folder: Path) -> None:
    """Keep other processes out of a folder until `release` or the end of this one; held twice is held once."""
    status = folder.stat()
    place = (status.st_dev, status.st_ino)
    if place not in _kept:
        handle = _locked(folder)
        if handle is not None:
            _kept[place] = handle


def release(folder: Path) -> None:
    """Undo `hold`, if it was held."""
    status = folder.stat()
    handle = _kept.pop((status.st_dev, status.st_ino), None)
    if handle is not None:
        _unlock(handle)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    handle = _locked(folder)
    try:
        yield
    finally:
        if handle is not None:
            _unlock(handle)


def _locked(folder: Path) -> int | None:
    """The lock of a folder; None where the system has none."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LabError(
            f"{folder}: another process works in this output folder now. Wait for its end, or choose another --out."
        ) from None
    except OSError:
        os.close(handle)
        return None
    _held.add(handle)
    return handle


def _unlock(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)


def _let_go() -> None:
    """A worker that reads images may outlive a killed run for seconds, in which the run could not be resumed."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
