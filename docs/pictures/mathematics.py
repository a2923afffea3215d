"""The pictures of the pages on the mathematics; `python docs/pictures/mathematics.py` draws them (extra `paper`)."""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

from lovasz import lovasz_extension
from lovasz.compat import lovasz_grad
from lovasz.kernels.bins import mirrored_place
from lovasz.set_functions import jaccard

HERE = Path(__file__).parent
FOREGROUND, BACKGROUND, LINE = "#0f766e", "#d97706", "#334155"
ERRORS = torch.tensor([0.92, 0.85, 0.7, 0.64, 0.5, 0.38, 0.3, 0.17, 0.08])
TRUTH = torch.tensor([1, 0, 0, 1, 0, 0, 1, 1, 0])  # 4 pixels of foreground


def losses_of_sets() -> torch.Tensor:
    """The Jaccard loss of the i pixels with the largest errors, i = 0 to all."""
    missed, alarms = TRUTH.cumsum(0), (1 - TRUTH).cumsum(0)
    values = jaccard(missed.double(), alarms.double(), TRUTH.sum().double().expand(len(TRUTH)))
    return torch.cat([torch.zeros(1, dtype=torch.float64), values])


def extension() -> None:
    """Nine pixels: the loss of {errors >= t} over t, whose area is the extension; and what each pixel weighs."""
    sets, weights = losses_of_sets(), lovasz_grad(TRUTH)
    assert torch.allclose(sets.diff().float(), weights)
    value = float(lovasz_extension(ERRORS, TRUTH))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    edges = [1.0, *ERRORS.tolist(), 0.0]
    for i, height in enumerate(sets.tolist()):
        left.fill_between([edges[i + 1], edges[i]], height, color=FOREGROUND, alpha=0.15, linewidth=0)
        left.plot([edges[i + 1], edges[i]], [height, height], color=LINE, linewidth=2)
        if i < len(ERRORS):
            left.plot([edges[i + 1]] * 2, [height, sets[i + 1]], color=LINE, linewidth=2)
            colour = FOREGROUND if TRUTH[i] else BACKGROUND
            left.plot(edges[i + 1], 0, "o", color=colour, clip_on=False, zorder=3)
            right.bar(i + 1, weights[i], color=colour)
    left.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="threshold t; dots: errors of the pixels", ylabel="Jaccard loss of {m ≥ t}"
    )
    left.set_title(f"area = Lovász extension = {value:.3f}", fontsize=10)
    right.set(xlabel="pixels by decreasing error", ylabel="weight g", xticks=range(1, len(ERRORS) + 1))
    right.bar(0, 0, color=FOREGROUND, label="foreground, 1 / (n + j)")
    right.bar(0, 0, color=BACKGROUND, label="background, (n - k) / ((n + j)(n + j + 1))")
    right.set_xlim(0.4, len(ERRORS) + 0.6)
    right.legend(frameon=False, fontsize=9)
    save(figure, "mathematics-extension.svg")


def bins() -> None:
    """Where a hundred bins of each kind begin, on the axis of the logit."""
    logits = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    errors, complement = logits.sigmoid(), (-logits).sigmoid()
    place = mirrored_place(errors, complement).double()
    figure, axes = plt.subplots(figsize=(10, 1.9), layout="constrained")
    for row, (name, key, colour) in enumerate(
        [("equal bins of the error", errors, BACKGROUND), ("bins of the float's bits, mirrored", place, FOREGROUND)]
    ):
        key = (key - key[0]) / (key[-1] - key[0])
        first = (key * 99.999).floor().diff() > 0
        axes.plot(logits[1:][first], torch.full((int(first.sum()),), row), "|", color=colour, markersize=16)
        axes.text(-12, row + 0.33, name, fontsize=9, color=colour)
    axes.set(ylim=(-0.5, 1.7), xlim=(-12.3, 12.3), yticks=[])
    axes.set_xticks([-9.2, -4.6, 0, 4.6, 9.2], ["0.0001", "0.01", "0.5", "0.99", "0.9999"])
    axes.set_xlabel("error, on the axis of its logit")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    save(figure, "mathematics-bins.svg")


def save(figure: plt.Figure, name: str) -> None:
    """As an SVG that is the same byte for byte each time."""
    figure.savefig(HERE / name, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "lovasz", "svg.fonttype": "path", "axes.spines.top": False, "axes.spines.right": False}
    )
    extension()
    bins()
