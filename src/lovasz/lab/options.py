"""The options that several commands share. Apart from the commands, because `compare` and `train` must offer the same
run settings under the same names, with the same help; how their texts are read stands in `option_texts`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lovasz.lab import option_texts
from lovasz.lab.config import AVERAGE_FROM, KEPT, LOGGERS, OPTIMIZERS, PRECISIONS, SAMPLERS

DATA, MODEL, TRAINING, AUGMENTATION, MACHINE, OUTPUT = (
    "Data",
    "Network and loss",
    "Training",
    "Augmentation",
    "Machine",
    "Output",
)

DEFAULT_LOSSES = "cross_entropy,lovasz_softmax"
DEFAULT_LOSS = "cross_entropy>lovasz_softmax"
LOSS_NAMES = "cross_entropy, weighted_cross_entropy, lovasz_softmax, weighted_lovasz_softmax, lovasz_hinge, "
LOSS_NAMES += "lovasz_sigmoid, hinge, soft_jaccard"

WEIGHTS_OF_LOSSES = "Weights of classes are ENet's, 1 / ln(1.02 + share of the training pixels)."


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


DATA_SETS = (
    "shapes (made by the program), folder:PATH (images/ and masks/), or camvid:PATH, voc:PATH, cityscapes:PATH, "
)
DATA_SETS += "ade20k:PATH."

Data = Annotated[
    str,
    typer.Option("--data", help=f"What to train on: {DATA_SETS}", rich_help_panel=DATA, show_default=False),
]
ScoredData = Annotated[
    str,
    typer.Option("--data", help=f"What to score the weights on: {DATA_SETS}", rich_help_panel=DATA, show_default=False),
]
DataSeed = Annotated[
    int, typer.Option("--data-seed", min=0, help="Seed of a random train/val/test split.", rich_help_panel=DATA)
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option",
        metavar="NAME=VALUE",
        help="A setting of the data set; repeatable. Of folder: classes, palette, values, void, coding, images, masks.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
NETWORKS = "Network: enet, enet_torch7 (the authors' layer order), unet (small, for small images), espnetv2 or "
NETWORKS += "deeplab (v2, ResNet-101); or hub:NAME or hub:FOLDER of transformers, torchvision:NAME, smp:ARCH-ENCODER."
Model = Annotated[str, typer.Option("--model", help=NETWORKS, rich_help_panel=MODEL)]
StartModel = Annotated[
    str | None,
    typer.Option("--model", help=NETWORKS, rich_help_panel=MODEL, show_default="that of --weights, else enet"),
]
StartWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Start from these trained weights (.safetensors with its .json beside it, or a run's folder).",
        callback=option_texts.weights_file,
        rich_help_panel=MODEL,
        show_default="none: train from scratch",
    ),
]
Losses = Annotated[
    str,
    typer.Option(
        "--losses",
        help=f"Losses, with commas between them: {LOSS_NAMES}. Also sums (cross_entropy+0.5*lovasz_softmax) and "
        f"a switch in mid-run (cross_entropy>lovasz_softmax). {WEIGHTS_OF_LOSSES}",
        rich_help_panel=MODEL,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        help=f"One of {LOSS_NAMES}; a sum (cross_entropy+0.5*lovasz_softmax); or a switch in mid-run "
        f"(cross_entropy>lovasz_softmax). {WEIGHTS_OF_LOSSES}",
        rich_help_panel=MODEL,
        show_default=DEFAULT_LOSS,
    ),
]


def _size(effect: str, default: str = "the image's own size") -> Any:
    """--size, which does not do the same in every command."""
    return typer.Option("--size", metavar="HxW", help=effect, rich_help_panel=MODEL, show_default=default)


Size = Annotated[str | None, _size("Resize every image to this before the network, and its answer back.")]
AskedSize = Annotated[
    str | None,
    _size("Resize images to this before the network is asked, and its answer back; training takes them as they are."),
]
MeasuredSize = Annotated[str | None, _size("Resize images and masks to this, in training and where they are measured.")]
Scales = Annotated[
    str | None,
    typer.Option(
        "--scales",
        metavar="1,0.75,0.5",
        help="Mean of the probabilities at several scales of the image.",
        rich_help_panel=MODEL,
        show_default="one",
    ),
]
WeightsSize = Annotated[
    str | None,
    _size(
        "Resize every image to this before the network, and its answer back; `whole`: keep the image's own size.",
        "as in training, if the weights' JSON says so",
    ),
]
WithCRF = Annotated[
    bool, typer.Option("--crf", help="Refine by the dense CRF (extra crf), on the CPU.", rich_help_panel=MODEL)
]
Weights = Annotated[
    Path,
    typer.Option(
        "--weights",
        help="Trained weights (.safetensors, with its .json beside it), or a run's folder.",
        callback=option_texts.weights_file,
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
WeightsModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Network of the weights.",
        rich_help_panel=MODEL,
        show_default="as the weights' JSON or their tensors say",
    ),
]
Seeds = Annotated[
    str,
    typer.Option("--seeds", help="How many seeds (3), or which (0,1,2).", rich_help_panel=TRAINING),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Of weights, order and augmentation.", rich_help_panel=TRAINING)
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Output folder.", rich_help_panel=OUTPUT, show_default="runs/<data>-<model>-<losses>"),
]
ExampleImages = Annotated[
    int, typer.Option("--examples", min=0, help="Validation images shown in the report.", rich_help_panel=OUTPUT)
]
OpenReport = Annotated[bool, typer.Option("--open", help="Open the report when done.", rich_help_panel=OUTPUT)]
PretrainEpochs = Annotated[
    int | None,
    typer.Option(
        "--pretrain-epochs",
        min=0,
        help="Epochs of cross-entropy that come first; all losses share them and branch off after.",
        rich_help_panel=TRAINING,
        show_default="as many as --epochs from scratch, 0 with --weights",
    ),
]
FirstEpochs = Annotated[
    int,
    typer.Option(
        "--pretrain-epochs",
        min=0,
        help="Epochs of cross-entropy that come first, from random weights.",
        rich_help_panel=TRAINING,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        help="Epochs with the loss.",
        rich_help_panel=TRAINING,
        show_default="10 or more, for 1000 steps; 5 or more, for 150 steps, with --weights, and for 400, of shapes",
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images in a step, of each process.", rich_help_panel=TRAINING)
]
LearningRate = Annotated[
    float, typer.Option("--learning-rate", help="At the start; falls to 0 by the poly rule.", rich_help_panel=TRAINING)
]
Optimizer = Annotated[str, typer.Option("--optimizer", help=f"{_either(OPTIMIZERS)}.", rich_help_panel=TRAINING)]
WeightDecay = Annotated[float, typer.Option("--weight-decay", help="L2 penalty.", rich_help_panel=TRAINING)]
PolyPower = Annotated[float, typer.Option("--poly-power", help="Exponent of the poly rule.", rich_help_panel=TRAINING)]
Momentum = Annotated[float, typer.Option("--momentum", help="For sgd.", rich_help_panel=TRAINING)]
ValidateEvery = Annotated[
    int,
    typer.Option(
        "--validate-every",
        min=0,
        help="Epochs from one validation to the next; 0: the end only.",
        rich_help_panel=TRAINING,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="HxW",
        help="Train on random crops of this height and width, such as 256x256; `whole` for whole images.",
        rich_help_panel=AUGMENTATION,
        show_default="whole, or up to 512x512 where images are larger or differ in size",
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale",
        metavar="LO,HI",
        help="Resize each image by a random factor between these, such as 0.5,2.",
        rich_help_panel=AUGMENTATION,
        show_default="no resizing",
    ),
]
Flip = Annotated[
    bool, typer.Option("--flip/--no-flip", help="Mirror half the images, left to right.", rich_help_panel=AUGMENTATION)
]
ColorJitter = Annotated[
    float,
    typer.Option(
        "--color-jitter",
        metavar="PART",
        help="Multiply brightness, contrast and saturation by factors from 1 - PART to 1 + PART, such as 0.3.",
        rich_help_panel=AUGMENTATION,
    ),
]
SamplerName = Annotated[
    str,
    typer.Option(
        "--sampler",
        help=f"Order of the images, {_either(SAMPLERS)} (each class in every |C| images; reads all masks once).",
        rich_help_panel=TRAINING,
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        help=f"Weights to write and score, {_either(KEPT)}: of the last epoch, of the best on validation, or their "
        f"mean over the last {100 * (1 - AVERAGE_FROM):.0f} % of the steps.",
        rich_help_panel=TRAINING,
    ),
]
FreezeBatchNorm = Annotated[
    bool,
    typer.Option(
        "--freeze-batch-norm",
        help="A trained network keeps the statistics of its batch normalisation; for small batches and crops.",
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[str, typer.Option("--precision", help=f"{_either(PRECISIONS)}.", rich_help_panel=MACHINE)]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps; auto takes the best.", rich_help_panel=MACHINE)
]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        help="Processes that share each step, on GPU 0, 1, ... or on the CPU.",
        rich_help_panel=MACHINE,
        show_default="1, or what torchrun started",
    ),
]
GlobalBatch = Annotated[
    bool,
    typer.Option(
        "--global-batch",
        help="With --devices: the Lovász losses of the images of all processes together, not of each one's own.",
        rich_help_panel=TRAINING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="CPU threads, of each process.", rich_help_panel=MACHINE, show_default="torch's choice"
    ),
]
OwnThreads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads.", rich_help_panel=MACHINE, show_default="torch's choice"),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that load images; 0: none.", rich_help_panel=MACHINE)
]
Logger = Annotated[str, typer.Option("--logger", help=f"Training curves: {_either(LOGGERS)}.", rich_help_panel=OUTPUT)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.", rich_help_panel=OUTPUT)
]
