"""What is said as void, or as values, beside a list of classes: whether the masks are read by what is given, mask
values or a colour. Apart from classes.py, which concludes what nobody said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lovasz.lab.data.classes_file import Said
from lovasz.lab.data.labels import hexadecimal
from lovasz.lab.data.survey import Heads, survey
from lovasz.lab.errors import LabError


def by_value(said: Said, heads: Heads) -> bool:
    """Whether any mask is read by its values or indices."""
    numbers = heads.coloured and (said.by == "index" or said.palette is None)  # saved as RGB
    return said.by != "colour" and bool(heads.grey or heads.indexed or numbers)


def by_colour(said: Said, heads: Heads) -> bool:
    """Whether any mask is read by its colours, which somebody stated."""
    files = heads.coloured or (said.by == "colour" and (heads.grey or heads.indexed))
    return said.by != "index" and said.palette is not None and bool(files)


def settle_void(said: Said, heads: Heads, masks: Sequence[Path]) -> Said:
    """The same with void as what the masks are read by.

    A colour becomes the indices that all palettes draw in it.
    Raises LabError for a void or values in a form that no mask is read by.
    """
    said = _settle_named_colour(said, heads)
    said = _settle_palette_colour(said, heads, masks)
    if by_colour(said, heads) and not by_value(said, heads):
        if said.void and "void" in said.options and (len(said.void) > 1 or said.void_colour is None):
            raise LabError(
                f"void: got {_commas(said.void)}, a mask value, but the masks are read by their colours "
                f"({heads.coloured or heads.indexed}). Say the one colour to leave out, void=#rrggbb, or coding=index "
                "where masks hold class numbers."
            )
        if "values" in said.options:
            raise LabError(
                f"values: got {_commas(said.values or ())}, but the masks are read by their colours "
                f"({heads.coloured or heads.indexed}), which palette gives in the order of the classes. Leave values "
                "out, or say coding=index where masks hold class numbers."
            )
    return said


def values_beside(void: Sequence[int], count: int) -> tuple[int, ...]:
    """The first `count` values that are not void."""
    return tuple(value for value in range(count + len(void)) if value not in void)[:count]


def void_words(said: Said, void: Sequence[int], heads: Heads) -> str:
    """What is left out, for people; nothing that no mask is read by."""
    counts = (void and by_value(said, heads)) or (said.void_colour and by_colour(said, heads))
    voids = [str(value) for value in void] + ([hexadecimal(said.void_colour)] if said.void_colour else [])
    if not counts or not voids:
        return "no void"
    return f"void {' and '.join(voids)}"


def _settle_named_colour(said: Said, heads: Heads) -> Said:
    """A class in the colour of void is refused."""
    if said.classes is None or said.palette is None or len(said.palette) != len(said.classes):
        return said
    if said.void_colour not in said.palette:
        return said
    place = said.palette.index(said.void_colour)
    if "void" in said.options or by_colour(said, heads):
        name = said.classes[place]
        raise LabError(
            f"void: {hexadecimal(said.void_colour)} is also the colour of the class {name} of {said.source}. Leave "
            f"{name} out of classes and palette, or give void another colour."
        )
    return said


def _settle_palette_colour(said: Said, heads: Heads, masks: Sequence[Path]) -> Said:
    """Void given as a colour where masks are read by value: the indices in use that the palettes draw in it."""
    colour = said.void_colour
    if colour is None or said.void is not None or not by_value(said, heads):
        return said
    seen = survey(masks)
    if seen.conflict and said.by != "index":
        raise LabError(seen.conflict)
    coloured = by_colour(said, heads)
    if heads.indexed and not heads.grey and not seen.conflict and (coloured or not heads.coloured):
        values = tuple(sorted(value for value, (drawn, _) in seen.palette.items() if drawn == colour))
        if values:
            return replace(said, void=values)
        why = f"no mask holds it, of whose palettes the first is {heads.indexed}"
    elif seen.conflict:
        why = "the masks are read by their indices, and their palettes differ"
    else:
        why = f"{heads.grey or heads.coloured} is read by its values"
    if coloured or seen.colours or "void" not in said.options:  # colours without classes are told by find_classes
        return said
    such = f", such as void={colour[0]}" if len(set(colour)) == 1 and not heads.indexed else ""
    raise LabError(f"void: got the colour {hexadecimal(colour)}, but {why}. Say the mask value, void=VALUE{such}.")


def _commas(items: Sequence[object]) -> str:
    return ",".join(str(item) for item in items)
