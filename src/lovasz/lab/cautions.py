"""What a reader of the scores must know of the data, in words: classes that the masks of a split do not hold, and
images that are scored and also trained on. Apart from `findings`, which looks for them: words need no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

NAMED = 8  # so many classes are named in a note
WORDS = {"train": "training", "val": "validation", "test": "test"}


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def cautions(
    classes: Sequence[str],
    images: Mapping[str, int | None],
    absent: Mapping[str, Collection[str]] | None,
    copies: Mapping[str, Mapping[str, Any]] | None,
) -> list[str]:
    """A sentence for each thing. images: of each split, None where there is none; absent and copies: of `findings`."""
    absent = {split: names for split, names in (absent or {}).items() if names}
    splits = [split for split in WORDS if images.get(split) is not None]
    nowhere = [name for name in classes if splits and all(name in absent.get(split, ()) for split in splits)]
    notes = []
    if nowhere:
        notes.append(f"No mask of any split holds {some(nowhere)}: {_only_predicted(nowhere)}")
    lacks = {
        split: tuple(name for name in classes if name in absent.get(split, ()) and name not in nowhere)
        for split in splits
    }
    if lacking := lacks.get("train", ()):
        there = [WORDS[split] for split in splits if set(lacking) - set(lacks[split])]
        notes.append(
            f"No training mask holds {some(lacking)}, but {' and '.join(there)} masks do: nothing teaches the network "
            f"{'this class' if len(lacking) == 1 else 'these classes'}, whatever the loss."
        )
    scored = [split for split in splits if split != "train" and lacks[split]]
    for lacking in dict.fromkeys(lacks[split] for split in scored):
        where = " or ".join(WORDS[split] for split in scored if lacks[split] == lacking)
        notes.append(f"No {where} mask holds {some(lacking)}: {_only_predicted(lacking)}")
        held = [name for name in classes if name not in (*lacking, *nowhere)]
        if len(held) == 1:
            notes[-1] += f" With {held[0]} alone in the masks, no {where} score tells how classes are told apart."
    if len(notes) > bool(nowhere):
        notes[-1] += " Another division of the images may mend that: list files, or another --data-seed."
    for split, copy in (copies or {}).items():
        if not copy:
            continue
        count, of = copy["count"], images.get(split)
        are, them = ("is", "it") if count == 1 else ("are", "them")
        notes.append(
            f"{count} of {of} {WORDS[split]} images {are} in training too, byte for byte ({copy['image']} is "
            f"{copy['trained']}): the network has seen {them}, and scores better there than on new images. Leave the "
            "copies out."
        )
    return notes


def held_in(classes: Sequence[str], absent: Mapping[str, Collection[str]] | None, split: str) -> list[str] | None:
    """The classes in the masks of a split; None where nobody looked."""
    return None if absent is None else [name for name in classes if name not in (absent.get(split) or ())]


def _only_predicted(names: Sequence[str]) -> str:
    its, it, was = ("its", "it", "it was") if len(names) == 1 else ("their", "them", "they were")
    iou = f"{its} IoU is 0 if any pixel is given to {it}, else left out of the mean"
    return f"{iou}. It says only whether {was} predicted."
