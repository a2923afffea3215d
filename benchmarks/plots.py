"""The pictures of docs/benchmarks.md as small SVG files, from results.json alone; matplotlib is needed only here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.page import OURS, PICTURES, YARDSTICK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUR_COLOUR, THEIR_COLOUR = "#0072b2", "#a0a0a0"  # Okabe and Ito's blue, and a grey


def draw(results: dict[str, Any], folder: Path) -> str:
    """Draw what the results hold; a sentence if it could not be done."""
    if importlib.util.find_spec("matplotlib") is None:
        return 'The pictures were not drawn: matplotlib is not installed (pip install -e ".[bench]").'
    import matplotlib

    matplotlib.use("svg")
    # Texts stay texts, and the same results give the same file.
    style = {"svg.fonttype": "none", "svg.hashsalt": "lovasz", "font.size": 9, "font.family": "sans-serif"}
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    for part, (file, _) in PICTURES.items():
        if not (results.get(part, {}).get("tables") or results.get(part, {}).get("rows")):
            continue
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(6.4, 3.6), layout="constrained")
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            DRAWINGS[part](axes, results[part])
            figure.savefig(folder / file, format="svg", metadata={"Date": None, "Creator": None})
    return ""


def _bars(axes: Axes, names: list[str], values: list[float], texts: list[str], *, ours: bool = False) -> None:
    """Horizontal bars, the first on top, each with its number at its end; ``ours``: all of them."""
    colours = [OUR_COLOUR if ours or name.startswith("lovasz") else THEIR_COLOUR for name in names]
    places = range(len(names))
    axes.barh(places, values, color=colours)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(text, (value, place), xytext=(3, 0), textcoords="offset points", va="center")
    axes.margins(x=0.15)


def _speed(axes: Axes, part: dict[str, Any]) -> None:
    table = part["tables"][1]  # in which all take part
    rows = sorted((row for row in table["rows"] if "note" not in row), key=lambda row: row["ratio"])
    _bars(axes, [r["name"] for r in rows], [r["ratio"] for r in rows], [f"{r['ratio']:.2f}" for r in rows])
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlabel(f"time, times {table['yardstick']} (logarithmic)")
    axes.set_title(table["input"])


def _memory(axes: Axes, part: dict[str, Any]) -> None:
    table = part["tables"][0]
    rows = sorted((row for row in table["rows"] if "note" not in row), key=lambda row: row["both"])
    megabytes = [row["both"] / 1e6 for row in rows]
    _bars(axes, [row["name"] for row in rows], megabytes, [f"{value:.0f}" for value in megabytes])
    axes.set_xlabel("peak memory beyond the input, forward and backward, MB")
    axes.set_title(table["input"])


def _accuracy(axes: Axes, part: dict[str, Any]) -> None:
    key = "gradient"
    for rows, colour, label in (
        (part["rows"], OUR_COLOUR, "float32 logits"),
        (part.get("narrow", []), "#e69f00", "float16 and bfloat16 logits"),
    ):
        points = [(row[f"authors' float32, {key}"], row[f"ours, {key}"]) for row in rows]
        points = [(theirs, ours) for theirs, ours in points if theirs and ours]
        if points:
            axes.scatter(*zip(*points, strict=True), s=14, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="black", linewidth=0.6)
    axes.set_xlabel("gradient error of the authors' formula in float32")
    axes.set_ylabel("gradient error of ours")
    axes.set_title("below the line, ours is nearer to float64")
    axes.legend(frameon=False)


def _scaling(axes: Axes, part: dict[str, Any]) -> None:
    for classes, line in zip(dict.fromkeys(t["classes"] for t in part["tables"]), ("-", "--"), strict=True):
        for name, colour in ((YARDSTICK, THEIR_COLOUR), (OURS, OUR_COLOUR)):
            tables = [t for t in part["tables"] if t["classes"] == classes]
            found = [(t["pixels"], row) for t in tables for row in t["rows"] if row["name"] == name]
            places, scales = [x for x, _ in found], [1e9 / x for x, _ in found]
            _band(axes, f"{name}, {classes} classes", colour, places, [row for _, row in found], scales, line)
    axes.set_xscale("log", base=2)
    ticks = sorted({table["pixels"] for table in part["tables"]})
    axes.set_xticks(ticks, [f"{t / 2**20:g} M" if t >= 2**20 else f"{t / 2**10:g} k" for t in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("pixels")
    axes.set_ylabel("forward and backward, ns per pixel")
    axes.legend(frameon=False)


def _classes(axes: Axes, part: dict[str, Any]) -> None:
    found = [(t["classes"], row) for t in part["tables"] for row in t["rows"] if row["name"] == OURS]
    base = [row["median"] for t in part["tables"] for row in t["rows"] if row["name"] == YARDSTICK]
    _band(axes, OURS, OUR_COLOUR, [c for c, _ in found], [row for _, row in found], [1 / value for value in base])
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xscale("log")
    ticks = [classes for classes, _ in found]
    axes.set_xticks(ticks, [str(tick) if tick != 19 else "" for tick in ticks])  # 19 and 21 would overlap
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("classes")
    axes.set_ylabel(f"time, times {YARDSTICK}")
    axes.legend(frameon=False)


def _band(
    axes: Axes,
    name: str,
    colour: str,
    places: list[int],
    rows: list[dict[str, Any]],
    scales: list[float],
    line: str = "-",
) -> None:
    """A line through the medians, and the quartiles as a band."""
    median, low, high = (
        [row[key] * scale for row, scale in zip(rows, scales, strict=True)] for key in ("median", "low", "high")
    )
    axes.plot(places, median, marker="o", markersize=3, linestyle=line, color=colour, label=name)
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)


def _step(axes: Axes, part: dict[str, Any]) -> None:
    names, shares, texts = [], [], []
    for table in part["tables"]:
        network = table["input"].partition(",")[0]
        for row in table["rows"]:
            names.append(f"{row['name']} ({network})")
            shares.append(100 * row["share"])
            texts.append(f"{row['share']:.1%}")
    _bars(axes, names, shares, texts)
    axes.set_xlabel("share of the training step that the loss takes, %")


def _gpu(axes: Axes, part: dict[str, Any]) -> None:
    rows = [row for row in part["rows"] if row["input"] == "trained" and row["layout"] == "contiguous"]
    names = [f"{' x '.join(map(str, row['shape']))}, {row['dtype']}" for row in rows]
    ratios = [row["graph, times cross_entropy"] for row in rows]
    _bars(axes, names, ratios, [f"{ratio:.2f}" for ratio in ratios], ours=True)
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlabel(f"time of the GPU, times {YARDSTICK}")
    axes.set_title(f"{OURS}, forward and backward, {part['machine']['device']}")


DRAWINGS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "speed": _speed,
    "memory": _memory,
    "accuracy": _accuracy,
    "scaling": _scaling,
    "classes": _classes,
    "step": _step,
    "gpu": _gpu,
}
