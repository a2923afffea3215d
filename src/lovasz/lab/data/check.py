"""Whether the files of a data set can be used, found out before anything is trained. Apart from the reading itself:
here stands only which files are opened how far, for a pass that must be quick."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rich.progress import Progress

from lovasz.lab.data.dataset import IGNORE_INDEX, SegmentationDataset
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.errors import LabError
from lovasz.lab.progress import bar

_SOUND: set[Hashable] = set()  # splits found sound, by the state of their files: a grid of runs has one pass


def check_files(splits: Sequence[SegmentationDataset], progress: Progress | None = None) -> None:
    """Raise LabError naming the first file, in the order of the splits, that training or scoring would refuse.

    Of the training pairs the heads are read (sizes, bits a channel, kind of file), in a fraction of a millisecond
    each; what else is wrong with one stops the first epoch. All others are read whole, which is less than each
    validation does: the test images would otherwise be opened for the first time when all training is done.
    Data that are drawn need no pass.
    """
    states = {_state(split): split for split in splits if isinstance(split, PairDataset)}
    new = {state: split for state, split in states.items() if state not in _SOUND}
    total = sum(map(len, new.values()))
    with bar(total, "checking images and masks", progress if new else None) as checked:
        for state, split in new.items():
            labelled = split.split == "train"  # its labels are not read
            for index in range(len(split)):
                if split.split == "train":
                    split.check_heads(index)
                else:
                    labelled |= bool((split[index].mask != IGNORE_INDEX).any())
                checked.advance()
            if not labelled:
                raise LabError(
                    f"data set {split.info.name}, split {split.split}: every pixel is void, there is nothing to score."
                )
            _SOUND.add(state)


def _state(split: PairDataset) -> Hashable:
    files = [path for pair in split.pairs for path in (pair.image, pair.mask)]
    stats = [(path, path.stat()) for path in files]
    return split.split, split.coding, tuple((path, status.st_mtime_ns, status.st_size) for path, status in stats)
