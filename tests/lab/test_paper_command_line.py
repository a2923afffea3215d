"""The command printed above a result, typed again, asks for that result: read back by the command line's own parser."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lovasz.lab import commands
from lovasz.lab.errors import LabError
from lovasz.lab.paper import batches, binary, finetune, multiclass, networks, surfaces, synthetic, table2, table4
from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.result import data_words, read_result, spec_of

COMMITTED = sorted((Path(__file__).resolve().parents[2] / "docs/results/paper").glob("*.json"))
MODULES = (surfaces, synthetic, networks, batches, binary, multiclass, finetune)


@pytest.fixture
def typed(monkeypatch):
    """Types a line; gives what the experiment would have as its configuration."""
    asked: dict[str, Any] = {}

    def take(_folder, *given, **named):
        asked.update(given=given, named=named)
        raise LabError("stopped by the test")

    for module in MODULES:
        monkeypatch.setattr(module, "run", take)

    def of(line: str, name: str) -> dict[str, Any]:
        asked.clear()
        words = shlex.split(line)
        assert words[:2] == ["lovasz", "paper"]
        done = CliRunner().invoke(commands.app, words[1:])
        assert "stopped by the test" in done.output, done.output
        given, named = asked["given"], asked["named"]
        if given and hasattr(given[0], "to_json"):
            return given[0].to_json(given[0].classes, name) if words[2] == "binary" else _to_json(given[0], name)
        values = {"data": name, **({"weights": Path(given[1]).name} if len(given) > 1 else {}), **named}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    return of


def _to_json(setting: Any, name: str) -> dict[str, Any]:
    return setting.to_json() if isinstance(setting, synthetic.Setting) else setting.to_json(name)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_command_of_a_kept_result_asks_for_its_configuration(path, typed):
    result = read_result(path)
    config = result["config"]
    extra = {"step": config["bias"][2]} if "bias" in config else {}
    found = typed(command_line(result["name"], config | extra), config.get("data", ""))
    same = {name: found[name] for name in config if name in found}
    computed = {"networks": {"split", "images", "size"}, "batches": {"images"}}.get(result["name"], set())
    assert same == {name: value for name, value in config.items() if name not in computed}


OTHERS = {
    "binary": binary.Setting(
        data="voc:PATH", classes=("bird", "traffic light"), model="unet", weights="w.safetensors", losses=("hinge",),
        learning_rates=(1.23456789e-5, 0.3), epochs=7, batch_size=3, optimizer="sgd", weight_decay=0.0, size=(64, 96),
        crop=(32, 48), freeze_batch_norm=True, seed=5,
    ),
    "multiclass": multiclass.Setting(
        data="voc:PATH", weights="w.safetensors", model="unet", losses=("cross_entropy>0.8>hinge",),
        samplers=("equibatch",), learning_rates=(1e-3, 2e-4), epochs=2, batch_size=4, optimizer="adam",
        weight_decay=0.0, freeze_batch_norm=True, crop=None, scale=(1.0, 1.0), size=(8, 9), scales=(1.0, 0.3),
        images=7, crf=False, crf_search=3, batches=0, rules=("argmax",), seed=2,
    ),
    "finetune": finetune.Setting(
        data="camvid:PATH", weights="w.safetensors", model="unet", losses=("cross_entropy+0.5*hinge", "hinge"),
        learning_rates=(1e-3,), batch_sizes=(4, 3), seeds=(7,), samplers=("shuffle",), epochs=9, optimizer="sgd",
        weight_decay=1e-5, freeze_batch_norm=True, crop=(8, 9), scale=(0.5, 0.5), size=(512, 1024), keep="average",
    ),
    "synthetic": synthetic.Setting(draws=3, seed=4, epsilon=0.3, radius=(6.0, 7.5), bias=(-3.0, 2.0, 0.125)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_no_option_that_differs_from_the_default_is_left_out(name, typed):
    setting = OTHERS[name]
    data = "" if name == "synthetic" else setting.data.partition(":")[0]
    config = json.loads(
        json.dumps(setting.to_json(setting.classes, data) if name == "binary" else _to_json(setting, data))
    )
    extra = {"step": config["bias"][2]} if "bias" in config else {}
    line = command_line(name, config | extra)
    assert json.loads(json.dumps(typed(line, data))) == config
    for word in ("--device", "--threads", "--workers", "--out", "--resume"):
        assert word not in line


def test_options_of_the_data_are_said_and_printed_without_places():
    setting = multiclass.Setting(data="voc:/a/VOCdevkit?sbd=/b/benchmark_RELEASE", weights="w.safetensors")
    config = setting.to_json("voc")
    assert "/b" not in json.dumps(config)
    assert "'voc:PATH?sbd=PATH'" in command_line("multiclass", config)
    assert data_words(config) == "voc (sbd=benchmark_RELEASE)"
    config = binary.Setting(data="shapes?size=32&train=24", model="unet").to_json(("ring",), "shapes")
    assert "--data 'shapes?size=32&train=24'" in command_line("binary", config)
    assert spec_of("shapes") == "shapes"


def test_what_is_the_default_is_not_printed():
    config = finetune.Setting(data="camvid:PATH", weights="w.safetensors").to_json("camvid")
    assert command_line("finetune", config) == "lovasz paper finetune --data camvid:PATH --weights w.safetensors"


def test_the_setting_says_frozen_statistics_and_sizes_that_are_no_default():
    result = read_result(next(path for path in COMMITTED if path.stem == "multiclass"))
    assert "batch normalisation with the statistics of the start" in table2.section(result).setting
    result["config"]["freeze_batch_norm"] = False
    assert "batch normalisation" not in table2.section(result).setting
    result = read_result(next(path for path in COMMITTED if path.stem == "finetune"))
    plain = table4.section(result).setting
    assert "whole images, mirrored at random; adam" in plain
    result["config"] |= {"freeze_batch_norm": True, "scale": [0.5, 0.75], "size": [512, 1024], "crop": [8, 9]}
    wanted = "crops of 8 x 9, scaled by 0.5 to 0.75, mirrored at random, batch normalisation with the statistics of the"
    assert wanted in table4.section(result).setting
    assert "asked at 512 x 1024" in table4.section(result).setting
    assert "weights" not in table4.section(result).title
    result["config"]["keep"] = "average"
    assert "of each run the mean of its weights over its later steps" in table4.section(result).setting
    assert "trained further on camvid, weights averaged (Figure 9)" in table4.section(result).title
