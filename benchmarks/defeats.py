"""Where ours is slower, larger or less exact than its rival, read off the results, so that none is left out."""

from __future__ import annotations

from typing import Any

# The losses as a person calls them; the ways asked for by name (impl=, method=) are there to be compared.
DEFAULTS = (
    *("lovasz_softmax", "lovasz_hinge", "lovasz_hinge, per image", "lovasz_sigmoid", "lovasz_cross_entropy"),
    *("lovasz_softmax, per image, all classes", "group="),
)
# A value within two roundings of float32 is as near as float32 can tell.
ROUNDING = 2 * 2**-23


def defeats(results: dict[str, Any]) -> list[str]:
    """One sentence each; a ratio above 1, or a distance to float64 above the authors' float32 formula's."""
    own = {"memory": _memory, "accuracy": _accuracy, "ranks": _ranks, "gpu": _gpu}
    return _time(results) + [line for name, read in own.items() for line in read(results.get(name, {}))]


def _time(results: dict[str, Any]) -> list[str]:
    found = []
    for name, part in results.items():
        if name == "memory":
            continue
        for table in part.get("tables", []):
            for row in table["rows"]:
                if row["name"] in DEFAULTS and (row.get("ratio") or 0) > 1:
                    multiple = f"{row['ratio']:.2f} times the time of {table['yardstick']}"
                    whole = "a whole step with " if name == "step" else ""
                    found.append(f"{name}, {table['input']}: {whole}{row['name']} takes {multiple}.")
            found += _slower_than_authors(name, table)
    return list(dict.fromkeys(found))


def _slower_than_authors(name: str, table: dict[str, Any]) -> list[str]:
    ratios = {row["name"]: row.get("ratio") for row in table["rows"]}
    ours, theirs = ratios.get("lovasz_softmax"), ratios.get("authors' formula")
    if not ours or not theirs or ours <= theirs:
        return []
    return [f"{name}, {table['input']}: lovasz_softmax takes {ours / theirs:.2f} times the authors' formula's time."]


def _memory(part: dict[str, Any]) -> list[str]:
    return [
        f"memory, {table['input']}: {row['name']} needs {row['ratio']:.2f} times the memory of F.cross_entropy."
        for table in part.get("tables", [])
        for row in table["rows"]
        if row["name"] in DEFAULTS and row.get("ratio", 0) > 1
    ]


def _accuracy(part: dict[str, Any]) -> list[str]:
    found = []
    for row in [*part.get("rows", []), *part.get("narrow", [])]:
        for what, floor in (("value", ROUNDING), ("gradient", 0.0)):
            ours, theirs = row[f"ours, {what}"], row[f"authors' float32, {what}"]
            # A distance that is not finite is None.
            if ours is None or (theirs is not None and ours > max(theirs, floor)):
                far, near = ("not finite" if x is None else f"{x:.1e}" for x in (ours, theirs))
                found.append(f"accuracy, {row['input']}: the {what} is off by {far}, the authors' by {near}.")
    return found


def _ranks(part: dict[str, Any]) -> list[str]:
    """Bytes; the time is among the tables of all parts."""
    found = []
    for table in part.get("tables", []):
        gathered = next(row for row in table["rows"] if row["name"] == table["yardstick"])
        for row in table["rows"]:
            if "group=" in row["name"] and row["bytes"] > gathered["bytes"]:
                multiple = f"{row['bytes'] / gathered['bytes']:.2f} times the bytes of {gathered['name']}"
                found.append(f"ranks, {table['input']}: {row['name']} sends {multiple}.")
    return found


def _gpu(part: dict[str, Any]) -> list[str]:
    """Rows in which the GPU is longer at it, or, called plainly, the CPU that launches its work."""
    found = []
    for row in part.get("rows", []):
        name = f"gpu, {' x '.join(map(str, row['shape']))} {row['dtype']}, {row['input']}"
        name += "" if row["layout"] == "contiguous" else f", {row['layout']}"
        eager, alone = row["times cross_entropy"], row["graph, times cross_entropy"]
        if alone > 1:
            found.append(f"{name}: lovasz_softmax takes {alone:.2f} times the GPU's time for F.cross_entropy.")
        elif eager > 1:
            found.append(
                f"{name}: launched by the CPU one by one, lovasz_softmax takes {eager:.2f} times the time of "
                f"F.cross_entropy; the GPU alone {alone:.2f} times."
            )
    return found
