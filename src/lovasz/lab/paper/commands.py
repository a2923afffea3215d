"""The commands `lovasz paper ...`, one for each section of the paper; the other commands share no options with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from lovasz.lab import options
from lovasz.lab.errors import LabError
from lovasz.lab.options import Data, Device, Resume, Seed, Threads, Weights

T = TypeVar("T")
EXAMPLES = {
    "surfaces": ("lovasz paper surfaces",),
    "synthetic": (
        "lovasz paper synthetic --draws 100",
        "lovasz paper synthetic --radius 10,20 --out runs/large-circles",
    ),
    "networks": ("lovasz paper networks --data voc:VOCdevkit --weights espnetv2_s2.0_voc2012.safetensors",),
    "binary": (
        "lovasz paper binary --data voc:VOCdevkit --weights espnetv2_s2.0_voc2012.safetensors --size 192x192 "
        "--classes bird,bus,cat,dog,person",
        "lovasz paper binary --data folder:nuclei --model unet --pretrain-epochs 8 --crop 160x160 "
        "--learning-rates 5e-4,2e-3",
    ),
    "finetune": (
        "lovasz paper finetune --data camvid:CamVid --weights enet_camvid_davidtvs.safetensors",
        "lovasz paper finetune --data camvid:CamVid --weights enet.safetensors --batch-sizes 10 --seeds 1 "
        "--learning-rates 5e-4 --samplers shuffle",
        "lovasz paper finetune --data camvid:CamVid --weights enet.safetensors --earlier runs/camvid/comparison.json "
        "--no-training",
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


def _examples(command: str) -> str:
    return "\n".join(["[bold]Examples[/bold]", *(f"$ {line}" for line in EXAMPLES[command])])


Out = Annotated[
    Path | None, typer.Option("--out", help="Output folder.", show_default="runs/paper/<name of the command>")
]


@paper_app.command(epilog=_examples("surfaces"))
def surfaces(
    out: Out = None,
    points: Annotated[int, typer.Option("--points", min=5, max=201, help="Along each axis.")] = 31,
    resume: Resume = False,
) -> None:
    """Figures 1 and 2: both losses of two pixels as surfaces; pictures, and a page where they can be turned."""
    from lovasz.lab.paper.surfaces import run

    path = run(out or RESULTS / "surfaces", points=points, resume=resume)
    typer.echo(f"Result: {path}\nPage: {path.with_name('surfaces.html')}")


@paper_app.command(epilog=_examples("synthetic"))
def synthetic(
    out: Out = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="How often the ten images are drawn.")] = 100,
    radius: Annotated[str, typer.Option("--radius", metavar="LO,HI", help="Of the circles, in pixels.")] = "5,20",
    epsilon: Annotated[float, typer.Option("--epsilon", help="Of the Gaussian feature.")] = 0.5,
    step: Annotated[float, typer.Option("--step", help="From one bias to the next.")] = 0.05,
    seed: Seed = 0,
    resume: Resume = False,
) -> None:
    """Figure 3: the bias at which each loss is least, over many draws of ten images of circles."""
    from lovasz.lab.paper.synthetic import Setting, run

    setting = Setting(draws=draws, seed=seed, radius=_pair(radius), epsilon=epsilon, bias=(-3.0, 2.0, step))
    path = run(out or RESULTS / "synthetic", setting, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


@paper_app.command(epilog=_examples("networks"))
def networks(
    data: Data,
    weights: Weights,
    out: Out = None,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
) -> None:
    """The networks against their sources: the score of ESPNetv2's published weights on VOC, parameters, output size."""
    from lovasz.lab.environment import use_machine
    from lovasz.lab.paper.networks import run

    place = use_machine(device, threads)
    path = run(out or RESULTS / "networks", data, weights, device=place, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


LearningRates = Annotated[
    str, typer.Option("--learning-rates", metavar="A,B", help="Tried for each loss under one budget, on val.")
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Of each run.")]
Crop = Annotated[str, typer.Option("--crop", metavar="HxW", help="Random training crops; `whole` for whole images.")]


@paper_app.command(epilog=_examples("binary"))
def binary(
    data: Data,
    out: Out = None,
    model: options.Model = "espnetv2",
    weights: options.StartWeights = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Foregrounds.", show_default="all but one")] = None,
    losses: Annotated[
        str, typer.Option("--losses", help="Of cross_entropy, hinge, lovasz_hinge and soft_jaccard.")
    ] = "cross_entropy,hinge,lovasz_hinge,soft_jaccard",
    learning_rates: LearningRates = "1e-4,5e-4",
    epochs: Epochs = 2,
    pretrain_epochs: Annotated[
        int, typer.Option("--pretrain-epochs", min=0, help="Of cross-entropy, before all losses, without --weights.")
    ] = 0,
    batch_size: options.BatchSize = 10,
    optimizer: options.Optimizer = "adam",
    weight_decay: options.WeightDecay = 2e-4,
    size: options.Size = None,
    crop: Crop = "whole",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
) -> None:
    """Table 1 and Figure 4: one class against the rest, each loss trained and measured by all losses and image-IoU."""
    from lovasz.lab.environment import use_machine
    from lovasz.lab.paper.binary import Setting, run

    setting = Setting(
        data=data,
        classes=None if classes is None else _list("--classes", classes, str),
        model=model,
        weights=None if weights is None else str(weights),
        losses=_list("--losses", losses, str),
        learning_rates=_list("--learning-rates", learning_rates, float),
        epochs=epochs,
        pretrain_epochs=pretrain_epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        weight_decay=weight_decay,
        size=options.parse_size(size),
        crop=options.parse_crop(crop),
        seed=seed,
    )
    place = use_machine(device, threads)
    path = run(out or RESULTS / f"binary-{_data_name(data)}", setting, device=place, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


@paper_app.command(epilog=_examples("finetune"))
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
    crop: Crop = "whole",
    scale: options.Scale = None,
    earlier: Annotated[
        list[Path] | None,
        typer.Option("--earlier", help="run.json, comparison.json or a folder of runs to take instead; repeatable."),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training/--no-training", help="Or make the tables of the runs that are there.")
    ] = True,
    device: Device = "auto",
    threads: Threads = None,
    workers: options.Workers = 0,
    resume: Resume = False,
) -> None:
    """Figure 9: a trained network trained further, over losses, learning rates, batch sizes, seeds and equibatch."""
    from lovasz.lab.paper.finetune import Setting, run

    setting = Setting(
        data=data,
        weights=str(weights),
        model=model,
        losses=options.parse_losses(losses),
        learning_rates=_list("--learning-rates", learning_rates, float),
        batch_sizes=_list("--batch-sizes", batch_sizes, int),
        seeds=options.parse_seeds(seeds),
        samplers=_list("--samplers", samplers, str),
        epochs=epochs,
        optimizer=optimizer,
        weight_decay=weight_decay,
        crop=options.parse_crop(crop),
        scale=options.parse_scale(scale),
        workers=workers,
        threads=threads,
        device=device,
    )
    folder = out or RESULTS / "finetune"
    path = run(folder, setting, earlier=earlier or (), training=training, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


@paper_app.command(epilog=_examples("page"))
def page(
    results: Annotated[Path, typer.Option("--results", help="Folder with one folder for each experiment.")] = RESULTS,
    out: Annotated[Path, typer.Option("--out", help="The page; pictures/ and results/ go beside it.")] = Path(
        "docs/paper.md"
    ),
) -> None:
    """Make the page of all results: the paper's number, ours, the setting, the machine and the time."""
    from lovasz.lab.paper.page import write_page

    typer.echo(f"Page: {write_page(results, out)}")


def _list(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Comma-separated values, each once."""
    try:
        values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        values = ()
    if not values or len(set(values)) != len(values):
        raise LabError(f"{option} {text!r}: expected values with commas between them, each once.")
    return values


def _data_name(data: str) -> str:
    """What the folder of an experiment on these data is called."""
    from lovasz.lab.paper.earlier import data_name

    return data_name(data)


def _pair(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise LabError(f"--radius {text!r}: expected two numbers, smaller first, for example --radius 5,20.") from None
    return low, high
