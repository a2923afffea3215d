"""Finding out the classes of a folder of masks: from what the user says, else classes.json, else the masks themselves.

The rules for what is not said are few and stand in `find_classes`; what was concluded is told in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lovasz.lab.data.classes_file import Said
from lovasz.lab.data.colours import voc_palette
from lovasz.lab.data.dataset import IGNORE_INDEX, Colour
from lovasz.lab.data.labels import MOST_CLASSES, LabelCoding, hexadecimal
from lovasz.lab.data.masks import read_mask
from lovasz.lab.data.survey import Heads, Survey, read_heads, survey
from lovasz.lab.data.void import by_value, settle_void, values_beside, void_words
from lovasz.lab.errors import LabError

FEW_CLASSES = 32  # with more of them found, a gap between the values rather shows a mask with smoothed edges


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, how masks code them, and in words where this comes from."""

    palette: tuple[Colour, ...]
    coding: LabelCoding
    explanation: str


def find_classes(said: Said, masks: Sequence[Path], where: Path) -> Classes:
    """The classes, from what is said where it is enough (classes with void, or values), else after reading all masks.

    What void and values mean beside a list of classes is settled in void.py. Palettes that differ in an index that is
    in use are refused, unless coding=index is said or the colours count; the masks are read only where heads differ.

    Unless void or values are said, the masks decide:
    - values 0 and one other, or 255 alone: two classes, the other is the second (foreground), nothing is void;
    - otherwise 255 is void where it occurs; where some masks are of 0 and 1 and others of 0 and 255, that is asked.
    Unless classes are said, they are the values 0..largest (void left out), named "class k"; two are "background" and
    "foreground", if the first is 0. A largest value above 250, or far above the number of values, is refused, and so is
    any gap between the values of more than FEW_CLASSES classes: those are greys drawn for the eye, or edges that were
    smoothed. Masks in colours need classes and palette said.
    Raises LabError, naming a file where there is one to name.
    """
    heads = read_heads(masks)
    said = settle_void(said, heads, masks)
    if not said.left_out and (said.values is not None or (said.classes is not None and said.void is not None)):
        if heads.differ and said.by == "auto" and (conflict := survey(masks).conflict):
            raise LabError(conflict)
        void = said.void or ()
        values = said.values or values_beside(void, len(said.classes or ()))
        return _build(said, values, void, heads)
    seen = survey(masks)
    if not seen.values and not seen.colours:
        raise LabError(f"{where}: no masks to find the classes in.")
    by_colour = said.by == "colour" and said.classes is not None and said.palette is not None
    if seen.conflict and said.by != "index" and not by_colour:
        raise LabError(seen.conflict)
    if said.classes is None or said.palette is None:
        if seen.colours:
            _refuse_colours(seen, where)
        void, values = _meaning(said, seen, where)
        found = _build(said, values, void, heads, seen)
        found.coding.refuse_others(seen.values, said.source if said.classes else "the masks")
        return found
    void, values = _meaning(said, seen, where)
    found = _build(said, values, void, heads)
    _refuse_strays(found.coding, seen)
    return found


def _refuse_strays(coding: LabelCoding, seen: Survey) -> None:
    """Decode the files with a label of no class before anything is trained: what is wrong with them, decoding tells."""
    values, colours = {*coding.values, *coding.void}, {*(coding.colours or ()), coding.void_colour}
    greys = {(value, value, value): path for value, path in seen.tripled.items()}
    strays = [path for value, path in seen.values.items() if value not in values or coding.by == "colour"]
    strays += [path for colour, path in (seen.colours | greys).items() if colour not in colours or coding.by == "index"]
    for path in dict.fromkeys(strays):  # some may be right, such as an index in a file that is read by its colours
        coding.decode(read_mask(path), path)


def _meaning(said: Said, seen: Survey, where: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Void values and class values."""
    if said.values is not None:
        return said.void or (), said.values
    found = set(seen.values)
    count = len(said.classes) if said.classes is not None else None
    if said.void is None and count in (None, 2) and (found == {255} or (len(found) == 2 and 0 in found)):
        return (), (0, max(found))
    asked = said.void is None and count in (None, 2) and found == {0, 1, IGNORE_INDEX}
    if asked and seen.only_255 and not seen.one_and_255:
        raise LabError(
            f"{seen.values[1]}: a mask with the label 1, but {seen.only_255} is of 0 and 255, and none has both: "
            "is 255 the foreground there, or void? Say void=255, or save all masks with the same two values."
        )
    void = said.void if said.void is not None else tuple({IGNORE_INDEX} & found)
    if count is not None:
        return void, values_beside(void, count)
    classes = sorted(found - set(void))
    if classes in ([], [0]):
        raise LabError(f"{where}: the masks hold no label but {_list(sorted(found))}; there is nothing to tell apart.")
    values = tuple(value for value in range(classes[-1] + 1) if value not in void)
    gaps = len(values) - len(classes)
    if classes[-1] > 250 or gaps > 3 * len(classes) or (gaps and len(values) > FEW_CLASSES):
        raise LabError(
            f"{seen.values[classes[-1]]}: the masks hold the values {_list(sorted(found))}, which look like greys or "
            "smoothed edges and not like class indices 0, 1, 2... Correct a mask that was resized smoothly, or say the "
            "classes: classes=... with all names in order, also values=0,128,... where they are not 0, 1, 2... (and "
            "void=VALUE for a value to leave out)."
        )
    return void, values


def _refuse_colours(seen: Survey, where: Path) -> None:
    colours = sorted(seen.colours)
    shown = ",".join(hexadecimal(colour) for colour in colours[:12]) + (",..." if len(colours) > 12 else "")
    raise LabError(
        f"{seen.colours[colours[0]]}: a mask in colours, whose classes are unknown ({len(colours)} colours were "
        f"found: {shown}). Give them with classes=name,... and palette=#rrggbb,... in the same order, or in "
        f"{where / 'classes.json'} (keys classes and palette_rgb)."
    )


def _build(
    said: Said, values: tuple[int, ...], void: tuple[int, ...], heads: Heads, seen: Survey | None = None
) -> Classes:
    names = said.classes or _names(values)
    if len(values) != len(names):
        raise LabError(f"values: {len(values)} mask values for {len(names)} classes; expected one for each class.")
    if said.palette is not None and len(said.palette) != len(names):
        raise LabError(f"palette: {len(said.palette)} colours for {len(names)} classes; expected one for each class.")
    if not 2 <= len(names) <= MOST_CLASSES:
        source = said.source if said.classes else "the masks"
        how = {"the options": " with commas between them", "classes.txt": " with a line for each"}.get(source, "")
        raise LabError(
            f"classes: got {len(names)} ({_list(names)}) from {source}, expected 2 to {MOST_CLASSES}{how} (the "
            "background counts as one)."
        )
    for what, items in ("classes", names), ("palette", said.palette or ()), ("values", values):
        if len(set(items)) != len(items):
            raise LabError(f"{what}: got {_list(items)}, in which one stands twice; expected all different.")
    if set(values) & set(void):
        raise LabError(f"void: {_list(sorted(set(values) & set(void)))} is also the mask value of a class.")
    palette = said.palette or (seen.palette_of(values) if seen else None) or voc_palette(len(names))
    coding = LabelCoding(names, values, void, said.palette, said.void_colour, said.by)
    words = [
        f"{len(names)} classes ({_list(names)}) from {said.source if said.classes else 'the masks'}",
        void_words(said, void, heads),
    ]
    if values != tuple(range(len(values))) and by_value(said, heads):
        words.append(f"mask values {_list(values)} in this order")
    absent = [value for value in values if value not in seen.values] if seen else []
    if absent:
        words.append(f"no mask holds {_list(absent)}")
    return Classes(palette, coding, "; ".join(words))


def _names(values: tuple[int, ...]) -> tuple[str, ...]:
    binary = len(values) == 2 and values[0] == 0
    return ("background", "foreground") if binary else tuple(f"class {value}" for value in values)


def _list(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:24])
    return shown + (f" and {len(items) - 24} more" if len(items) > 24 else "")
