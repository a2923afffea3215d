"""The report's two charts as plotly figures in plain dicts: validation curves and per-class IoU bars.

Apart from the page: colours are names of its CSS variables ("var(--loss-0)"), which the page's script resolves for the
light or the dark scheme, so a figure holds no colour of its own.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from lovasz.lab.summary import METRICS, SPLITS, Loss, Spread, losses_of, score_splits, start_scores, start_spread

COLOURS = 8  # --loss-0 to --loss-7 in report.css; more losses start again at the first
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon2")
BEFORE = "before"  # the name and group of what belongs to the common start
_LONGEST_TICK = 22
FEW_EPOCHS = 10

Figure = dict[str, Any]


def loss_colour(index: int) -> str:
    """The CSS colour of the loss at this place, the same on the whole page."""
    return f"var(--loss-{index % COLOURS})"


def validation_curves(comparison: dict[str, Any]) -> dict[str, Figure]:
    """For each metric with at least one point: the mean over seeds per loss, and a thin line for each seed.

    Epoch 0 is the start. The mean stands only at epochs that all finished seeds of the loss have.
    """
    figures = {}
    for metric, title in METRICS.items():
        traces = []
        for loss in losses_of(comparison):
            seeds = {run["seed"]: curve for run in loss.runs if (curve := _curve(comparison, run, metric))}
            if any(epoch for curve in seeds.values() for epoch in curve):
                traces += _curve_traces(loss, seeds)
        if traces:
            layout = _layout(f"validation {title}, %", height=430)
            layout["xaxis"] |= {"title": {"text": "epoch"}, "rangemode": "tozero", "tickformat": "d", "showgrid": False}
            layout["yaxis"] |= {"title": {"text": f"{title}, %"}}
            if max(epoch for trace in traces for epoch in trace["x"]) <= FEW_EPOCHS:
                layout["xaxis"]["dtick"] = 1  # plotly's own ticks would be halves and fifths of an epoch
            figures[metric] = {"data": traces, "layout": layout | {"hovermode": "x unified"}}
    return figures


def class_bars(comparison: dict[str, Any]) -> dict[str, Figure]:
    """For each split with scores, in two orders ("val listed", "val apart"): one bar per class and loss.

    "apart" puts the classes first in which the losses differ most. A class without IoU (absent from images and
    predictions) has no bar and says so.
    """
    figures = {}
    for split in score_splits(comparison):
        losses = [loss for loss in losses_of(comparison) if any(class_ious(comparison, loss, split))]
        if losses:
            table = {loss.index: class_ious(comparison, loss, split) for loss in losses}
            count = len(comparison["dataset"]["classes"])
            apart = sorted(range(count), key=lambda i: -_range([table[loss.index][i] for loss in losses]))
            figures[f"{split} listed"] = _bars(comparison, losses, table, split, list(range(count)))
            if len(losses) > 1:
                figures[f"{split} apart"] = _bars(comparison, losses, table, split, apart)
    return figures


def class_ious(comparison: dict[str, Any], loss: Loss, split: str) -> list[Spread | None]:
    """One entry per class of the data set."""
    return [loss.class_iou(split, name) for name in comparison["dataset"]["classes"]]


def start_class_ious(comparison: dict[str, Any], split: str) -> list[Spread | None]:
    """The same of the start."""

    def read(name: str) -> Spread | None:
        return start_spread(comparison, split, lambda scores: (scores["per_class_iou"] or {}).get(name))

    return [read(name) for name in comparison["dataset"]["classes"]]


def _curve(comparison: dict[str, Any], run: dict[str, Any], metric: str) -> dict[int, float]:
    start = (start_scores(comparison, run["seed"]).get("val") or {}).get(metric)
    points = {entry["epoch"]: (entry["val"] or {}).get(metric) for entry in run["history"]}
    return dict(sorted((epoch, y) for epoch, y in ({0: start} | points).items() if y is not None))


def _curve_traces(loss: Loss, seeds: dict[int, dict[int, float]]) -> list[dict[str, Any]]:
    colour, label, traces = loss_colour(loss.index), _escape(loss.label), []
    if len(seeds) > 1:
        for seed, curve in seeds.items():
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{label}, seed {seed}",
                    "legendgroup": str(loss.index),
                    "x": list(curve),
                    "y": _in_percent(curve.values()),
                    "line": {"color": colour, "width": 1},
                    "opacity": 0.5,
                    "hoverinfo": "skip",
                }
            )
    epochs = sorted(set.intersection(*(set(curve) for curve in seeds.values())))
    spreads = [Spread.of(curve[epoch] for curve in seeds.values()) for epoch in epochs]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": label,
            "legendgroup": str(loss.index),
            "x": epochs,
            "y": _in_percent(spread and spread.mean for spread in spreads),
            "customdata": [_deviation(spread) for spread in spreads],
            "line": {"color": colour, "width": 2.5},
            "cliponaxis": False,
            "marker": {"color": colour, "size": 8, "symbol": SYMBOLS[loss.index % COLOURS]},
            "hovertemplate": "%{y:.1f}%{customdata} %",
        }
    )
    return traces


def _bars(
    comparison: dict[str, Any], losses: list[Loss], table: dict[int, list[Spread | None]], split: str, order: list[int]
) -> Figure:
    names = [comparison["dataset"]["classes"][i] for i in order]
    places = list(range(len(names)))
    traces: list[dict[str, Any]] = []
    for loss in losses:
        spreads = [table[loss.index][i] for i in order]
        deviations = [spread.deviation if spread else None for spread in spreads]
        trace = {
            "type": "bar",
            "orientation": "h",
            "name": _escape(loss.label),
            "legendgroup": str(loss.index),
            "x": _in_percent(spread and spread.mean for spread in spreads),
            "y": places,
            "customdata": [[_escape(n), _deviation(s)] for n, s in zip(names, spreads, strict=True)],
            "marker": {"color": loss_colour(loss.index)},
            "hovertemplate": "<b>%{customdata[0]}</b><br>%{fullData.name}: %{x:.1f}%{customdata[1]} %<extra></extra>",
        }
        if any(deviation is not None for deviation in deviations):
            trace["error_x"] = {
                "type": "data",
                "array": _in_percent(deviations),
                "color": "var(--ink)",
                "thickness": 1,
                "width": 2,
            }
        traces.append(trace)
    layout = _layout(f"{SPLITS[split]} IoU per class, %", height=90 + len(names) * (14 + 13 * len(losses)))
    before = start_class_ious(comparison, split)
    if any(before):
        traces += _start_ticks([before[i] for i in order], names, places, len(losses))
    layout["yaxis"] |= {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": [_tick(name) for name in names],
        "range": [len(names) - 0.45, -0.55],
        "showgrid": False,
        "automargin": True,
    }
    layout["xaxis"] |= {"range": [0, 100], "side": "top", "title": {"text": "IoU, %"}}
    layout["annotations"] = [
        _absent(place) for place, i in enumerate(order) if all(spreads[i] is None for spreads in table.values())
    ]
    return {"data": traces, "layout": layout | {"barmode": "group", "bargap": 0.28, "hovermode": "closest"}}


def _start_ticks(
    spreads: list[Spread | None], names: list[str], places: list[int], losses: int
) -> list[dict[str, Any]]:
    """A tick for each class, with a lighter one under it that sets it off from the bars."""
    ticks = {
        "type": "scatter",
        "mode": "markers",
        "name": BEFORE,
        "legendgroup": BEFORE,
        "x": _in_percent(spread and spread.mean for spread in spreads),
        "y": places,
        "customdata": [_escape(name) for name in names],
        "hovertemplate": "<b>%{customdata}</b><br>before: %{x:.1f} %<extra></extra>",
    }
    marker = {"symbol": "line-ns", "size": 6 + 7 * losses}
    return [
        ticks
        | {
            "marker": marker | {"line": {"color": "var(--panel)", "width": 6}},
            "hoverinfo": "skip",
            "hovertemplate": None,
        },
        ticks | {"marker": marker | {"line": {"color": "var(--ink)", "width": 2}}},
    ]


def _absent(place: int) -> dict[str, Any]:
    return {
        "x": 0,
        "y": place,
        "xanchor": "left",
        "text": "<i>absent</i>",
        "showarrow": False,
        "font": {"color": "var(--muted)"},
    }


def _layout(title: str, height: int) -> Figure:
    axis = {
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "fixedrange": True,  # a finger that scrolls the page must not zoom the chart
        "automargin": True,
    }
    return {
        "meta": title,
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 16, "b": 8},
        "showlegend": False,
        "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--ink)", "size": 13},
        "hoverlabel": {"bgcolor": "var(--panel)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)"}},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def _in_percent(values: Any) -> list[float | None]:
    return [None if value is None else round(100 * value, 3) for value in values]


def _deviation(spread: Spread | None) -> str:
    return f" ± {100 * spread.deviation:.1f}" if spread and spread.deviation is not None else ""


def _range(spreads: Sequence[Spread | None]) -> float:
    means = [spread.mean for spread in spreads if spread]
    return max(means) - min(means) if means else -1.0


def _tick(name: str) -> str:
    return _escape(name if len(name) <= _LONGEST_TICK else name[: _LONGEST_TICK - 1] + "…")


def _escape(text: str) -> str:
    return html.escape(text, quote=False)  # plotly reads a little HTML in every text, but not &quot;
