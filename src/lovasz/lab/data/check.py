"""Whether the files of a data set can be used, found out before anything is trained. Apart from the reading itself:
here stands only which files are opened when, and what the masks of each split hold together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing

import torch
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

from lovasz.lab.data.dataset import IGNORE_INDEX, SegmentationDataset
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.errors import LabError
from lovasz.lab.interrupts import leave_to_the_main_process
from lovasz.lab.progress import tracked

# What the masks of splits found sound hold, by the state of their files: a grid of runs has one pass.
_SOUND: dict[Hashable, tuple[int, ...]] = {}


def check_files(
    splits: Sequence[SegmentationDataset], progress: Progress | None = None, *, workers: int = 0
) -> dict[str, tuple[int, ...]]:
    """Raise LabError naming the first file that training or scoring would refuse; the classes in the masks by split.

    The heads of all training pairs come first (sizes, bits a channel, kind of file), which take a fraction of a
    millisecond each. Then all files are read whole, as an epoch and a scoring do: one that only a later epoch would
    meet, for shuffling leaves out the images of an incomplete batch, would stop a run that has cost hours.
    workers: processes that read, 0 for this one alone. Data that are drawn need no pass, and have no entry.
    """
    states = {_state(split): split for split in splits if isinstance(split, PairDataset)}
    new = {state: split for state, split in states.items() if state not in _SOUND}
    shown = progress if new else None
    heads = [(split, index) for split in new.values() if split.split == "train" for index in range(len(split))]
    for split, index in tracked(heads, len(heads), "checking the heads of training files", shown):
        split.check_heads(index)
    found: dict[Hashable, set[int]] = {state: set() for state in new}
    total = sum(map(len, new.values()))
    with closing(tracked(_read(new, workers), total, "checking images and masks", shown)) as labels:
        for state, held in labels:
            found[state].update(held)
    for state, split in new.items():
        if not found[state] - {IGNORE_INDEX}:
            what = "learn" if split.split == "train" else "score"
            raise LabError(
                f"data set {split.info.name}, split {split.split}: every pixel is void, there is nothing to {what}."
            )
        _SOUND[state] = tuple(sorted(found[state] - {IGNORE_INDEX}))
    return {split.split: _SOUND[state] for state, split in states.items()}


def _read(splits: dict[Hashable, PairDataset], workers: int) -> Iterator[tuple[Hashable, list[int]]]:
    """For each pair, in order, the labels that its mask holds."""
    for state, split in splits.items():
        loader = DataLoader(
            _Labels(split), batch_size=None, num_workers=workers, worker_init_fn=leave_to_the_main_process
        )
        for held in loader:
            if isinstance(held, str):
                raise LabError(held)
            yield state, held


class _Labels(Dataset[list[int] | str]):
    """What reading each pair finds: the labels of its mask, or the words of the error, which torch would wrap."""

    def __init__(self, split: PairDataset) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> list[int] | str:
        try:
            return torch.bincount(self.split[index].mask.flatten()).nonzero().flatten().tolist()
        except LabError as error:
            return str(error)


def _state(split: PairDataset) -> Hashable:
    files = [path for pair in split.pairs for path in (pair.image, pair.mask)]
    stats = [(path, path.stat()) for path in files]
    return split.split, split.coding, tuple((path, status.st_mtime_ns, status.st_size) for path, status in stats)
