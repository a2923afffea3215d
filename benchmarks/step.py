"""The share of a whole training step, forward to optimiser, that the loss takes: ENet and SegFormer-B0."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import contestants, inputs
from benchmarks.checks import both_passes
from benchmarks.contestants import Contestant
from benchmarks.settings import Settings
from benchmarks.timing import interleaved

Model = Callable[[Tensor], Tensor]


def run(settings: Settings) -> dict[str, Any]:
    """One table per network: seconds of a step with each loss, and of the loss alone."""
    torch.manual_seed(0)
    tables = [_table("ENet, 2 images of 360 x 480, 11 classes", *_enet(), 11, 2, (360, 480), settings)]
    label = "SegFormer-B0, 1 image of 512 x 512, 150 classes"
    if importlib.util.find_spec("transformers") is None:
        return {"tables": tables, "note": f"{label}: transformers is not installed."}
    tables.append(_table(label, *_segformer(150), 150, 1, (512, 512), settings))
    return {"tables": tables}


def _enet() -> tuple[nn.Module, Model]:
    from lovasz.lab.models import create_model

    model = create_model("enet", 11).train()
    return model, model


def _segformer(classes: int) -> tuple[nn.Module, Model]:
    """SegFormer-B0 as transformers builds it from its default configuration: random weights, nothing downloaded."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes)).train()

    def forward(images: Tensor) -> Tensor:
        logits = model(pixel_values=images).logits  # (N, C, H / 4, W / 4)
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    return model, forward


def _table(
    label: str,
    model: nn.Module,
    forward: Model,
    classes: int,
    count: int,
    size: tuple[int, int],
    settings: Settings,
) -> dict[str, Any]:
    height, width = (64, 64) if settings.quick else size
    images = torch.rand(count, 3, height, width)
    target = torch.randint(0, classes, (count, height, width))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    with torch.no_grad():
        logits = forward(images)
    logits = logits.clone().requires_grad_()
    entries = [contestants.cross_entropy(), contestants.softmax(), *contestants.with_cross_entropy()[:1]]
    entries.append(contestants.authors_softmax())

    def step(entry: Contestant) -> None:
        optimizer.zero_grad()
        entry.loss(forward(images), target).backward()
        optimizer.step()

    calls: dict[str, Callable[[], Any]] = {}
    for entry in entries:
        calls[f"{entry.name}, step"] = lambda entry=entry: step(entry)
        calls[f"{entry.name}, alone"] = lambda entry=entry: both_passes(entry.loss, logits, target)
    seconds = interleaved(calls, 1 if settings.quick else max(3, settings.rounds // 3), settings.table_seconds)
    base = seconds[f"{inputs.YARDSTICK}, step"].median
    rows = []
    for entry in entries:
        whole, alone = seconds[f"{entry.name}, step"], seconds[f"{entry.name}, alone"]
        share = {"alone": alone.median, "share": alone.median / whole.median}
        rows.append({"name": entry.name, **whole.as_json(), "ratio": whole.median / base, **share})
    return {"input": label, "yardstick": inputs.YARDSTICK, "rows": rows}
