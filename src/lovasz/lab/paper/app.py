"""`lovasz paper` itself: what its commands share, and the examples below their help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from lovasz.lab.errors import LabError
from lovasz.lab.help_examples import help_examples

T = TypeVar("T")

EXAMPLES = {
    "surfaces": ("lovasz paper surfaces",),
    "synthetic": (
        "lovasz paper synthetic --draws 100",
        "lovasz paper synthetic --radius 10,20 --out runs/large-circles",
    ),
    "batches": (
        "lovasz paper batches --data voc:VOCdevkit --weights espnetv2_s2.0_voc2012.safetensors --size 384x384",
    ),
    "networks": ("lovasz paper networks --data voc:VOCdevkit --weights espnetv2_s2.0_voc2012.safetensors",),
    "binary": (
        "lovasz paper binary --data voc:VOCdevkit --weights espnetv2_s2.0_voc2012.safetensors --size 192x192 "
        "--classes bird,bus,cat,dog,person",
        "lovasz paper binary --data folder:nuclei --model unet --pretrain-epochs 8 --crop 160x160 "
        "--learning-rates 5e-4,2e-3",
    ),
    "multiclass": (
        "lovasz paper multiclass --data voc:VOCdevkit --weights espnetv2_s2.0_voc2012.safetensors --size 384x384",
        "lovasz paper multiclass --data voc:VOCdevkit?sbd=SegmentationClassAug --model deeplab --weights resnet101.pth "
        "--epochs 19 --learning-rates 2.5e-4 --crf-search 100",
    ),
    "finetune": (
        "lovasz paper finetune --data camvid:CamVid --weights enet_camvid_davidtvs.safetensors",
        "lovasz paper finetune --data camvid:CamVid --weights enet.safetensors --batch-sizes 10 --seeds 1 "
        "--learning-rates 5e-4 --samplers shuffle",
        "lovasz paper finetune --data cityscapes:Cityscapes --model enet_torch7 "
        "--weights enet_cityscapes_elab.safetensors --scale 0.5,0.5 --size 512x1024",
        "lovasz paper finetune --data camvid:CamVid --weights enet.safetensors --earlier runs/camvid/comparison.json "
        "--no-training",
    ),
    "all": (
        "lovasz paper all --small --shared ../shared",
        "lovasz paper all --shared ../shared --parts multiclass,finetune --device cuda",
    ),
    "page": ("lovasz paper page --results runs/paper --out docs/paper.md",),
}
RESULTS = Path("runs/paper")

paper_app = typer.Typer(
    name="paper",
    help="Run the paper's experiments: each figure and table has a command; `page` puts them side by side.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def examples(command: str) -> str:
    """Below the options of a command's help."""
    return help_examples(command, EXAMPLES)


Out = Annotated[
    Path | None, typer.Option("--out", help="Output folder.", show_default="runs/paper/<name of the command>")
]


def values_of(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """The values between commas, each once."""
    try:
        values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        values = ()
    if not values or len(set(values)) != len(values):
        raise LabError(f"{option} {text!r}: expected values with commas between them, each once.")
    return values
