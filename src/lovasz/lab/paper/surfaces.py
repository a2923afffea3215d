"""Section 2: the Lovász hinge (Figure 1) and Lovász-Softmax (Figure 2) of two pixels, with the discrete Jaccard loss.

Two pixels make a loss that can be drawn: a surface over the two margins, for each of the four ground truths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lovasz import lovasz_extension
from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.result import Experiment, Row, Section, matplotlib_pyplot
from lovasz.set_functions import jaccard

NAME = "surfaces"
TRUTHS = ((0, 0), (0, 1), (1, 0), (1, 1))
HINGE_RANGE = (-1.0, 2.0)  # of the relative margin r = 1 - F y, whose positive part is the hinge error
SOFTMAX_RANGE = (-6.0, 6.0)  # of F(wrong class) - F(right class), whose sigmoid is the softmax error
DIGITS = 6


def run(folder: Path, *, points: int = 31, resume: bool = False) -> Path:
    """Compute both figures on a grid of `points` x `points`; writes result.json, two PNG files and surfaces.html."""
    pyplot = matplotlib_pyplot()
    experiment = Experiment.open(NAME, folder, {"points": points}, resume=resume)
    scores = {
        "hinge": [_surface("hinge", truth, points) for truth in TRUTHS],
        "softmax": [_surface("softmax", truth, points) for truth in TRUTHS],
    }
    pictures = {}
    for number, kind in enumerate(("hinge", "softmax"), 1):
        name = f"paper-figure-{number}.png"
        _draw(pyplot, scores[kind], kind, experiment.folder / name)
        pictures[name] = CAPTIONS[kind]
    (experiment.folder / "surfaces.html").write_text(_interactive(scores), encoding="utf-8")
    return experiment.finish(scores, pictures)


CAPTIONS = {
    "hinge": "Figure 1: the Lovász hinge over the relative margins r = 1 - F y of two pixels; dots: Jaccard loss",
    "softmax": "Figure 2: Lovász-Softmax of the foreground class over the margins F(wrong) - F(right) of two pixels; "
    "dots, at the ends of the axes: Jaccard loss",
}


def errors(kind: str, margins: Tensor) -> Tensor:
    """Hinge errors max(r, 0), or softmax errors 1 / (1 + exp(-r)), of margins of any shape."""
    return margins.relu() if kind == "hinge" else margins.sigmoid()


def surface(kind: str, margins: Tensor, truth: tuple[int, int]) -> Tensor:
    """The loss (...) of the foreground class at margins (..., 2), Eq. 8 with Eq. 10 or Eq. 11."""
    foreground = torch.tensor(truth, dtype=torch.bool).expand(margins.shape)
    return lovasz_extension(errors(kind, margins), foreground)


def discrete(truth: tuple[int, int], wrong: tuple[int, int]) -> float:
    """The Jaccard loss (Eq. 6) where the pixels marked in `wrong` are mispredicted."""
    missed = sum(t and w for t, w in zip(truth, wrong, strict=True))
    extra = sum(w and not t for t, w in zip(truth, wrong, strict=True))
    counts = (torch.tensor(float(count), dtype=torch.float64) for count in (missed, extra, sum(truth)))
    return float(jaccard(*counts))


def _surface(kind: str, truth: tuple[int, int], points: int) -> dict[str, Any]:
    low, high = HINGE_RANGE if kind == "hinge" else SOFTMAX_RANGE
    axis = torch.linspace(low, high, points, dtype=torch.float64)
    margins = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)  # (points, points, 2)
    values = surface(kind, margins, truth)
    far = 1.0 if kind == "hinge" else 40.0  # the margin of a sure mistake; of a sure hit it is 0, or -40
    near = 0.0 if kind == "hinge" else -40.0
    corners = {wrong: discrete(truth, wrong) for wrong in TRUTHS}
    at = torch.tensor([[far if w else near for w in wrong] for wrong in corners], dtype=torch.float64)
    off = (surface(kind, at, truth) - torch.tensor(list(corners.values()), dtype=torch.float64)).abs().max()
    bends = [_bend(values, dimension) for dimension in (0, 1)]
    return {
        "truth": list(truth),
        "axis": [round(x, DIGITS) for x in axis.tolist()],
        "values": [[round(x, DIGITS) for x in row] for row in values.tolist()],
        "dots": [{"wrong": list(wrong), "jaccard": value} for wrong, value in corners.items()],
        "largest_distance_of_dots": float(off),
        "smallest_second_difference": round(min(bends), 12),
    }


def _bend(values: Tensor, dimension: int) -> float:
    """The smallest second difference along an axis: not negative where the surface is convex along it."""
    return float(values.diff(n=2, dim=dimension).min())


def _place(dot: Mapping[str, Any], kind: str) -> tuple[float, float]:
    low, high = (0.0, 1.0) if kind == "hinge" else SOFTMAX_RANGE
    first, second = (high if wrong else low for wrong in dot["wrong"])
    return first, second


def _label(truth: list[int]) -> str:
    return "ground truth [" + ", ".join("+1" if t else "-1" for t in truth) + "]"


def _draw(pyplot: Any, surfaces: list[dict[str, Any]], kind: str, path: Path) -> None:
    figure = pyplot.figure(figsize=(12, 3.4), dpi=110)
    for number, one in enumerate(surfaces, 1):
        axes = figure.add_subplot(1, 4, number, projection="3d", computed_zorder=False)
        axis = torch.tensor(one["axis"])
        first, second = torch.meshgrid(axis, axis, indexing="ij")
        values = torch.tensor(one["values"])
        axes.plot_surface(first.numpy(), second.numpy(), values.numpy(), cmap="viridis", alpha=0.85, zorder=1)
        places = [(*_place(dot, kind), dot["jaccard"]) for dot in one["dots"]]
        axes.scatter(*zip(*places, strict=True), color="red", s=28, depthshade=False, zorder=2)
        axes.set(xlabel="$r_1$", ylabel="$r_2$", title=_label(one["truth"]))
        axes.view_init(elev=22, azim=-125)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def _interactive(scores: Mapping[str, list[dict[str, Any]]]) -> str:
    """One self-contained page: eight surfaces that can be turned; no network needed."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    titles = [f"{kind}, {_label(one['truth'])}" for kind in scores for one in scores[kind]]
    specs = [[{"type": "surface"}] * 4] * 2
    figure = make_subplots(2, 4, specs=specs, subplot_titles=titles, horizontal_spacing=0.01, vertical_spacing=0.06)
    for row, (kind, surfaces) in enumerate(scores.items(), 1):
        for column, one in enumerate(surfaces, 1):
            transposed = [list(line) for line in zip(*one["values"], strict=True)]  # plotly's rows are the second axis
            trace = graph_objects.Surface(x=one["axis"], y=one["axis"], z=transposed, showscale=False)
            figure.add_trace(trace, row, column)
            x, y, z = zip(*((*_place(dot, kind), dot["jaccard"]) for dot in one["dots"]), strict=True)
            dots = graph_objects.Scatter3d(x=x, y=y, z=z, mode="markers", marker={"color": "red", "size": 4})
            figure.add_trace(dots, row, column)
    title = "Lovász hinge (above) and Lovász-Softmax (below) of two pixels; red: the discrete Jaccard loss"
    figure.update_layout(title=title, showlegend=False, height=900)
    figure.update_scenes(xaxis_title="r1", yaxis_title="r2", zaxis_title="loss")
    figure.update_scenes(camera_eye={"x": -1.7, "y": -2.1, "z": 1.2})  # far enough for four in a row on a laptop
    return figure.to_html(include_plotlyjs=True, full_html=True)


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    scores, rows = result["scores"], []
    for figure, kind, name in ((1, "hinge", "Lovász hinge"), (2, "softmax", "Lovász-Softmax")):
        off = max(one["largest_distance_of_dots"] for one in scores[kind])
        rows.append(Row(f"Figure {figure}: largest distance of a dot from the surface", "0 (drawn)", f"{off:.1g}"))
        if kind == "hinge":
            bend = min(one["smallest_second_difference"] for one in scores[kind])
            said = "yes" if bend >= -1e-12 else f"no: second difference {bend:.2g}"
            rows.append(Row(f"Figure {figure}: the {name} is convex along each margin", "yes (piecewise linear)", said))
    points = result["config"]["points"]
    return Section(
        title="Section 2: two pixels (Figures 1 and 2)",
        command=command_line(NAME, result["config"]),
        setting=f"Closed form, float64, {points} x {points} points; four ground truths.",
        rows=tuple(rows),
        comparable="The paper shows pictures and no numbers. The axes are ours where the paper's are not labelled with "
        "a range; Figure 2 shows the loss of the foreground class alone, whose Jaccard loss the dots are.",
    )
