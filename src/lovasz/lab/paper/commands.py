"""The commands `lovasz paper ...`, one for each section of the paper; the other commands share no options with them.

Those that train stand in `training_commands`, which is loaded here so that `paper_app` has them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lovasz.lab.errors import LabError
from lovasz.lab.options import Data, Device, Resume, Seed, Threads, Weights
from lovasz.lab.paper import training_commands
from lovasz.lab.paper.app import EXAMPLES, RESULTS, Out, examples, paper_app

__all__ = ["EXAMPLES", "paper_app", "training_commands"]


@paper_app.command(epilog=examples("surfaces"))
def surfaces(
    out: Out = None,
    points: Annotated[int, typer.Option("--points", min=5, max=201, help="Along each axis.")] = 31,
    resume: Resume = False,
) -> None:
    """Figures 1 and 2: both losses of two pixels as surfaces; pictures, and a page where they can be turned."""
    from lovasz.lab.paper.surfaces import run

    path = run(out or RESULTS / "surfaces", points=points, resume=resume)
    typer.echo(f"Result: {path}\nPage: {path.with_name('surfaces.html')}")


@paper_app.command(epilog=examples("synthetic"))
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


@paper_app.command(epilog=examples("networks"))
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


@paper_app.command(epilog=examples("page"))
def page(
    results: Annotated[Path, typer.Option("--results", help="Folder with one folder for each experiment.")] = RESULTS,
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
