"""The commands `lovasz paper ...`, one for each section of the paper; the other commands share no options with them.

Those that train stand in `training_commands`, which is loaded here so that `paper_app` has them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lovasz.lab import option_texts, options
from lovasz.lab.errors import LabError
from lovasz.lab.options import Data, Device, Resume, Seed, Threads, Weights
from lovasz.lab.paper import training_commands
from lovasz.lab.paper.app import EXAMPLES, RESULTS, Out, examples, paper_app, values_of
from lovasz.lab.progress import display, loading
from lovasz.lab.slips import Command

__all__ = ["EXAMPLES", "paper_app", "training_commands"]


@paper_app.command(cls=Command, epilog=examples("surfaces"))
def surfaces(
    out: Out = None,
    points: Annotated[int, typer.Option("--points", min=5, max=201, help="Along each axis.")] = 31,
    resume: Resume = False,
) -> None:
    """Figures 1 and 2: both losses of two pixels as surfaces; pictures, and a page where they can be turned."""
    from lovasz.lab.paper.surfaces import run

    path = run(out or RESULTS / "surfaces", points=points, resume=resume)
    typer.echo(f"Result: {path}\nPage: {path.with_name('surfaces.html')}")


@paper_app.command(cls=Command, epilog=examples("synthetic"))
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


@paper_app.command(cls=Command, epilog=examples("networks"))
def networks(
    data: Data,
    weights: Weights,
    out: Out = None,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
) -> None:
    """The networks against their sources: the score of ESPNetv2's published weights on VOC, parameters, output size."""
    with loading():
        from lovasz.lab.environment import use_machine
        from lovasz.lab.paper.networks import run

    place = use_machine(device, threads)
    path = run(out or RESULTS / "networks", data, weights, device=place, resume=resume, progress=True)
    typer.echo(f"Result: {path}")


@paper_app.command(cls=Command, epilog=examples("batches"))
def batches(
    data: Data,
    weights: Weights,
    out: Out = None,
    model: options.Model = "espnetv2",
    size: options.AskedSize = None,
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="Images in a batch.")] = "1,2,5,10,21,50,100",
    passes: Annotated[int, typer.Option("--passes", min=1, help="Over the images, to draw batches from.")] = 50,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
) -> None:
    """Section 3.1, Eq. 15: the mean IoU of images, batches and the data set on one network's predictions."""
    with loading():
        from lovasz.lab.environment import use_machine
        from lovasz.lab.paper.batches import run

    path = run(
        out or RESULTS / "batches",
        data,
        weights,
        model=model,
        size=option_texts.parse_size(size),
        batch_sizes=values_of("--batch-sizes", batch_sizes, int),
        passes=passes,
        seed=seed,
        device=use_machine(device, threads),
        resume=resume,
        progress=True,
    )
    typer.echo(f"Result: {path}")


@paper_app.command("all", cls=Command, epilog=examples("all"))
def everything(
    shared: Annotated[
        Path, typer.Option("--shared", help="Folder with data/ (voc2012_mini, nuclei, camvid) and weights/.")
    ] = Path("../shared"),
    small: Annotated[bool, typer.Option("--small", help="Settings for two cores.")] = False,
    parts: Annotated[str | None, typer.Option("--parts", help="Which, by folder.", show_default="all")] = None,
    out: Annotated[Path, typer.Option("--out", help="Gets one folder for each part.")] = RESULTS,
    page: Annotated[Path, typer.Option("--page", help="The page; pictures/ and results/ go beside it.")] = Path(
        "docs/paper.md"
    ),
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,  # noqa: ARG001 - it always goes on; the option is what an interruption suggests
) -> None:
    """All parts one after another, then the page. Goes on where it was stopped; finished parts are skipped."""
    with loading():
        from lovasz.lab.paper import everything as whole
        from lovasz.lab.paper.page import write_page

    found = whole.parts(whole.Places.below(shared), small=small, device=device, threads=threads)
    names = tuple(found) if parts is None else values_of("--parts", parts, str)
    for name in names:
        if name not in found:
            raise LabError(f"--parts {parts!r}: there is no part {name!r}; parts: {', '.join(found)}.")
    with display(True) as progress:
        assert progress is not None
        failed = whole.run_all(out, {name: part for name, part in found.items() if name in names}, progress)
    try:
        typer.echo(f"Page: {write_page(out, page, failed)}")
    except LabError as error:  # no result at all; why there is none has been collected
        failed.append(str(error))
    if failed:
        raise LabError("not everything could be run:\n" + "\n".join(failed))


@paper_app.command(cls=Command, epilog=examples("page"))
def page(
    results: Annotated[
        Path, typer.Option("--results", help="Folder with a folder, or a NAME.json, for each.")
    ] = RESULTS,
    out: Annotated[Path, typer.Option("--out", help="The page; pictures/ and results/ go beside it.")] = Path(
        "docs/paper.md"
    ),
) -> None:
    """Make the page of all results: the paper's number, ours, the setting, the machine and the time."""
    from lovasz.lab.paper.page import write_page

    typer.echo(f"Page: {write_page(results, out)}")


def _pair(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise LabError(f"--radius {text!r}: expected two numbers, smaller first, for example --radius 5,20.") from None
    return low, high
