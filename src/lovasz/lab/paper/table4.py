"""The tables of fine-tuning and Figure 9, from the entries of the result alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.iiou import SCORES
from lovasz.lab.paper.result import FROZEN, Row, Section, Table, data_words
from lovasz.lab.summary import label_of

CAPTION = "Figure 9: mean IoU over the batch size after fine-tuning, mean and standard deviation over seeds"
ENET = ("58.3", "34.4", "80.4", "64.0")  # Paszke et al. 2016, Table 4
KEPT = {
    "best": "; of each run the epoch that was best on val",
    "average": "; of each run the mean of its weights over its later steps, in which the learning rate stays as it is",
}
GROUP = ("loss", "batch_size", "learning_rate", "sampler", "epochs")


def groups(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that differ in the seed alone, together: the longest first, then by sampler, by loss in the order in
    which these came, and from the largest batch down.

    Each has the fields of GROUP, `runs`, `reported`: whether its learning rate is the one chosen for its loss, batch
    size and number of epochs, or none was chosen there; and `searched`: whether one was, of several.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in scores["runs"]:
        key = tuple(run[name] for name in GROUP)
        found.setdefault(key, {**dict(zip(GROUP, key, strict=True)), "runs": []})["runs"].append(run)
    chosen = {(one["loss"], one["batch_size"], one.get("epochs")): one["learning_rate"] for one in scores["chosen"]}
    tried: dict[tuple[Any, ...], set[float]] = {}
    for group in found.values():
        tried.setdefault((group["loss"], group["batch_size"], group["epochs"]), set()).add(group["learning_rate"])
    for group in found.values():
        where = group["loss"], group["batch_size"]
        there = any((*where, epochs) in chosen for epochs in (None, group["epochs"]))
        group["searched"] = there and len(tried[*where, group["epochs"]]) > 1
        of_any = chosen.get((*where, None), group["learning_rate"])  # older results do not say the epochs
        group["reported"] = chosen.get((*where, group["epochs"]), of_any) == group["learning_rate"]
    losses = list(dict.fromkeys(run["loss"] for run in scores["runs"]))

    def place(group: Mapping[str, Any]) -> tuple[Any, ...]:
        plain_first = group["sampler"] != "shuffle"
        return -group["epochs"], plain_first, losses.index(group["loss"]), -group["batch_size"], group["learning_rate"]

    return sorted(found.values(), key=place)


def split_of(scores: Mapping[str, Any]) -> str:
    """test where every run has it, else val."""
    return "test" if all(run["test"] for run in scores["runs"]) else "val"


def mean(group: Mapping[str, Any], split: str, score: str = "dataset_miou") -> float:
    """Over the seeds of a group."""
    return statistics.fmean(run[split][score] for run in group["runs"])


def spread(group: Mapping[str, Any], split: str) -> float | None:
    """Standard deviation over seeds; None for one seed."""
    values = [run[split]["dataset_miou"] for run in group["runs"]]
    return statistics.stdev(values) if len(values) > 1 else None


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    config, scores = result["config"], result["scores"]
    split = split_of(scores)
    start = scores["start"][split]["dataset_miou"]
    reported = [group for group in groups(scores) if group["reported"] or len(group["runs"]) > 1]
    rows = [Row(f"before, mean IoU on {split}, %", "58.3 (ENet, Cityscapes test)", f"{100 * start:.2f}")]
    several = len({group["epochs"] for group in reported}) > 1
    for group in reported:
        paper = "63.06 (Cityscapes test)" if group["loss"] == "lovasz_softmax" and group["batch_size"] == 10 else ""
        seeds = len(group["runs"])
        note = f"{100 * (mean(group, split) - start):+.2f}; learning rate {group['learning_rate']:g}, "
        note += _count(seeds, "seed") + ("" if several else f", {_count(group['epochs'], 'epoch')}")
        note += "" if group["reported"] else "; the search kept another rate"
        length = f", {_count(group['epochs'], 'epoch')}" if several else ""
        rows.append(Row(f"{line_of(group)}{length}, mean IoU on {split}, %", paper, _percent(group, split), note))
    tables = _table_4(scores), _rates(scores), _classes(reported, scores, split)
    averaged = ", weights averaged" if config.get("keep") == "average" else ""
    return Section(
        title=f"Section 4.4: {config['model']} trained further on {data_words(config)}{averaged} (Figure 9)",
        command=command_line("finetune", config),
        setting=_setting(config, scores),
        rows=tuple(rows),
        comparable="The gain of one loss over another from the same start under the same budget. Not the values: the "
        "paper's are of Cityscapes' test set, after many more steps; 58.3 is what ENet's authors report (Paszke et al. "
        "2016). Batch sizes run for the same number of epochs, so a smaller one takes more steps.",
        seen=_seen(reported, start, split),
        tables=[table for table in tables if table is not None],
        machine=" and ".join(sorted({run["machine"] for run in scores["runs"]})),
        seconds=sum(run["seconds"] for run in scores["runs"]),
    )


def _table_4(scores: Mapping[str, Any]) -> Table | None:
    """The four scores of Cityscapes, where the data are these; mean over seeds."""
    found: dict[str, list[Mapping[str, float | None]]] = {}
    for one in scores.get("cityscapes", ()):
        found.setdefault(one["name"], []).append(one)
    if not found:
        return None
    lines = [["ENet on test, by its authors", *ENET], ["Lovász-Softmax on test, the paper", "63.06", "", "", ""]]
    for name, runs in found.items():
        values = [[run[score] for run in runs] for score in SCORES]
        cells = [f"{100 * statistics.fmean(v):.2f}" if None not in v else "-" for v in values]  # type: ignore[type-var]
        lines.append([f"{name}, on val", *cells])
    return Table("Table 4: the scores of Cityscapes, %.", ["", *SCORES.values()], lines)


def _rates(scores: Mapping[str, Any]) -> Table | None:
    """The search: val after one run of the first seed for each learning rate."""
    first = {}
    for group in groups(scores):
        run = group["runs"][0]
        first.setdefault((group["batch_size"], group["loss"], group["sampler"], group["epochs"]), {})[
            group["learning_rate"]
        ] = (run["val"]["dataset_miou"], _kept(group))
    searched = {key: rates for key, rates in first.items() if len(rates) > 1}
    if not searched:
        return None
    rates = sorted({rate for found in searched.values() for rate in found})
    lines = []
    for (size, loss, sampler, epochs), found in searched.items():
        name = line_of({"loss": loss, "batch_size": size, "sampler": sampler})
        name += f", {_count(epochs, 'epoch')}" if len({key[-1] for key in searched}) > 1 else ""
        cells = []
        for rate in rates:
            value, kept = found.get(rate, (None, False))
            text = "" if value is None else f"{100 * value:.2f}"
            cells.append(f"**{text}**" if kept else text)
        lines.append([name, *cells])
    head = ["mean IoU on val, %", *(f"{rate:g}" for rate in rates)]
    return Table("Search of the learning rate, on val, with the first seed; bold: the one kept.", head, lines)


def _classes(reported: Sequence[Mapping[str, Any]], scores: Mapping[str, Any], split: str) -> Table | None:
    """IoU of each class at the largest batch size, mean over seeds."""
    size = max((group["batch_size"] for group in reported), default=0)
    shown = [group for group in reported if group["batch_size"] == size and group["sampler"] == "shuffle"]
    if not shown:
        return None
    lines = []
    for name, before in scores["start"][split]["per_class_iou"].items():
        cells = ["-" if before is None else f"{100 * before:.1f}"]
        for group in shown:
            values = [run[split]["per_class_iou"][name] for run in group["runs"]]
            cells.append("-" if None in values else f"{100 * statistics.fmean(values):.1f}")
        lines.append([name, *cells])
    labels = [f"{label_of(g['loss'])}, {g['learning_rate']:g}, {_count(g['epochs'], 'epoch')}" for g in shown]
    return Table(
        f"IoU of each class on {split}, batch size {size}, by loss and learning rate, %.",
        ["class", "before", *labels],
        lines,
    )


def _seen(reported: Sequence[Mapping[str, Any]], start: float, split: str) -> str:
    """What the issue of the comparison is: the gains at one batch size, over it, and of equibatch."""
    parts = []
    plain = [group for group in reported if group["sampler"] == "shuffle"]
    for group in (one for one in plain if one["loss"] == "lovasz_softmax"):
        gain = 100 * (mean(group, split) - start)
        words = f"batch size {group['batch_size']}, {_count(group['epochs'], 'epoch')}, "
        alike = f"all at {group['learning_rate']:g}" + ("" if group["searched"] else ", not searched")
        words += "each at the rate kept: " if _kept(group) else f"{alike}: "
        words += f"Lovász-Softmax {gain:+.2f} points from the start"
        for other in plain:
            same = all(other[name] == group[name] for name in ("batch_size", "epochs"))
            fair = _kept(other) if _kept(group) else other["learning_rate"] == group["learning_rate"]
            if same and fair and other["loss"] in ("weighted_cross_entropy", "cross_entropy"):
                difference = 100 * (mean(group, split) - mean(other, split))
                words += f", {difference:+.2f} from {label_of(other['loss'])}"
        parts.append(words)
    for group in (one for one in reported if one["sampler"] == "equibatch"):
        for other in plain:
            if all(other[name] == group[name] for name in ("loss", "batch_size", "epochs", "learning_rate")):
                difference = 100 * (mean(group, split) - mean(other, split))
                label = label_of(group["loss"])
                parts.append(f"equibatch with {label}, batch size {group['batch_size']}: {difference:+.2f} points")
    return ("; ".join(parts) + f" (mean IoU on {split}).") if parts else ""


def _kept(group: Mapping[str, Any]) -> bool:
    """Whether a search kept its learning rate."""
    return group["searched"] and group["reported"]


def draw(pyplot: Any, scores: Mapping[str, Any], path: Path) -> str:
    """Figure 9: batch sizes at the left, epochs at the right where a run has a curve; returns its caption."""
    reported = [group for group in groups(scores) if group["reported"]] if scores["runs"] else []
    split = split_of(scores)
    with_curves = any(_curves(group) for group in reported)
    columns = 2 if with_curves else 1
    figure, panels = pyplot.subplots(
        1, columns, figsize=(10 if with_curves else 7, 4.4), dpi=110, layout="constrained", squeeze=False
    )
    left, right = panels[0, 0], panels[0, -1]
    lines: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for group in reported:
        lines.setdefault((group["loss"], group["sampler"], group["epochs"]), []).append(group)
    largest = max((group["batch_size"] for group in reported), default=0)
    lengths = sorted({epochs for _, _, epochs in lines}, reverse=True)
    losses = list(dict.fromkeys(loss for loss, _, _ in lines))
    for (loss, sampler, epochs), found in lines.items():
        label = label_of(loss) + (", equibatch" if sampler == "equibatch" else "")
        label += f", {_count(epochs, 'epoch')}" if len(lengths) > 1 else ""
        # The colour tells the loss, the marker the length; equibatch's is hollow: a point alone shows no dashes.
        style = {"color": f"C{losses.index(loss)}", "linestyle": "--" if sampler == "equibatch" else "-"}
        style |= {"marker": "os^D"[lengths.index(epochs) % 4], "markersize": 5}
        style |= {"markerfacecolor": "white"} if sampler == "equibatch" else {}
        found = sorted(found, key=lambda group: group["batch_size"])
        left.errorbar(
            [group["batch_size"] for group in found],
            [100 * mean(group, split) for group in found],
            [100 * (spread(group, split) or 0) for group in found],
            capsize=3,
            label=label,
            **style,
        )
        for curves in (_curves(one) for one in found if one["batch_size"] == largest):
            if curves:
                steps = range(1, len(curves[0]) + 1)
                right.plot(steps, [100 * statistics.fmean(values) for values in zip(*curves, strict=True)], **style)
    if scores["start"]:
        left.axhline(100 * scores["start"][split]["dataset_miou"], color="grey", linewidth=1, label="before")
    left.set(xlabel="batch size", ylabel=f"mean IoU on {split}, %")
    left.set_xticks(sorted({group["batch_size"] for group in reported}))
    if with_curves:
        if scores["start"]:
            right.axhline(100 * scores["start"]["val"]["dataset_miou"], color="grey", linewidth=1)
        right.set(xlabel="epoch", ylabel="mean IoU on val, %", title=f"batch size {largest}")
        right.locator_params(axis="x", integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=1 + columns, fontsize="small")
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return CAPTION + (" (left), and on val over the epochs at the largest batch size (right)" if with_curves else "")


def _curves(group: Mapping[str, Any]) -> list[list[float]]:
    """Of the runs of a group, on val; one epoch is no curve, and not every run is validated after each."""
    return [run["curve"] for run in group["runs"] if None not in run["curve"] and len(run["curve"]) > 1]


def line_of(group: Mapping[str, Any]) -> str:
    """What a line of a table is called."""
    equibatch = ", equibatch" if group["sampler"] == "equibatch" else ""
    return f"{label_of(group['loss'])}, batch size {group['batch_size']}{equibatch}"


def _percent(group: Mapping[str, Any], split: str) -> str:
    deviation = spread(group, split)
    return f"{100 * mean(group, split):.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _setting(config: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    grid = {name: config[key] for name, key in (("batch_size", "batch_sizes"), ("sampler", "samplers"))}
    grid["epochs"] = [config["epochs"]]
    earlier = any(run[name] not in allowed for run in scores["runs"] for name, allowed in grid.items())
    hours = sum(run["seconds"] for run in scores["runs"]) / 3600
    seen = "whole images" if config["crop"] is None else f"crops of {config['crop'][0]} x {config['crop'][1]}"
    low, high = config["scale"]
    seen += "" if low == high == 1 else f", scaled by {low:g}" + ("" if low == high else f" to {high:g}")
    seen += ", mirrored at random" + (FROZEN if config.get("freeze_batch_norm") else "")
    seen += KEPT.get(config.get("keep", "last"), "")
    if config.get("size"):  # entries of earlier versions say no size: in validation they knew none
        whole = scores["runs"][0].get("same", {}).get("size") is not None
        seen += f"; {'asked' if whole else 'Table 4 asked'} at {config['size'][0]} x {config['size'][1]}"
    return (
        f"{config['model']} from {config['weights']}; {seen}; {config['optimizer']}, poly schedule "
        f"(Eq. 16), weight decay {config['weight_decay']:g}; {_count(len(scores['runs']), 'run')}, {hours:.1f} h in "
        "all; the learning rate of each loss and batch size by one run of the first seed on val, where "
        "more than one was tried; test is looked at for the tables alone."
        + (" Lengths, batch sizes and samplers that the command does not name are of earlier calls." if earlier else "")
        + (
            ""
            if scores.get("complete", True)
            else " The grid is not finished: what is missing is to be run with --resume."
        )
    )
