"""The authors' cases for channels-first arrays, and the table of options, told without a framework's arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from losses import CASES, Case, value_and_gradient
from oracle import relative

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())
ARRAYS = np.load(DATA / "golden.npz")
SIZES = {"exact": (5, 6), "binned": (64, 72)}  # the larger is beyond what a binned loss sorts

# Every option of PyTorch's table, in its words.
TABLE = [case for case in CASES if case.name != "softmax" or case.channels > 2]


def golden_options(case: dict[str, Any]) -> dict[str, Any]:
    """The keywords of an authors' case, whose arrays have channels first."""
    options = {"per_image": case["per_image"], "ignore_index": case["ignore_index"]}
    return options if case["loss"] == "lovasz_hinge" else options | {"classes": case["classes"], "axis": 1}


def check_golden(case: dict[str, Any], value: float, gradient: np.ndarray, value_limit: float, limit: float) -> None:
    """Fail unless value and gradient are the authors' float64 ones, relatively."""
    expected = ARRAYS[case["name"] + "_grad"]
    assert abs(value - case["value"]) <= value_limit * abs(case["value"]), (value, case["value"])
    assert gradient.dtype == np.float32
    distance = relative(torch.tensor(np.asarray(gradient)), torch.tensor(expected))
    assert distance <= limit, f"gradient off by {distance:.1e}"


def drawn(case: Case, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Float32 scores and labels of a row of the table, channels last."""
    scores, target = case.draw(seed=3, size=SIZES[method])
    masks = target if case.labelled else target.movedim(1, -1)
    return scores.float().movedim(1, -1).contiguous().numpy(), masks.contiguous().numpy().astype(np.int32)


def check_table(case: Case, method: str, value: float, gradient: np.ndarray, size: tuple[int, int]) -> None:
    """Fail unless value and gradient are PyTorch's exact ones on the draw of that size."""
    scores, target = case.draw(seed=3, size=size)
    expected, slopes = value_and_gradient(case, scores.float().double(), target, method="exact")
    assert abs(value - expected.item()) <= 1e-5 * abs(expected.item())
    distance = relative(torch.tensor(np.asarray(gradient)), slopes.movedim(1, -1))
    assert distance <= (1e-5 if method == "exact" else 1e-3), f"gradient off by {distance:.1e}"
