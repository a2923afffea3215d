"""Small image and mask files of every kind, written for the tests of the readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lovasz.lab.data import open_dataset
from lovasz.lab.data.pairs import PairDataset


def write(path: Path, pixels: np.ndarray, palette: list[int] | None = None, **save: object) -> Path:
    """An image file of an array, with its folders; a palette makes it a palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path, **save)
    return path


def picture(seed: int = 0, height: int = 6, width: int = 8) -> np.ndarray:
    """A random RGB image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(*values: int, height: int = 6, width: int = 8) -> np.ndarray:
    """A mask whose columns go through the values in turn."""
    return np.resize(np.array(values, np.uint8), width)[None].repeat(height, 0)


def write_folder(
    root: Path,
    masks: dict[str, np.ndarray],
    palette: list[int] | None = None,
    images: str = "images",
    to: str = "masks",
) -> Path:
    """A folder of pairs, one for each mask, images as PNG."""
    for number, (stem, mask) in enumerate(masks.items()):
        write(root / images / f"{stem}.png", picture(number, *mask.shape[:2]))
        write(root / to / f"{stem}.png", mask, palette)
    return root


def folder(root: Path, count: int = 10) -> Path:
    """A folder of so many pairs 000, 001, ... of three classes."""
    return write_folder(root, {f"{number:03d}": labels(0, 1, 2) for number in range(count)})


def names(spec: str, split: str, **options: str) -> list[str]:
    """The images of a split, in its order."""
    dataset = open_dataset(spec, split, **options)
    return [dataset[i].name for i in range(len(dataset))]


def lists(root: Path, **stems: str) -> None:
    """List files: train.txt with what ``train`` holds, and so on."""
    for split, text in stems.items():
        (root / f"{split}.txt").write_text(text)


def opened(root: Path, *masks: np.ndarray, palette: list[int] | None = None, options: str = "", **said) -> PairDataset:
    """The train split of a folder of these masks, in this order; `said` goes into classes.json."""
    for path in root.glob("*/*.png"):
        path.unlink()
    write_folder(root, {f"{number}": mask for number, mask in enumerate(masks)} | {"v": masks[0]}, palette)
    (root / "train.txt").write_text("\n".join(str(number) for number in range(len(masks))))
    (root / "val.txt").write_text("v")
    if said:
        (root / "classes.json").write_text(json.dumps(said))
    dataset = open_dataset(f"folder:{root}{'?' + options if options else ''}", "train")
    assert isinstance(dataset, PairDataset)
    return dataset


def first_row(dataset: PairDataset, index: int = 0, count: int = 4) -> list[int]:
    """The labels of the first pixels of a mask, as training gets them."""
    return dataset[index].mask[0, :count].tolist()


def coloured(*colours: tuple[int, int, int]) -> np.ndarray:
    """An RGB mask whose columns go through the colours in turn."""
    return np.array(colours, np.uint8)[labels(*range(len(colours)))]
