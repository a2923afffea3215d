"""How many steps a run has, of how many images, from the numbers alone. Apart from the loop, so that a run that makes
no sense is refused before it has a folder."""

from __future__ import annotations

from dataclasses import dataclass

from lovasz.lab.config import RunConfig
from lovasz.lab.errors import LabError
from lovasz.lab.losses import LossSpec


@dataclass(frozen=True)
class Budget:
    """batch_size: images that each process takes in a step; steps: of the whole run."""

    batch_size: int
    steps: int


def budget(config: RunConfig, images: int) -> Budget:
    """Of `images` training images. Raises LabError where there are more processes than images."""
    share = images // config.devices  # of a process; what is left over is left out
    if not share:
        raise LabError(f"devices: got {config.devices}, but there are {images} training images; use fewer processes.")
    batch_size = min(config.batch_size, share)
    return Budget(batch_size, share // batch_size * config.epochs)


def fewer_images(config: RunConfig, images: int) -> str | None:
    """What to tell where there are too few images for the steps that were asked for."""
    used = budget(config, images).batch_size
    if used == config.batch_size:
        return None
    step, asked = str(used), str(config.batch_size)
    if config.devices > 1:
        step, asked = f"{config.devices} x {used} in {config.devices} processes", f"{config.devices} x {asked}"
    return f"only {images} training image{'' if images == 1 else 's'}: steps of {step}, not of {asked}"


def never_switches(spec: LossSpec, steps: int) -> str | None:
    """What is wrong with a loss of several phases, one of which gets none of the steps, in words."""
    idle = spec.idle(steps)
    if idle is None:
        return None
    return (
        f"loss {spec}: the run has {steps} step{'' if steps == 1 else 's'}, of which none is left for {idle}. Give it "
        "more steps (a larger --epochs, a smaller --batch-size), or a loss without this switch."
    )
