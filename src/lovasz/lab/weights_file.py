"""Which file is meant where weights are asked for: a run's folder stands for those in it, its checkpoint for none.
Apart from the networks, because the command line reads its options before torch is there."""

from __future__ import annotations

from pathlib import Path

from lovasz.lab.errors import LabError

WEIGHTS = "model.safetensors"  # as a run writes them


def weights_in(path: Path) -> Path:
    """The weights of a run's folder; any other path as it is.

    Raises LabError for a checkpoint, and for a folder without weights; the message names those that lie near.
    """
    if path.suffix == ".ckpt" and path.is_file():
        own = path.parent.parent / WEIGHTS
        give = f"give {own}" if own.is_file() else f"its run has not written {own} yet; finish it with --resume"
        raise LabError(f"{path}: a checkpoint, with which --resume goes on, and no weights file: {give}.")
    if not path.is_dir():
        return path
    if (own := path / WEIGHTS).is_file():
        return own
    depths = (1, 2, 3)  # a comparison has folders of losses and seeds
    below = [str(file) for depth in depths for file in sorted(path.glob("*/" * depth + WEIGHTS))]
    shown = ", ".join(below[:3]) + (f" or {len(below) - 3} more" if len(below) > 3 else "")
    raise LabError(f"{path}: is a folder; give {f'one of {shown}' if below else 'a .safetensors file'}.")
