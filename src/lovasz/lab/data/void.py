"""What is said as void, or as values, beside a list of classes: whether the list has a name for void, and whether the
masks are read by what is given, mask values or a colour. Apart from classes.py, which concludes what nobody said."""

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
    """The same with void as what the masks are read by, and classes without the name of a void.

    A colour becomes the indices that all palettes draw in it. The list of a file names the values 0, 1, 2, ... in
    order, so a name at the place of a void is left out (`Said.left_out`), as `read_classes_file` does. A list of the
    options may name void or not: it does not where the masks hold a value that has a name only so, else that is asked.
    Raises LabError for such a question, and for a void or values in a form that no mask is read by.
    """
    said = _settle_named_colour(said, heads)
    said = _settle_palette_colour(said, heads, masks)
    said = _settle_named_values(said, heads, masks)
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
    names = f" ({', '.join(said.left_out)})" if said.left_out else ""
    return f"void {' and '.join(voids)}{names}"


def _settle_named_colour(said: Said, heads: Heads) -> Said:
    """A class in the colour of void: left out of a file's list, refused in what the options list."""
    if said.classes is None or said.palette is None or len(said.palette) != len(said.classes):
        return said
    if said.void_colour not in said.palette:
        return said
    place = said.palette.index(said.void_colour)
    asked = "void" in said.options
    if asked and said.void is None and _from_file(said) and len(said.values or said.classes) == len(said.classes):
        return _without(said, [place])
    if asked or by_colour(said, heads):
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


def _settle_named_values(said: Said, heads: Heads, masks: Sequence[Path]) -> Said:
    """A void among the first values, at whose place the list has a name."""
    if said.classes is None or not said.void or said.values is not None:
        return said
    count = len(said.classes)
    places = sorted(value for value in set(said.void) if value < count)
    read = by_value(said, heads)
    if not places or not (read or _from_file(said)):
        return said
    seen = survey(masks)
    found = set(seen.values) - set(said.void) if read else set()
    whole, beside = values_beside(said.void, count - len(places)), values_beside(said.void, count)
    names = _commas([said.classes[place] for place in places])
    further = sorted(value for value in found if value >= count)
    if _from_file(said):
        if further and found <= set(beside):
            raise LabError(
                f"{seen.values[further[0]]}: label {further[0]}, but {said.source} names the mask values 0 to "
                f"{count - 1}, of which {_commas(places)} ({names}) is void. If it has no name for void, add one, or "
                f"say values={_commas(beside)}; else add one for {further[0]}."
            )
        return _without(said, places)
    if further:
        return said
    others = _commas([name for place, name in enumerate(said.classes) if place not in places])
    first = (
        f"Say classes={others}&values={_commas(whole)}" if len(whole) > 1 else "Leave void out (one class would remain)"
    )
    raise LabError(
        f"void: got {_commas(said.void)}, but the {count} classes may name the mask values 0 to {count - 1} with void "
        f"({names}), of which the masks hold none above, or {_commas(beside)} without it. {first} in the first case, "
        f"or say values={_commas(beside)} in the second."
    )


def _without(said: Said, places: Sequence[int]) -> Said:
    """Without the classes at these places, which are void, by value and by colour."""
    classes, palette = said.classes or (), said.palette
    values = said.values or tuple(range(len(classes)))
    kept = [place for place in range(len(classes)) if place not in places]
    void = said.void or tuple(values[place] for place in places)
    colour = said.void_colour
    if colour is None and palette and len(palette) == len(classes) and len(void) == 1:
        colour = palette[places[0]]
    return replace(
        said,
        classes=tuple(classes[place] for place in kept),
        palette=tuple(palette[place] for place in kept) if palette and len(palette) == len(classes) else palette,
        values=tuple(values[place] for place in kept),
        void=void,
        void_colour=colour,
        left_out=tuple(classes[place] for place in places),
    )


def _from_file(said: Said) -> bool:
    return said.source != Said.source


def _commas(items: Sequence[object]) -> str:
    return ",".join(str(item) for item in items)
