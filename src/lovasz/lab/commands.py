"""The commands of `lovasz`: what each takes, in what order it works, what it prints. Torch and Lightning are imported
inside the commands, so that help appears at once."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lovasz.lab import console, option_texts, options
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.help_examples import help_examples
from lovasz.lab.paper.commands import paper_app
from lovasz.lab.progress import display, loading, speaks
from lovasz.lab.run_of_options import run_of_options
from lovasz.lab.slips import Command

DEFAULT = RunConfig(data="shapes")


class _Group(TyperGroup):
    """Turns the lab's errors and an interruption into one paragraph and an exit code, for all commands at one place."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = console.message_of(error)
            if message is None:
                raise
            console.print_error(message)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            console.print_interrupted()
            raise typer.Exit(130) from None
        except SystemExit as stop:
            # Lightning turns Ctrl-C into sys.exit(1) after it has closed its loggers.
            if isinstance(stop.__context__, KeyboardInterrupt):
                console.print_interrupted()
                raise typer.Exit(130) from None
            raise


app = typer.Typer(
    name="lovasz",
    cls=_Group,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(paper_app)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"lovasz {version('lovasz')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=help_examples("lovasz"))
def lovasz(
    context: typer.Context,
    _: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Train segmentation networks for the IoU they are judged by: compare losses, look, use the network."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(cls=Command, epilog=help_examples("compare"))
def compare(
    data: options.Data,
    data_seed: options.DataSeed = DEFAULT.data_seed,
    data_option: options.DataOption = None,
    model: options.StartModel = None,
    weights: options.StartWeights = None,
    losses: options.Losses = options.DEFAULT_LOSSES,
    pretrain_epochs: options.PretrainEpochs = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = DEFAULT.batch_size,
    learning_rate: options.LearningRate = DEFAULT.learning_rate,
    optimizer: options.Optimizer = DEFAULT.optimizer,
    weight_decay: options.WeightDecay = DEFAULT.weight_decay,
    momentum: options.Momentum = DEFAULT.momentum,
    poly_power: options.PolyPower = DEFAULT.poly_power,
    seeds: options.Seeds = "1",
    validate_every: options.ValidateEvery = DEFAULT.validate_every,
    keep: options.Keep = DEFAULT.keep,
    size: options.Size = None,
    crop: options.Crop = None,
    scale: options.Scale = None,
    flip: options.Flip = DEFAULT.flip,
    color_jitter: options.ColorJitter = DEFAULT.color_jitter,
    sampler: options.SamplerName = DEFAULT.sampler,
    freeze_batch_norm: options.FreezeBatchNorm = DEFAULT.freeze_batch_norm,
    precision: options.Precision = DEFAULT.precision,
    device: options.Device = DEFAULT.device,
    devices: options.Devices = None,
    global_batch: options.GlobalBatch = DEFAULT.global_batch,
    threads: options.Threads = None,
    workers: options.Workers = DEFAULT.num_workers,
    logger: options.Logger = DEFAULT.logger,
    out: options.Out = None,
    resume: options.Resume = False,
    examples: options.ExampleImages = 6,
    open_report: options.OpenReport = False,
) -> None:
    """Train one network with several losses, from one start, under one budget, and report which gives the better IoU.

    Writes comparison.json, report.html (one file, no network needed), and each run's weights and curves.
    """
    names = option_texts.parse_losses(losses)
    chosen = option_texts.parse_seeds(seeds)
    run = run_of_options(locals(), names)
    from lovasz.lab.defaults import default_folder

    folder = out or default_folder(data, run.model, names)
    config = ComparisonConfig(
        run=run,
        losses=names,
        seeds=chosen,
        out=str(folder),
        resume=resume,
        examples=examples,
        command=shlex.join(["lovasz", *sys.argv[1:]]),
    )
    with loading():
        from lovasz.lab.comparison import compare as run_comparison
        from lovasz.lab.comparison import with_earlier
        from lovasz.lab.errors import Diverged
        from lovasz.lab.report import write_report

    config = with_earlier(config)
    if speaks():
        console.print_plan(run, config.losses, config.seeds, folder)
    diverged = None
    try:
        path = run_comparison(config)
    except Diverged as error:
        path, diverged = folder / "comparison.json", error
    if speaks():
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": []}
        if diverged is None or document["runs"]:  # what the other losses gave
            report = write_report(path.parent)
            console.print_comparison(document, report)
            if open_report:
                typer.launch(report.resolve().as_uri())
    if diverged is not None:
        raise diverged


@app.command(cls=Command, epilog=help_examples("train"))
def train(
    data: options.Data,
    data_seed: options.DataSeed = DEFAULT.data_seed,
    data_option: options.DataOption = None,
    model: options.StartModel = None,
    weights: options.StartWeights = None,
    loss: options.Loss = None,
    pretrain_epochs: options.FirstEpochs = 0,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = DEFAULT.batch_size,
    learning_rate: options.LearningRate = DEFAULT.learning_rate,
    optimizer: options.Optimizer = DEFAULT.optimizer,
    weight_decay: options.WeightDecay = DEFAULT.weight_decay,
    momentum: options.Momentum = DEFAULT.momentum,
    poly_power: options.PolyPower = DEFAULT.poly_power,
    seed: options.Seed = DEFAULT.seed,
    validate_every: options.ValidateEvery = DEFAULT.validate_every,
    keep: options.Keep = DEFAULT.keep,
    size: options.Size = None,
    crop: options.Crop = None,
    scale: options.Scale = None,
    flip: options.Flip = DEFAULT.flip,
    color_jitter: options.ColorJitter = DEFAULT.color_jitter,
    sampler: options.SamplerName = DEFAULT.sampler,
    freeze_batch_norm: options.FreezeBatchNorm = DEFAULT.freeze_batch_norm,
    precision: options.Precision = DEFAULT.precision,
    device: options.Device = DEFAULT.device,
    devices: options.Devices = None,
    global_batch: options.GlobalBatch = DEFAULT.global_batch,
    threads: options.Threads = None,
    workers: options.Workers = DEFAULT.num_workers,
    logger: options.Logger = DEFAULT.logger,
    out: options.Out = None,
    resume: options.Resume = False,
) -> None:
    """Train one network with one loss and one seed; writes model.safetensors, its JSON, the curves and the scores."""
    run = run_of_options(locals(), None if loss is None else (loss,), seed=seed)
    with loading():
        from lovasz.lab.defaults import default_folder
        from lovasz.lab.training import train as run_training

    folder = out or default_folder(data, run.model, (run.loss,), f"seed-{seed}")
    run = run.replace(out=str(folder))
    if speaks():
        console.print_plan(run, (run.loss,), (run.seed,), folder)
        if loss is None and run.loss != options.DEFAULT_LOSS:
            console.print_no_switch(run.loss, options.DEFAULT_LOSS)
    path = run_training(run, resume=resume)
    if not speaks():
        return
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    for split in [name for name in ("val", "test") if scores[name]]:
        console.print_scores(scores[split], f"{run.loss}, {split}")
    typer.echo(f"Weights: {path.with_name('model.safetensors')}")


@app.command(cls=Command, epilog=help_examples("evaluate"))
def evaluate(
    data: options.ScoredData,
    weights: options.Weights,
    split: Annotated[str, typer.Option("--split", help="train, val or test.", rich_help_panel=options.DATA)] = "val",
    data_seed: options.DataSeed = DEFAULT.data_seed,
    data_option: options.DataOption = None,
    model: options.WeightsModel = None,
    size: options.WeightsSize = None,
    scales: options.Scales = None,
    crf: options.WithCRF = False,
    device: options.Device = DEFAULT.device,
    threads: options.OwnThreads = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON (fractions, not per cent).", rich_help_panel=options.OUTPUT)
    ] = False,
) -> None:
    """Score trained weights at full resolution: mean IoU, per-image IoU, pixel accuracy, IoU of each class."""
    with loading():
        from lovasz.lab.data import open_dataset
        from lovasz.lab.environment import use_machine
        from lovasz.lab.models import network_of
        from lovasz.lab.scoring import score

    place = use_machine(device, threads)
    dataset = open_dataset(data, split, seed=data_seed, **option_texts.parse_data_options(data_option))
    name, ways = model or network_of(weights), option_texts.ways_of_asking(weights, size, scales, crf)
    scores, words = score(name, weights, dataset, device=place, progress=not as_json, **ways)
    if as_json:
        printed = {"data": data, "split": dataset.split, "weights": str(weights), "scores": scores.to_json()}
        typer.echo(json.dumps(printed))
    else:
        console.print_scores(scores.to_json(), f"{weights} on {data}, {dataset.split}: {words}")


@app.command(cls=Command, epilog=help_examples("predict"))
def predict(
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images (sub-folders too).")],
    weights: options.Weights,
    out: Annotated[
        Path, typer.Option("--out", help="Gets masks/ and overlays/.", rich_help_panel=options.OUTPUT)
    ] = Path("predictions"),
    overlays: Annotated[
        bool, typer.Option("--overlays/--no-overlays", help="Also draw over the image.", rich_help_panel=options.OUTPUT)
    ] = True,
    opacity: Annotated[
        float, typer.Option("--opacity", min=0, max=1, help="Of the overlays.", rich_help_panel=options.OUTPUT)
    ] = 0.5,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the same name.", rich_help_panel=options.OUTPUT)
    ] = False,
    model: options.WeightsModel = None,
    size: options.WeightsSize = None,
    scales: options.Scales = None,
    crf: options.WithCRF = False,
    device: options.Device = DEFAULT.device,
    threads: options.OwnThreads = None,
) -> None:
    """Segment new images: for each a mask (PNG, class numbers with the class colours as palette) and an overlay."""
    with loading():
        from lovasz.lab.environment import use_machine
        from lovasz.lab.predict import predict_images

    place = use_machine(device, threads)
    with display(True) as progress:
        result = predict_images(
            images,
            weights,
            out,
            model=model,
            overlays=overlays,
            opacity=opacity,
            overwrite=overwrite,
            device=place,
            progress=progress,
            **option_texts.ways_of_asking(weights, size, scales, crf),
        )
    console.print_predictions(result)


@app.command(cls=Command, epilog=help_examples("doctor"))
def doctor() -> None:
    """Show versions and devices, which kernel computes the loss for which input and why, and whether each is right."""
    with loading():
        from lovasz.lab.doctor import examine, print_examination

    found = examine()
    print_examination(found)
    if not found.healthy:
        raise typer.Exit(1)
