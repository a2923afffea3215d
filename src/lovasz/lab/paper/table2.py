"""Tables 2 and 3, the decision rules and what Figures 5 and 6 are of, from `lovasz paper multiclass`' result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lovasz.lab.paper.answers import RULES, WAYS
from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.result import FROZEN, Row, Section, Table, data_words

SAMPLERS = {"shuffle": "", "equibatch": ", equibatch"}


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    config, scores = result["config"], result["scores"]
    answers = scores["answers"]
    ways = [way for way in WAYS if way in answers["start"]["ways"]]
    rows = []
    for name, found in answers.items():
        for way in ways:
            value = found["ways"][way]["dataset_miou"]
            gain = value - answers["start"]["ways"][way]["dataset_miou"]
            note = "" if name == "start" else f"{100 * gain:+.2f} from the start"
            rows.append(Row(f"{_label(name)}, {WAYS[way]}, mean IoU, %", _paper(name, way), _percent(value), note))
    tables = [table for table in (_rules(answers), _crf(answers), _classes(answers)) if table is not None]
    return Section(
        title=f"Section 4.3: all classes of {data_words(config)} with {config['model']} (Tables 2, 3, Figures 5, 6)",
        command=command_line("multiclass", config),
        setting=_setting(config, scores),
        rows=tuple(rows),
        comparable="One loss against another, with and without equibatch, under one budget on one network. Not the "
        "values: the paper trains DeepLab-v2 for 20,000 or 30,000 steps on 10,582 images and reports 79.0 on VOC's "
        "test server with Lovász-Softmax, several scales and CRF; the network, images and length are others here.",
        seen=_seen(answers, ways),
        tables=tables,
        pictured={
            "paper-figure-5.png": f", {scores['images']} images of val{_size(config['size'])}; {_parameters(answers)}",
            "paper-figure-6.png": f", {_validation(scores)}; the tables have {scores['images']}{_size(config['size'])}",
        },
    )


def _paper(name: str, way: str) -> str:
    return "79.0 (VOC test)" if name.startswith("lovasz_softmax, equibatch") and way == "crf" else ""


def _seen(answers: Mapping[str, Any], ways: list[str]) -> str:
    parts = []
    for sampler in SAMPLERS:
        ours, theirs = (answers.get(f"{loss}, {sampler}") for loss in ("lovasz_softmax", "cross_entropy"))
        if ours is None or theirs is None:
            continue
        gains = [100 * (ours["ways"][w]["dataset_miou"] - theirs["ways"][w]["dataset_miou"]) for w in ways]
        words = ", ".join(f"{gain:+.2f} at {WAYS[way]}" for gain, way in zip(gains, ways, strict=True))
        parts.append(f"Lovász-Softmax against cross-entropy{SAMPLERS[sampler]}: {words}")
    for name, found in answers.items():
        if found["rules"]:
            values = {rule: one["batch_miou"] for rule, one in found["rules"].items()}
            plain = values.pop("argmax", None)
            if values and plain is not None:
                gains = [f"{100 * (value - plain):+.2f} by {rule}" for rule, value in values.items()]
                parts.append(f"batch-mIoU against arg max, {_label(name)}: {', '.join(gains)}")
    return ("; ".join(parts) + " (points).") if parts else ""


def _rules(answers: Mapping[str, Any]) -> Table | None:
    shown = {name: found["rules"] for name, found in answers.items() if found["rules"]}
    if not shown:
        return None
    rules = list(next(iter(shown.values())))
    lines = [
        [_label(name), *(f"{_percent(of[rule]['batch_miou'])} / {_percent(of[rule]['image_miou'])}" for rule in rules)]
        for name, of in shown.items()
    ]
    classes = len(answers["start"]["ways"]["single"]["per_class_iou"])
    cycled = answers["start"].get("cycled", classes)  # earlier results do not say it
    held = "every class" if cycled == classes else f"each of the {cycled} classes of {classes} that images of val hold"
    caption = "Decision rules on the same probabilities: batch-mIoU / image-mIoU, %, mean over batches that hold "
    caption += f"{held}."
    return Table(caption, ["network", *(RULES[rule][0] for rule in rules)], lines)


def _crf(answers: Mapping[str, Any]) -> Table | None:
    searched = {name: found["crf"] for name, found in answers.items() if found["crf"]}
    if not searched:
        return None
    names = ("appearance_weight", "appearance_pixels", "appearance_colours")
    lines = []
    for name, found in searched.items():
        values = [one["dataset_miou"] for one in found["tried"]]
        best = [f"{found['best'][key]:g}" for key in names]
        lines.append([_label(name), *best, _percent(max(values)), _percent(values[0])])
    count = next(iter(searched.values()))["images"]
    head = ["network", "weight", "pixels", "colours", "mean IoU at these, %", "at DeepLab-v2's, %"]
    return Table(f"Search of the CRF's appearance term on {count} training images.", head, lines)


def _parameters(answers: Mapping[str, Any]) -> str:
    """Whose parameters the CRF has."""
    return "its parameters searched for each network" if answers["start"]["crf"] else "its parameters are DeepLab-v2's"


def _classes(answers: Mapping[str, Any]) -> Table:
    names = list(answers)
    classes = answers[names[0]]["ways"]["single"]["per_class_iou"]
    lines = []
    for label in classes:
        values = [answers[name]["ways"]["single"]["per_class_iou"][label] for name in names]
        lines.append([label, *("-" if value is None else f"{100 * value:.1f}" for value in values)])
    return Table("IoU of each class at one scale, %.", ["class", *map(_label, names)], lines)


def _label(name: str) -> str:
    loss, _, sampler = name.partition(", ")
    words = {"cross_entropy": "cross-entropy", "lovasz_softmax": "Lovász-Softmax", "start": "before"}
    return words.get(loss, loss) + SAMPLERS.get(sampler, "")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _searched(config: Mapping[str, Any]) -> str:
    """A search has to say on what: VOC has no third split."""
    rates = config["learning_rates"]
    return f", of {', '.join(f'{rate:g}' for rate in rates)} by mean IoU on val itself" if len(rates) > 1 else ""


def _validation(scores: Mapping[str, Any]) -> str:
    """What the curves of Figure 6 are of; entries of earlier versions say no size, for they knew none."""
    size = scores["training"]["runs"][0]["same"].get("size")
    return f"on all images of val{_size(size)}"


def _size(size: Sequence[int] | None) -> str:
    return " at their own size" if size is None else f" at {size[0]} x {size[1]}"


def _setting(config: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    crop = "whole images" if config["crop"] is None else f"crops of {config['crop'][0]} x {config['crop'][1]}"
    low, high = config["scale"]
    frozen = FROZEN if config.get("freeze_batch_norm") else ""
    asked = f", resized to {config['size'][0]} x {config['size'][1]} and the answer back" if config["size"] else ""
    run = scores["training"]["runs"][0]
    chosen = {f"{one['loss']} {one['learning_rate']:g}" for one in scores["training"]["chosen"]}
    return (
        f"{config['model']} from {config['weights']}; {config['optimizer']}, momentum 0.9, weight decay "
        f"{config['weight_decay']:g}, poly schedule (Eq. 16), {run['steps']} steps of {config['batch_size']} {crop}, "
        f"scaled by {low:g} to {high:g} and mirrored at random{frozen}; learning rates "
        f"{', '.join(sorted(chosen))}{_searched(config)}; "
        f"validation during training {_validation(scores)}; asked on {scores['images']} images of val{asked}; "
        f"scales {', '.join(f'{s:g}' for s in config['scales'])}; "
        f"decision rules on {config['batches']} batches at {config['shape'][0]} x {config['shape'][1]}; seed "
        f"{config['seed']}."
    )
