"""Section 4.1: images of circles, one Gaussian feature, and the bias that each loss prefers (Figure 3).

The scores are the feature plus a bias, so the whole of learning is one number and its best value can be searched
exhaustively: how far each loss's choice is from the Jaccard loss's own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from lovasz.lab.errors import LabError
from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.result import Experiment, Row, Section, matplotlib_pyplot
from lovasz.lab.progress import display, tracked

NAME = "synthetic"
LOSSES = {"cross_entropy": "cross-entropy", "hinge": "hinge", "lovasz_hinge": "Lovász hinge", "jaccard": "Jaccard loss"}
# What epsilon = 1/2 is of the Gaussian feature, in two readings: (mean of the foreground, standard deviation).
READINGS: dict[str, tuple[str, Callable[[float], tuple[float, float]]]] = {
    "noise": ("mean ±1, standard deviation ε", lambda epsilon: (1.0, epsilon)),
    "shift": ("mean ±ε, standard deviation 1", lambda epsilon: (epsilon, 1.0)),
}
MOST_BIASES = 100_000
CLOSE = 0.05  # a minimum this near to the Jaccard loss's counts as the same


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is drawn and searched. The paper says: 10 images of 50 x 50 with circles, a Gaussian feature, epsilon 1/2.

    A circle's radius is uniform in `radius` (pixels), its centre uniform where the whole circle is inside the image.
    The feature of a pixel is normal, its mean of one sign in the circle and of the other outside; epsilon is the
    standard deviation or the mean, see READINGS. The biases tried are low, low + step, ..., high.
    """

    draws: int = 100
    seed: int = 0
    images: int = 10
    size: int = 50
    epsilon: float = 0.5
    radius: tuple[float, float] = (5.0, 20.0)
    bias: tuple[float, float, float] = (-3.0, 2.0, 0.05)

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("seed", 0), ("images", 1), ("size", 3)):
            if getattr(self, name) < least:
                raise LabError(f"{name}: got {getattr(self, name)}, expected at least {least}.")
        low, high = self.radius
        if not 1 <= low <= high <= (self.size - 1) / 2:
            most = (self.size - 1) / 2
            raise LabError(
                f"radius: got {low} to {high}, expected the smaller one first, from 1 to {most} for {self.size} pixels."
            )
        first, last, step = self.bias
        if not (math.isfinite(last - first) and first < last and 0 < step <= last - first):
            raise LabError(f"bias: got {first} to {last} by {step}, expected rising values and a positive step.")
        if (last - first) / step > MOST_BIASES:
            raise LabError(f"bias: got {first} to {last} by {step}, over {MOST_BIASES} values; take larger steps.")
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise LabError(f"epsilon: got {self.epsilon}, expected a finite number above 0.")

    @property
    def biases(self) -> np.ndarray:
        """(B,) float64."""
        low, high, step = self.bias
        return low + step * np.arange(math.floor((high - low) / step * (1 + 1e-12)) + 1)  # no rounding drops the last

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def run(
    folder: Path, setting: Setting | None = None, *, resume: bool = False, progress: Progress | bool = False
) -> Path:
    """Search all biases in `draws` draws; writes result.json and the figure. A killed run goes on with `resume`."""
    setting = setting or Setting()
    pyplot = matplotlib_pyplot()
    experiment = Experiment.open(NAME, folder, setting.to_json(), resume=resume)
    minima: dict[str, list[list[float]]] = experiment.state.setdefault("minima", {name: [] for name in READINGS})
    curves: dict[str, list[list[float]]] = experiment.state.setdefault("curves", {})
    done = len(minima["noise"])
    with display(progress) as shown:
        for number in tracked(range(done, setting.draws), setting.draws, "draws", shown, completed=done):
            for reading in READINGS:
                found = search(*draw(setting, number, reading), setting.biases)  # (losses, B)
                if number == 0:
                    curves[reading] = [[round(value, 6) for value in curve] for curve in found.tolist()]
                minima[reading].append([float(setting.biases[i]) for i in found.argmin(1)])
            experiment.keep()
    scores = {reading: summarise(minima[reading], curves[reading], setting) for reading in READINGS}
    name = "paper-figure-3.png"
    _draw(pyplot, scores, experiment.folder / name)
    caption = "Figure 3: the four losses over the bias in one draw, for both readings of epsilon; lines: their minima"
    return experiment.finish(scores, {name: caption})


def draw(setting: Setting, number: int, reading: str = "noise") -> tuple[np.ndarray, np.ndarray]:
    """Draw `number`: features (images, P) float64 and truth (images, P) bool; a function of the seed and the number."""
    mean, deviation = READINGS[reading][1](setting.epsilon)
    rng = np.random.default_rng((setting.seed, number))
    rows, columns = np.mgrid[: setting.size, : setting.size]
    truth = np.empty((setting.images, setting.size**2), bool)
    for i in range(setting.images):
        radius = rng.uniform(*setting.radius)
        y, x = rng.uniform(radius, setting.size - 1 - radius, 2)
        truth[i] = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).ravel()
    signs = np.where(truth, 1.0, -1.0)
    features = mean * signs + deviation * rng.standard_normal(truth.shape)
    return features, truth


def search(features: np.ndarray, truth: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """The four losses of `LOSSES` at every bias, (4, B), each the mean over images; scores are features + bias.

    The Lovász hinge and the Jaccard loss are per image (Eq. 8 with Eq. 10; Eq. 6), a positive score is foreground.
    The order of the errors within the foreground, and within the background, is that of the features for every bias.
    So each image is sorted once, and for each bias the two orders are merged, which gives the counts of the closed form
    of the weights (docs/algorithm.md); the tests hold it against `lovasz_extension`.
    """
    total = np.zeros((len(LOSSES), len(biases)))
    for feature, foreground in zip(features, truth, strict=True):
        inside = np.sort(feature[foreground])  # ascending, so errors descending
        outside = np.sort(-feature[~foreground])  # ascending in -x, the same
        margin_in, margin_out = inside + biases[:, None], outside - biases[:, None]  # F y: (B, n) and (B, P - n)
        error_in, error_out = np.maximum(1 - margin_in, 0), np.maximum(1 - margin_out, 0)
        # Which come before: background pixels with a larger error than a foreground pixel, and the other way round.
        # The error of x inside is larger than that of x' outside where x + b < -x' - b.
        before_in = np.searchsorted(outside, inside + 2 * biases[:, None], side="left")
        before_out = np.searchsorted(inside, outside - 2 * biases[:, None], side="right")
        count, pixels = len(inside), len(feature)
        background = np.arange(len(outside))
        weight_out = (count - before_out) / ((count + background) * (count + background + 1))
        total[0] += (np.logaddexp(0, -margin_in).sum(1) + np.logaddexp(0, -margin_out).sum(1)) / pixels
        total[1] += (error_in.sum(1) + error_out.sum(1)) / pixels
        total[2] += (error_in / (count + before_in)).sum(1) + (error_out * weight_out).sum(1)
        missed, extra = (margin_in <= 0).sum(1), (margin_out < 0).sum(1)
        total[3] += (extra + missed) / (extra + count)
    return total / len(features)


def summarise(minima: list[list[float]], curves: list[list[float]], setting: Setting) -> dict[str, Any]:
    """The scores of the result: for each loss where its minimum is and how far from the Jaccard loss's, over draws."""
    columns = dict(zip(LOSSES, zip(*minima, strict=True), strict=True))
    found: dict[str, Any] = {"draws": len(minima), "minima": {name: list(column) for name, column in columns.items()}}
    found["summary"] = {}
    for name, column in columns.items():
        distances = [abs(a - b) for a, b in zip(column, columns["jaccard"], strict=True)]
        found["summary"][name] = {
            "mean_minimum": statistics.fmean(column),
            "spread": statistics.stdev(column) if len(column) > 1 else 0.0,
            "distance_of_means": abs(statistics.fmean(column) - statistics.fmean(columns["jaccard"])),
            "mean_distance": statistics.fmean(distances),
            "share_close": sum(distance <= CLOSE + 1e-9 for distance in distances) / len(distances),
        }
    found["figure"] = {
        "biases": [round(b, 6) for b in setting.biases.tolist()],
        "curves": dict(zip(LOSSES, curves, strict=True)),
        "minima": {name: column[0] for name, column in columns.items()},
    }
    low, high = float(setting.biases[0]), float(setting.biases[-1])
    found["at_the_edge"] = [name for name, column in columns.items() if min(column) <= low or max(column) >= high]
    return found


def _draw(pyplot: Any, scores: Mapping[str, Any], path: Path) -> None:
    """Each loss scaled to 0..1, as only the places of the minima are to be compared."""
    figure, panels = pyplot.subplots(1, len(scores), figsize=(10, 3.6), dpi=110, sharey=True)
    for axes, (reading, found) in zip(panels, scores.items(), strict=True):
        data = found["figure"]
        for (name, label), style in zip(LOSSES.items(), (":", "--", "-.", "-"), strict=True):
            curve = np.array(data["curves"][name])
            height = curve.max() - curve.min()
            (line,) = axes.plot(data["biases"], (curve - curve.min()) / (height or 1), style, label=label)
            axes.axvline(data["minima"][name], color=line.get_color(), linestyle=style, linewidth=1, alpha=0.6)
        axes.set(xlabel="bias b", title=f"feature: {READINGS[reading][0]}")
    panels[0].set_ylabel("loss, scaled to 0..1")
    panels[-1].legend(loc="upper center")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    scores, config = result["scores"], result["config"]
    rows, seen = [], []
    for reading, (words, _) in READINGS.items():
        summary = scores[reading]["summary"]
        for name, label in LOSSES.items():
            one = summary[name]
            ours = f"{one['mean_minimum']:+.3f} ± {one['spread']:.3f}"
            if name == "jaccard":
                rows.append(Row(f"{words}: {label}", "drawn", ours))
                continue
            paper = "nearest to the Jaccard loss's" if name == "lovasz_hinge" else "further away"
            note = f"{one['distance_of_means']:.3f} away; within {CLOSE} in {100 * one['share_close']:.0f} % of draws"
            rows.append(Row(f"{words}: {label}", paper, ours, note))
        seen.append(f"with {words}, {_near(summary)}{_edge(scores[reading]['at_the_edge'])}")
    low, high, step = config["bias"]
    radius = f"radius uniform from {config['radius'][0]:g} to {config['radius'][1]:g} pixels"
    return Section(
        title="Section 4.1: the bias at which each loss is least (Figure 3)",
        command=command_line(NAME, {**config, "step": step}),
        setting=f"{config['images']} images of {config['size']} x {config['size']}, one circle each, {radius}, inside "
        f"the image; ε = {config['epsilon']:g}; score = feature + b, b from {low:g} to {high:g} by {step:g}; "
        f"{config['draws']} draws, seed {config['seed']}; mean and standard deviation over draws.",
        rows=tuple(rows),
        comparable="The order of the losses; the paper shows one draw as a picture. Not the places of the minima: "
        "these depend on the sizes of the circles, which are our choice, and on what ε is of the feature, for which "
        "both readings are shown.",
        seen="; ".join(seen) + ".",
    )


def _near(summary: Mapping[str, Any]) -> str:
    distances = {name: one["distance_of_means"] for name, one in summary.items() if name != "jaccard"}
    nearest = LOSSES[min(distances, key=lambda name: distances[name])]
    close = [LOSSES[name] for name, distance in distances.items() if distance <= CLOSE]
    within = " and ".join(close) if close else "none"
    return f"the mean minimum of the {nearest} is nearest to the Jaccard loss's, and within {CLOSE} of it is: {within}"


def _edge(names: list[str]) -> str:
    return f" (at the edge of the biases tried in some draw: {', '.join(names)})" if names else ""
