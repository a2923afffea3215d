"""Table 1 and what is said of it, from the result of `lovasz paper binary` alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.foreground import LOSSES
from lovasz.lab.paper.result import FROZEN, Row, Section, Table, data_words

CLOSE = 0.005  # values within half a point (of 100) of the best count as tied


def table(result: Mapping[str, Any], name: str | None = None) -> dict[str, dict[str, float]]:
    """For each training loss, at the learning rate that it keeps, the mean over classes of each measured value.

    name: of one class, None: the mean over all.
    """
    scores = result["scores"]
    found = {}
    for loss in result["config"]["losses"]:
        kept = [
            run["values"][scores["split"]]
            for run in scores["runs"]
            if run["loss"] == loss and run["learning_rate"] == scores["chosen"][loss] and name in (None, run["class"])
        ]
        found[loss] = {key: statistics.fmean(values[key] for values in kept) for key in kept[0]}
    return found


def best_at(values: Mapping[str, Mapping[str, float]], key: str) -> list[str]:
    """The losses with the best value of `key`, those within CLOSE of it included; the best comes first."""
    sign = -1 if key.endswith("iou") else 1
    order = sorted(values, key=lambda loss: sign * values[loss][key])
    best = values[order[0]][key]
    return [loss for loss in order if abs(values[loss][key] - best) <= CLOSE]


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    config, scores = result["config"], result["scores"]
    values = table(result)
    rows = []
    for loss in config["losses"]:
        paper = {"lovasz_hinge": "the highest of three", "soft_jaccard": ""}.get(loss, "below the Lovász hinge")
        rows.append(
            Row(
                f"image-IoU after training with {LOSSES[loss]}, %",
                paper,
                _percent(values[loss]["image_iou"]),
                f"IoU of all pixels {_percent(values[loss]['dataset_iou'])}; learning rate {scores['chosen'][loss]:g}",
            )
        )
    starts = [found[scores["split"]] for found in scores["starts"].values()]
    rows.append(Row("image-IoU at the start, %", "", _percent(statistics.fmean(s["image_iou"] for s in starts))))
    measured = [loss for loss in LOSSES if loss in config["losses"]]
    head = ["value of, x 100", *(f"trained with {LOSSES[loss]}" for loss in config["losses"])]
    cells = [[LOSSES[key], *(_cell(values, loss, key) for loss in config["losses"])] for key in measured]
    cells.append(["image-IoU, %", *(_cell(values, loss, "image_iou") for loss in config["losses"])])
    tables = [Table("Table 1, mean over classes; the best of a line is bold.", head, cells)]
    if len(config["classes"]) > 1:
        each = {name: table(result, name) for name in config["classes"]}
        lines = [[n, *(_cell(of, loss, "image_iou") for loss in config["losses"])] for n, of in each.items()]
        tables.append(Table("Image-IoU of each class, %.", ["class", *head[1:]], lines))
    return Section(
        title=f"Section 4.2: one class against the rest, {data_words(config)} (Table 1, Figure 4)",
        command=command_line("binary", config),
        setting=_setting(config, scores),
        rows=tuple(rows),
        comparable="The order within a line of Table 1. Not the values: the paper fine-tunes DeepLab-v2, pre-trained "
        "on other data, on all of Pascal VOC and its 20 classes; network, images and length are others here, and the "
        "scaling of each loss is its own definition's.",
        seen=_seen(values, config["losses"]),
        tables=tables,
    )


def _cell(values: Mapping[str, Mapping[str, float]], loss: str, key: str) -> str:
    text = _percent(values[loss][key])
    return f"**{text}**" if best_at(values, key)[0] == loss else text


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _seen(values: Mapping[str, Mapping[str, float]], losses: list[str]) -> str:
    own, others = [], []
    for loss in losses:
        best = best_at(values, loss)
        if loss in best:
            own.append(LOSSES[loss] + ("" if best[0] == loss else f" (tied with {LOSSES[best[0]]})"))
        else:
            others.append(f"{LOSSES[loss]} is least after training with {LOSSES[best[0]]}")
    top = best_at(values, "image_iou")
    words = [f"best, or within {100 * CLOSE:g} of the best, at their own value: {', '.join(own) or 'none'}"]
    words += others
    line = f"the best image-IoU has {LOSSES[top[0]]}"
    if len(top) > 1:
        line += f", within {100 * CLOSE:g} points of it {', '.join(LOSSES[loss] for loss in top[1:])}"
    return "; ".join([*words, line]) + "."


def _rates(config: Mapping[str, Any], split: str) -> str:
    rates = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
    if len(config["learning_rates"]) == 1:
        return rates
    same = ", the images that are reported" if split == "val" else ""
    return f"of {rates} by the loss's own value on val{same}"


def _setting(config: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    start = (
        f"from {config['weights']}, the logit of the class minus that of the background"
        if config["weights"]
        else f"from random weights and {config['pretrain_epochs']} epochs of cross-entropy that all losses share"
    )
    shown = f", images and masks resized to {config['size'][0]} x {config['size'][1]}" if config["size"] else ""
    shown += f", crops of {config['crop'][0]} x {config['crop'][1]}" if config["crop"] else ""
    low, high = config.get("scale", (1, 1))
    shown += f", scaled by {low:g} to {high:g} at random" if (low, high) != (1, 1) else ""
    shown += FROZEN if config.get("freeze_batch_norm") else ""
    steps = scores["runs"][0]["steps"]
    counts = scores["images"]
    images = ", ".join(
        f"{name} {counts['train'][name]} / {counts[scores['split']][name]}" for name in config["classes"]
    )
    return (
        f"{config['model']} with one output, {start}{shown}; {config['epochs']} epochs of {steps // config['epochs']} "
        f"steps of {config['batch_size']} images, half of which hold the class where there are others; "
        f"{config['optimizer']}, learning rate {_rates(config, scores['split'])}; measured on "
        f"{scores['split']}, all images with the class and as many without, where there are; images with the "
        f"class, train / {scores['split']}: {images}; seed {config['seed']}."
    )
