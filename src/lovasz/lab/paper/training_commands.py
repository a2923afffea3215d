"""The commands `lovasz paper ...` that train networks: Sections 4.2 to 4.4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lovasz.lab import option_texts, options
from lovasz.lab.options import Data, Device, Resume, Seed, Threads, Weights
from lovasz.lab.paper.app import RESULTS, Out, examples, paper_app, values_of
from lovasz.lab.progress import loading
from lovasz.lab.slips import Command

LearningRates = Annotated[
    str, typer.Option("--learning-rates", metavar="A,B", help="Tried for each loss under one budget, on val.")
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Of each run.")]
RandomScale = Annotated[
    str, typer.Option("--scale", metavar="LO,HI", help="Resize each image by a random factor; `1,1` for none.")
]
Crop = Annotated[str, typer.Option("--crop", metavar="HxW", help="Random training crops; `whole` for whole images.")]


@paper_app.command(cls=Command, epilog=examples("binary"))
def binary(
    data: Data,
    out: Out = None,
    model: options.Model = "espnetv2",
    weights: options.StartWeights = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Foregrounds.", show_default="all but one")] = None,
    losses: Annotated[
        str, typer.Option("--losses", help="Of cross_entropy, hinge, lovasz_hinge and soft_jaccard.")
    ] = "cross_entropy,hinge,lovasz_hinge,soft_jaccard",
    learning_rates: LearningRates = "2e-5,1e-4",
    epochs: Epochs = 2,
    pretrain_epochs: Annotated[
        int, typer.Option("--pretrain-epochs", min=0, help="Of cross-entropy, before all losses, without --weights.")
    ] = 0,
    batch_size: options.BatchSize = 10,
    optimizer: options.Optimizer = "adam",
    weight_decay: options.WeightDecay = 2e-4,
    size: options.MeasuredSize = None,
    crop: Crop = "whole",
    scale: options.Scale = None,
    freeze_batch_norm: options.FreezeBatchNorm = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
) -> None:
    """Table 1 and Figure 4: one class against the rest, each loss trained and measured by all losses and image-IoU."""
    with loading():
        from lovasz.lab.environment import use_machine
        from lovasz.lab.paper.binary import Setting, run

    setting = Setting(
        data=data,
        classes=None if classes is None else values_of("--classes", classes, str),
        model=model,
        weights=None if weights is None else str(weights),
        losses=values_of("--losses", losses, str),
        learning_rates=values_of("--learning-rates", learning_rates, float),
        epochs=epochs,
        pretrain_epochs=pretrain_epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        weight_decay=weight_decay,
        size=option_texts.parse_size(size),
        crop=option_texts.parse_crop(crop),
        scale=option_texts.parse_scale(scale),
        freeze_batch_norm=freeze_batch_norm,
        seed=seed,
    )
    place = use_machine(device, threads)
    path = run(out or RESULTS / f"binary-{_data_name(data)}", setting, device=place, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


@paper_app.command(cls=Command, epilog=examples("multiclass"))
def multiclass(
    data: Data,
    weights: Annotated[
        Path,
        typer.Option(
            "--weights",
            help="Start: .safetensors with .json, or a run's folder; for deeplab also a public .pth.",
            callback=option_texts.weights_file,
        ),
    ],
    out: Out = None,
    model: options.Model = "espnetv2",
    losses: options.Losses = "cross_entropy,lovasz_softmax",
    samplers: Annotated[str, typer.Option("--samplers", help="shuffle, equibatch or both.")] = "shuffle,equibatch",
    learning_rates: LearningRates = "1e-3",
    epochs: Epochs = 10,
    batch_size: options.BatchSize = 10,
    optimizer: options.Optimizer = "sgd",
    weight_decay: options.WeightDecay = 5e-4,
    freeze_batch_norm: options.FreezeBatchNorm = False,
    crop: Crop = "321x321",
    scale: RandomScale = "0.5,1.5",
    size: options.AskedSize = None,
    scales: Annotated[str, typer.Option("--scales", help="Of the evaluation at several scales.")] = "1,0.75,0.5",
    images: Annotated[int | None, typer.Option("--images", help="Of val to ask.", show_default="all")] = None,
    crf: Annotated[bool, typer.Option("--crf/--no-crf", help="Refine by the dense CRF (extra crf).")] = True,
    crf_search: Annotated[
        int, typer.Option("--crf-search", min=0, help="Training images to search the CRF's parameters on.")
    ] = 0,
    batches: Annotated[int, typer.Option("--batches", min=0, help="Of |C| images, for the decision rules.")] = 5,
    rules: Annotated[str, typer.Option("--rules", help="Decision rules; rankseg is in the extra paper.")] = (
        "argmax,nowozin,rankseg"
    ),
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    workers: options.Workers = 0,
    resume: Resume = False,
) -> None:
    """Tables 2, 3, Figures 5 to 7: cross-entropy, Lovász-Softmax, with and without equibatch, at several scales."""
    with loading():
        from lovasz.lab.paper.multiclass import Setting, run

    setting = Setting(
        data=data,
        weights=str(weights),
        model=model,
        losses=option_texts.parse_losses(losses),
        samplers=values_of("--samplers", samplers, str),
        learning_rates=values_of("--learning-rates", learning_rates, float),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        weight_decay=weight_decay,
        freeze_batch_norm=freeze_batch_norm,
        crop=option_texts.parse_crop(crop),
        scale=option_texts.parse_scale(scale),
        size=option_texts.parse_size(size),
        scales=option_texts.parse_scales(scales) or (1.0,),
        images=images,
        crf=crf,
        crf_search=crf_search,
        batches=batches,
        rules=values_of("--rules", rules, str),
        seed=seed,
        workers=workers,
        threads=threads,
        device=device,
    )
    typer.echo(f"Result: {run(out or RESULTS / 'multiclass', setting, resume=resume, progress=True)}")


@paper_app.command(cls=Command, epilog=examples("finetune"))
def finetune(
    data: Data,
    weights: Weights,
    out: Out = None,
    model: options.Model = "enet",
    losses: options.Losses = "weighted_cross_entropy,cross_entropy,lovasz_softmax",
    learning_rates: LearningRates = "2e-4,5e-4,1e-3",
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", metavar="A,B", help="Images in a step.")] = "10,5,2",
    seeds: options.Seeds = "3",
    samplers: Annotated[
        str, typer.Option("--samplers", help="shuffle, equibatch or both; the search takes the first.")
    ] = "shuffle,equibatch",
    epochs: Epochs = 5,
    optimizer: options.Optimizer = "adam",
    weight_decay: options.WeightDecay = 2e-4,
    freeze_batch_norm: options.FreezeBatchNorm = False,
    crop: Crop = "whole",
    scale: options.Scale = None,
    size: options.AskedSize = None,
    keep: options.Keep = "last",
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            "--earlier",
            help="run.json, comparison.json, a grid's result or a folder of runs to take instead; repeatable.",
        ),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training/--no-training", help="Or make the tables of the runs that are there.")
    ] = True,
    device: Device = "auto",
    threads: Threads = None,
    workers: options.Workers = 0,
    resume: Resume = False,
) -> None:
    """Figures 8, 9: a trained network trained further, over losses, learning rates, batch sizes, seeds, equibatch.

    On Cityscapes also Table 4; weighted_lovasz_softmax has the class weights (Eq. 13) that the paper suggests for iIoU.
    """
    with loading():
        from lovasz.lab.paper.finetune import Setting, run

    setting = Setting(
        data=data,
        weights=str(weights),
        model=model,
        losses=option_texts.parse_losses(losses),
        learning_rates=values_of("--learning-rates", learning_rates, float),
        batch_sizes=values_of("--batch-sizes", batch_sizes, int),
        seeds=option_texts.parse_seeds(seeds),
        samplers=values_of("--samplers", samplers, str),
        epochs=epochs,
        optimizer=optimizer,
        weight_decay=weight_decay,
        freeze_batch_norm=freeze_batch_norm,
        crop=option_texts.parse_crop(crop),
        scale=option_texts.parse_scale(scale),
        size=option_texts.parse_size(size),
        keep=keep,
        workers=workers,
        threads=threads,
        device=device,
    )
    folder = out or RESULTS / "finetune"
    path = run(folder, setting, earlier=earlier or (), training=training, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


def _data_name(data: str) -> str:
    """What the folder of an experiment on these data is called."""
    from lovasz.lab.paper.earlier import data_name

    return data_name(data)
