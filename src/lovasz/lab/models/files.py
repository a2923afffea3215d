"""Tensors out of a .safetensors, and the refusal of files that are none. Apart from `weights.py`, which knows what the
tensors of a network are called: a pickle has to be told before its JSON is missed."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lovasz.lab.errors import LabError
from lovasz.lab.weights_file import weights_in


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises LabError where it is no whole safetensors file."""
    check_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise LabError(
            f"{path}: not a whole safetensors file ({error}); expected an undamaged .safetensors."
        ) from error


def check_file(path: Path) -> None:
    """Raises LabError where there is no file, or one of torch.save, or a folder, whose weights it names."""
    if (own := weights_in(path)) != path:
        raise LabError(f"{path}: is a folder; give {own}.")
    if not path.is_file():
        raise LabError(f"{path}: there is no such weights file; check the path.")
    if _pickled(path):
        raise LabError(
            f"{path}: a file of torch.save, which may run code and is not opened. If it is a state dict, convert it: "
            f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), '{path.stem}.safetensors')."
        )


def _pickled(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")  # torch.save: a zip, or before 2020 a bare pickle
    except OSError:
        return False
