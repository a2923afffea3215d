"""The report's page: self-contained, its table against numpy, hostile text, pictures, partial comparisons."""

import base64
import hashlib
import io
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.lab.comparison_folder import HOSTILE, LOSSES, comparison, content_of, draw_examples, write
from tests.lab.page_reader import Reader, read

from lovasz.lab import charts
from lovasz.lab.report import LARGEST_SIDE, write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = comparison()
    draw_examples(tmp_path, content, count=2, size=(48, 36))
    return write(tmp_path, content)


def test_the_page_names_no_address_outside_itself(folder: Path) -> None:
    page = read(folder)
    links = [
        value for _, name, value in page.attributes if name in {"src", "href", "srcset", "action", "poster", "data"}
    ]
    assert len(links) == 1 + 2 * (2 + len(LOSSES))  # the empty icon and the pictures of two examples
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import", page.styles)
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)


def test_the_policy_allows_exactly_the_two_scripts_of_the_page(folder: Path) -> None:
    page = read(folder)
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value.startswith("default-src"))
    executable = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in executable}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert len(executable) == 2
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_same_comparison_gives_the_same_bytes(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_bytes() == first
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "examples", "report.html"]


def columns(content: dict[str, Any]) -> list[tuple[float, int, bool, list[list[float]]]]:
    """Scale, digits, whether larger is better, and for each loss the seeds' values: read from the JSON alone."""
    by_loss = [[run for run in content["runs"] if run["loss"] == loss] for loss in content["losses"]]
    found: list[tuple[float, int, bool, list[list[float]]]] = []
    for split in ("val", "test"):
        for metric in ("dataset_miou", "image_miou", "pixel_accuracy"):
            if all(run["scores"][split] for run in content["runs"]):
                found.append((100, 1, True, [[run["scores"][split][metric] for run in runs] for runs in by_loss]))
    found.append((1000, 1, False, [[run["seconds_per_step"] for run in runs] for runs in by_loss]))
    share = [[run["loss_seconds_per_step"] / run["seconds_per_step"] for run in runs] for runs in by_loss]
    return [*found, (100, 1, False, share)]


@pytest.mark.parametrize("test", [True, False])
def test_every_cell_is_mean_and_sample_deviation_and_the_best_is_marked(tmp_path: Path, test: bool) -> None:
    content = comparison(test=test)
    cells = read(write(tmp_path, content)).scores()
    assert set(cells) == {"", *LOSSES}
    expected = columns(content)
    for place, (scale, digits, larger, values) in enumerate(expected):
        means = np.array([scale * np.mean(seeds) for seeds in values])
        shown = np.round(means, digits)
        best = shown == (shown.max() if larger else shown.min())
        for loss, mean, seeds, mark in zip(LOSSES, means, values, best, strict=True):
            name, text = cells[loss][place]
            number, deviation = re.fullmatch(r"([\d.]+)(?:★ \(best\))? ± ([\d.]+)", text).groups()  # pyright: ignore
            assert float(number) == pytest.approx(mean, abs=0.5 * 10**-digits + 1e-9)
            assert float(deviation) == pytest.approx(scale * np.std(seeds, ddof=1), abs=0.5 * 10**-digits + 1e-9)
            assert ("best" in name.split()) == ("★" in text) == mark
    assert all(len(row) == len(expected) for row in cells.values())


def test_losses_that_show_the_same_best_number_are_all_marked(tmp_path: Path) -> None:
    content = comparison(seeds=(0,))
    for run, value in zip(content["runs"], (0.57441, 0.57439, 0.5), strict=True):
        run["scores"]["test"]["dataset_miou"] = value
    cells = read(write(tmp_path, content)).scores()
    assert [cells[loss][3][1] for loss in LOSSES] == ["57.4★ (best)", "57.4★ (best)", "50.0"]


def test_losses_that_are_all_equal_as_shown_are_not_marked(tmp_path: Path) -> None:
    content = comparison(seeds=(0,))
    for run, value in zip(content["runs"], (0.57441, 0.57439, 0.57444), strict=True):
        run["scores"]["test"]["dataset_miou"] = value
    cells = read(write(tmp_path, content)).scores()
    assert [cells[loss][3][1] for loss in LOSSES] == ["57.4"] * 3


def test_the_start_has_a_row_that_never_counts_as_best(tmp_path: Path) -> None:
    content = comparison()
    content["initial"]["test"]["dataset_miou"] = 0.99
    row = read(write(tmp_path, content)).scores()[""]
    assert row[3] == ("first", "99.0")
    assert not any("best" in name for name, _ in row)
    assert [text for _, text in row[-2:]] == ["–", "–"]


def test_a_first_phase_of_each_seed_gives_the_start_a_mean_and_a_spread(tmp_path: Path) -> None:
    content = comparison(seeds=(0, 1, 2))
    values = [0.41, 0.44, 0.5]
    for seed, value in enumerate(values):
        scores = {split: content["initial"]["val"] | {"dataset_miou": value} for split in ("val", "test")}
        content["pretraining"].append({"seed": seed, "scores": scores, "history": [], "seconds": 3.0})
    content["start"]["kind"] = "pretraining"
    page = read(write(tmp_path, content))
    assert page.scores()[""][3][1] == f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
    assert "after the first phase" in page.text
    thin = page.figures()["curves"]["dataset_miou"]["data"][:3]
    assert [curve["y"][0] for curve in thin] == [41, 44, 50]


def test_a_single_loss_is_not_called_best(tmp_path: Path) -> None:
    cells = read(write(tmp_path, comparison(losses=("lovasz_softmax",), seeds=(0,)))).scores()
    assert not any("best" in name for name, _ in cells["lovasz_softmax"])


def test_slow_steps_are_given_in_seconds(tmp_path: Path) -> None:
    content = comparison(seeds=(0,))
    for run in content["runs"]:
        run["seconds_per_step"] = 4.2
    page = read(write(tmp_path, content))
    assert "s per step" in page.text
    assert "ms per step" not in page.text
    assert page.scores()[LOSSES[0]][-2][1] == "4.20"


def replace_texts(value: Any, text: str) -> Any:
    """The same structure with every free text replaced, names that must fit each other by numbered ones."""
    if isinstance(value, dict):
        return {key: replace_texts(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [replace_texts(inner, text) for inner in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "</script><img src=x onerror=alert(1)>",
        "\"'><svg onload=alert(1)>",
        "{{ 7 * 7 }}{% raise %}",
        "</style>&amp;\u2028\ud800",
    ],
)
def test_no_text_of_the_comparison_changes_the_structure_of_the_page(tmp_path: Path, text: str) -> None:
    def made(name: str, text: str) -> Reader:
        content = comparison(
            classes=("first", text + " 1", text + " 2"), losses=("lovasz_softmax", text + "loss"), seeds=(0, 1)
        )
        place = tmp_path / name
        place.mkdir()
        draw_examples(place, content, count=1, size=(8, 6))
        for key in ("command", "created", "model", "start", "config", "environment"):
            content[key] = replace_texts(content[key], text)
        content["dataset"] |= {"spec": text, "name": text}
        content["config"][text + "key"] = [text]
        content["examples"][0]["name"] = text
        for run in content["runs"]:
            run["weights"] = text.encode("utf-8", "replace").decode()
        return read(write(place, content))

    plain, hostile = made("plain", "harmless"), made("hostile", text)
    assert hostile.tags == plain.tags
    assert [(tag, name) for tag, name, _ in hostile.attributes] == [(tag, name) for tag, name, _ in plain.attributes]
    shown = text.replace("\ud800", "?")
    assert hostile.text.count(shown + " 1") == plain.text.count("harmless 1") == 3  # two tables and the colours


def test_a_class_named_like_a_script_is_text_in_page_and_chart(folder: Path) -> None:
    page = read(folder)
    assert HOSTILE in page.text
    assert len(page.scripts) == 3
    ticks = page.figures()["classes"]["test listed"]["layout"]["yaxis"]["ticktext"]
    assert ticks[2] == "&lt;script&gt;alert(1)&lt;/scr…"


def pictures(page: Reader) -> list[tuple[str, bytes]]:
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    return [(alt, base64.b64decode(uri.partition(",")[2])) for alt, uri in zip(alts, sources, strict=True)]


def test_pictures_are_embedded_as_they_are_largest_difference_first(folder: Path) -> None:
    content, shown = content_of(folder), pictures(read(folder))
    expected = []
    for example in sorted(content["examples"], key=lambda example: -example["difference"]):
        paths = [example["image"], example["truth"], *(example["predictions"][loss]["image"] for loss in LOSSES)]
        expected += [(example["name"], (folder / path).read_bytes()) for path in paths]
    assert [data for _, data in shown] == [data for _, data in expected]
    assert all(name in alt for (alt, _), (name, _) in zip(shown, expected, strict=True))
    best = max(content["examples"][1]["predictions"].values(), key=lambda prediction: prediction["miou"])["miou"]
    assert f"{100 * best:.1f} %★ (best)" in read(folder).text


def test_a_loss_without_a_picture_is_left_out(folder: Path) -> None:
    content = content_of(folder)
    del content["examples"][0]["predictions"][LOSSES[0]]
    content["examples"][1]["difference"] = float("nan")
    assert len(pictures(read(write(folder, content)))) == 2 * (2 + len(LOSSES)) - 1


def test_void_is_explained_in_its_colour_and_where_the_truth_has_some(folder: Path) -> None:
    content = content_of(folder)
    content["dataset"]["palette"][0] = [0, 0, 0]
    assert "void, in the truth" not in read(write(folder, content)).text
    path = folder / content["examples"][0]["truth"]
    with Image.open(path) as image:
        truth = np.array(image)
    truth[:2] = 224, 224, 192
    Image.fromarray(truth).save(path)
    page = read(write(folder, content))
    assert "void, in the truth: not counted" in page.text
    assert ("span", "style", "background:rgb(224,224,192)") in page.attributes


def test_a_large_picture_is_reduced_without_mixing_class_colours_and_the_page_says_so(folder: Path) -> None:
    content = content_of(folder)
    colours = {tuple(colour) for colour in content["dataset"]["palette"]}
    example = max(content["examples"], key=lambda example: example["difference"])
    chance = random.Random(0)
    for path in (example["image"], example["truth"]):
        large = Image.new("RGB", (2 * LARGEST_SIDE, 300))
        large.putdata([chance.choice(sorted(colours)) for _ in range(2 * LARGEST_SIDE * 300)])
        large.save(folder / path)
    page = read(folder)
    photo, truth = (Image.open(io.BytesIO(data)) for _, data in pictures(page)[:2])
    assert photo.size == truth.size == (LARGEST_SIDE, 150)
    assert {colour for _, colour in truth.getcolors(10**6)} <= colours  # pyright: ignore
    assert f"larger than {LARGEST_SIDE} pixels are shown reduced" in page.text


def test_missing_runs_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    content = comparison()
    content["runs"] = content["runs"][:4]  # three seeds of the first loss, one of the second, none of the third
    page = read(write(tmp_path, content))
    assert (
        "Missing: Lovász-Softmax with seed 1; Lovász-Softmax with seed 2; cross-entropy + 0.5 × Lovász-Softmax."
        in page.text
    )
    cells = page.scores()
    assert {text for _, text in cells[LOSSES[2]]} == {"–"}
    assert "±" in cells[LOSSES[0]][0][1]
    assert "±" not in cells[LOSSES[1]][0][1]


@pytest.mark.parametrize("count", [1, 2, 8, 10])
def test_any_number_of_losses_and_classes_gives_a_page(tmp_path: Path, count: int) -> None:
    losses = tuple(f"loss_{i}" for i in range(count))
    content = comparison(losses=losses, seeds=(3,), classes=tuple(f"class {i}" for i in range(150)))
    page = read(write(tmp_path, content))
    assert set(page.scores()) == {"", *losses}
    assert len(page.figures()["classes"]["val listed"]["layout"]["yaxis"]["ticktext"]) == 150


def test_a_comparison_without_runs_start_test_or_examples_gives_a_page(tmp_path: Path) -> None:
    content = comparison(test=False)
    for key in ("initial", "start", "config", "environment", "parameters", "seeds", "pretraining"):
        del content[key]
    content["runs"] = []
    page = read(write(tmp_path, content))
    assert page.figures() == {"curves": {}, "classes": {}}
    assert "No run has finished yet" in page.text
    assert "kept no example pictures" in page.text


def channel(value: int) -> float:
    return value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    red, green, blue = (channel(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_enough_contrast_in_light_and_dark(folder: Path) -> None:
    """WCAG 2.1: 4.5 for text, 3 for graphics."""
    light, dark = re.findall(r":root[^{]*\{(.*?)\}", read(folder).styles, flags=re.DOTALL)
    for block in (light, dark):
        names = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for ground in ("page", "panel"):
            assert contrast(names["ink"], names[ground]) >= 7
            assert contrast(names["muted"], names[ground]) >= 4.5
        assert contrast(names["ink"], names["notice"]) >= 7
        assert contrast(names["ink"], names["mark"]) >= 7
        assert min(contrast(names[f"loss-{i}"], names["panel"]) for i in range(charts.COLOURS)) >= 3
