"""One self-contained HTML page for a comparison: reads its folder, embeds pictures and charts, writes report.html.

Apart from the comparison itself, so that a page can be made again, or of a part of the runs, without training.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from lovasz.lab import charts, summary
from lovasz.lab.comparison_format import FILE_NAME, inside, read_comparison
from lovasz.lab.data.colours import void_colour
from lovasz.lab.data.dataset import Colour
from lovasz.lab.errors import LabError

REPORT_NAME = "report.html"
LARGEST_SIDE = 1200  # pixels; larger pictures are embedded reduced, and the page says so
SMALL_SIDE = 200  # pixels; below, enlarged pixels stay sharp squares


@dataclass(frozen=True)
class Picture:
    """One embedded picture of an example. `loss` is None for the input and the truth."""

    uri: str
    width: int
    height: int
    caption: str
    alt: str
    loss: summary.Loss | None = None
    miou: str = ""
    best: bool = False
    reduced: bool = False

    @property
    def small(self) -> bool:
        """Whether the page will show it larger than it is."""
        return max(self.width, self.height) < SMALL_SIDE


@dataclass(frozen=True)
class Example:
    """The pictures of one validation image: input, truth, then each loss's prediction."""

    name: str
    difference: str
    pictures: tuple[Picture, ...]
    void: bool  # whether the truth has any

    @property
    def columns(self) -> int:
        """Pictures in a row of a wide page: all, or half where they would get too small."""
        count = len(self.pictures)
        return count if count <= 5 else math.ceil(count / 2)


def write_report(folder: Path) -> Path:
    """Make `folder/report.html` from `folder/comparison.json` and the pictures that it names; returns its path.

    The page needs no network: styles, scripts (plotly.js included) and pictures are inside, and its content security
    policy lets the browser fetch nothing and run no script but these. Runs that have not finished are left out and
    named. An existing report is replaced in one step.

    Raises LabError when comparison.json is missing, not readable or of another version, when one of its fields is not
    what it must be, when a picture is missing, broken or outside the folder, and when the page cannot be written.
    """
    folder = Path(folder)
    comparison = read_comparison(folder)
    for index, run in enumerate(comparison["runs"]):
        if run["weights"] is not None:
            inside(folder, run["weights"], f"{folder / FILE_NAME}: runs[{index}].weights")
    page = _render(comparison, _examples(folder, comparison))
    path = folder / REPORT_NAME
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(
            page, encoding="utf-8", errors="replace", newline="\n"
        )  # JSON may hold half a surrogate pair
        temporary.replace(path)
    except OSError as error:
        raise LabError(f"{path}: cannot be written ({error.strerror}).") from None
    return path


def _render(comparison: dict[str, Any], examples: list[Example]) -> str:
    from plotly.offline import get_plotlyjs  # kept out of the command line's start

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lovasz.lab"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "sort_keys": False, "separators": (",", ":")}
    scripts = [_script(get_plotlyjs()), _script(_template_text("report.js"))]
    losses = summary.losses_of(comparison)
    title, lede = summary.headline(comparison)
    splits = summary.score_splits(comparison)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        title=_bind(title),
        lede=_bind(lede),
        cautions=summary.data_cautions(comparison),
        losses=losses,
        missing=summary.missing_runs(comparison),
        planned=len(losses) * len(summary.planned_seeds(comparison)),
        table=summary.score_table(comparison),
        strip=_strip(losses, "test" if "test" in splits else "val"),
        split_names=summary.SPLITS,
        metric_names=summary.METRICS,
        curves=(curves := charts.validation_curves(comparison)),
        curve_table=_curve_table(curves),
        bars=(bars := charts.class_bars(comparison)),
        class_tables=[(split, _class_table(comparison, losses, split)) for split in splits],
        figures={"curves": curves, "classes": bars},
        examples=examples,
        void=void_colour(comparison["dataset"]["palette"]) if any(example.void for example in examples) else None,
        reduced=LARGEST_SIDE if any(picture.reduced for example in examples for picture in example.pictures) else None,
        created=_readable_time(comparison["created"]),
        settings=_rows(comparison["config"]),
        environment=_rows(comparison["environment"]),
        symbols=charts.SYMBOLS,
        colour=charts.loss_colour,
        percent=_percent,
        style=Markup(_template_text("report.css")),
        scripts=scripts,
        script_hashes=[_hash(script) for script in scripts],
    )


def _bind(text: str) -> str:
    """A number and what follows it stay on one line."""
    return text.replace(" %", "\u00a0%").replace(" point", "\u00a0point")


def _template_text(name: str) -> str:
    return (files("lovasz.lab") / "templates" / name).read_text(encoding="utf-8")


def _script(text: str) -> Markup:
    """Our own or plotly's code, not data. A browser reads \\r\\n as \\n before it hashes, so that is done here too."""
    return Markup("\n" + text.replace("\r\n", "\n").replace("</script", "<\\/script") + "\n")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# The pictures


def _examples(folder: Path, comparison: dict[str, Any]) -> list[Example]:
    """Largest difference first."""
    losses, void = summary.losses_of(comparison), void_colour(comparison["dataset"]["palette"])

    def difference(example: dict[str, Any]) -> float:
        value = example["difference"]
        return value if value is not None and math.isfinite(value) else 0.0

    return [
        _example(folder, example, difference(example), losses, void)
        for example in sorted(comparison["examples"], key=difference, reverse=True)
    ]


def _example(
    folder: Path, example: dict[str, Any], difference: float, losses: list[summary.Loss], void: Colour
) -> Example:
    name, predictions = example["name"], example["predictions"]
    shown = [loss for loss in losses if loss.spec in predictions]
    mious = [predictions[loss.spec]["miou"] for loss in shown]
    best = summary.best_cells([None if miou is None else 100 * miou for miou in mious], 1)
    pictures = [
        _picture(folder, example["image"], "input", f"Input image {name}", photo=True),
        _picture(folder, example["truth"], "truth", f"True classes of {name}, in the data set's colours"),
    ]
    for loss, miou, mark in zip(shown, mious, best, strict=True):
        score = "" if miou is None else f"{100 * miou:.1f}"
        alt = f"Classes of {name} predicted after training with {loss.label}" + (f": mIoU {score} %" if score else "")
        path = predictions[loss.spec]["image"]
        pictures.append(_picture(folder, path, loss.label, alt, loss=loss, miou=score, best=mark))
    apart = f"{100 * difference:.1f} points apart" if len(shown) > 1 else ""
    return Example(name, apart, tuple(pictures), _holds(inside(folder, example["truth"], "truth"), void))


def _picture(folder: Path, relative: str, caption: str, alt: str, *, photo: bool = False, **shown: Any) -> Picture:
    path = inside(folder, relative, f"{folder / FILE_NAME}: a picture of examples")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                image.load()
                content, kind = path.read_bytes(), image.format or "PNG"
                reduced = max(image.size) > LARGEST_SIDE
                if reduced:
                    content, kind = _reduce(image, photo)
                width, height = image.size
    except FileNotFoundError:
        raise LabError(
            f"{path}: this picture is missing, but {FILE_NAME} names it. Compare again with --resume."
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LabError(
            f"{path}: not readable as a PNG or JPEG picture ({error}). Compare again with --resume."
        ) from None
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
    return Picture(uri, width, height, caption, alt, reduced=reduced, **shown)


def _holds(path: Path, colour: Colour) -> bool:
    """Whether a picture, which could be read before, has a pixel of that colour."""
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        return bool((np.asarray(image.convert("RGB")) == colour).all(-1).any())


def _reduce(image: Image.Image, photo: bool) -> tuple[bytes, str]:
    """Classes keep their exact colours; a photograph is smoothed and compressed."""
    scale = LARGEST_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer, kind = io.BytesIO(), "JPEG" if photo else "PNG"
    smaller = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    smaller.save(buffer, kind, quality=90)
    return buffer.getvalue(), kind


# Numbers beside the charts


def _strip(losses: list[summary.Loss], split: str) -> dict[str, Any] | None:
    """Each seed's mIoU as a place from 0 to 100 between the lowest and the highest of all; None when all are one."""
    values = {loss.index: list(loss.by_seed(split).items()) for loss in losses}
    every = [score for scores in values.values() for _, score in scores]
    if not every or max(every) == min(every):
        return None
    low, high = min(every), max(every)
    dots = {
        index: [(seed, _percent(score), 100 * (score - low) / (high - low)) for seed, score in scores]
        for index, scores in values.items()
    }
    return {"split": split, "low": _percent(low), "high": _percent(high), "dots": dots}


def _curve_table(curves: dict[str, charts.Figure]) -> dict[str, Any] | None:
    """The mean lines of the first metric as a table: epochs down, losses across."""
    if not curves:
        return None
    metric, figure = next(iter(curves.items()))
    means = {int(trace["legendgroup"]): trace for trace in figure["data"] if "customdata" in trace}
    points = {index: dict(zip(trace["x"], trace["y"], strict=True)) for index, trace in means.items()}
    epochs = sorted({epoch for curve in points.values() for epoch in curve})
    rows = [
        (epoch, ["–" if (y := curve.get(epoch)) is None else f"{y:.1f}" for curve in points.values()])
        for epoch in epochs
    ]
    return {"metric": metric, "losses": list(points), "rows": rows}


def _class_table(comparison: dict[str, Any], losses: list[summary.Loss], split: str) -> list[Any]:
    """(class, colour, before, [(text, best)]) for each class of the data set."""
    before = charts.start_class_ious(comparison, split)
    dataset, columns = comparison["dataset"], [charts.class_ious(comparison, loss, split) for loss in losses]
    rows = []
    for i, (name, colour) in enumerate(zip(dataset["classes"], dataset["palette"], strict=True)):
        spreads = [column[i] for column in columns]
        marks = summary.best_cells([spread and 100 * spread.mean for spread in spreads], 1)
        cells = [(_percent(spread and spread.mean), mark) for spread, mark in zip(spreads, marks, strict=True)]
        rows.append((name, colour, _percent((start := before[i]) and start.mean), cells))
    return rows


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def _rows(values: dict[str, Any] | None) -> list[tuple[str, str]]:
    return [(str(key), _readable(value)) for key, value in (values or {}).items()]


def _readable(value: object) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _readable_time(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return text
