"""All 48 cases of the authors' own code: values and gradients in float64, through every kernel that runs on a CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import relative

from lovasz import lovasz_hinge, lovasz_softmax

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "golden.json").read_text())
ARRAYS = np.load(DATA / "golden.npz")
LIMITS = {"exact": (1e-6, 1e-6), "default": (1e-4, 1e-3), "numba": (1e-4, 1e-3), "torch": (1e-4, 1e-3)}


@pytest.mark.parametrize("how", LIMITS)
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_value_and_gradient_are_the_authors(case: dict, how: str) -> None:
    if how == "numba":
        pytest.importorskip("numba")
    kernel = {"exact": {"method": "exact"}, "default": {}}.get(how, {"impl": how})
    logits = torch.tensor(ARRAYS[case["name"] + "_logits"], requires_grad=True)
    target = torch.tensor(ARRAYS[case["name"] + "_target"])
    options = {"per_image": case["per_image"], "ignore_index": case["ignore_index"], **kernel}
    if case["loss"] == "lovasz_softmax":
        loss = lovasz_softmax(logits, target, classes=case["classes"], **options)
    else:
        loss = lovasz_hinge(logits, target, **options)
    loss.backward()
    value_limit, gradient_limit = LIMITS[how]
    assert loss.item() == pytest.approx(case["value"], rel=value_limit)
    assert loss.item() == pytest.approx(case["authors_float32"], rel=max(value_limit, 1e-5))
    assert logits.grad is not None
    assert relative(logits.grad, torch.tensor(ARRAYS[case["name"] + "_grad"])) <= gradient_limit


def test_there_are_all_cases() -> None:
    assert len(CASES) == 48
    assert {case["loss"] for case in CASES} == {"lovasz_softmax", "lovasz_hinge"}
