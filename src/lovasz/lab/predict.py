"""Masks and overlays for images that nobody has labelled: what a trained network is for. Apart from evaluation, whose
measures need a truth, and seconds to load: here images come straight from a folder, and each that fails is named."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import nn

from lovasz.lab.config import read_json, write_json
from lovasz.lab.data import DatasetInfo
from lovasz.lab.data.colours import overlay, voc_palette
from lovasz.lab.data.labels import MOST_CLASSES
from lovasz.lab.data.masks import IMAGE_SUFFIXES, read_image
from lovasz.lab.data.walk import files_below, require_utf8
from lovasz.lab.errors import LabError, memory_full
from lovasz.lab.models import load_exported
from lovasz.lab.models.resized import ask_as
from lovasz.lab.models.weights import describe_export, json_path
from lovasz.lab.progress import tracked

LONGEST_NAME = 255  # of a file, in bytes, on the usual file systems
WRITTEN = ("masks", "overlays")
LEGEND = "classes.json"
MADE_BY = "lovasz predict"  # in classes.json: the masks beside it are no truth that a person drew


@dataclass
class Predictions:
    """What `predict_images` did: the files it wrote, and why each other file of the folder has no mask."""

    out: Path
    info: DatasetInfo
    masks: list[Path] = field(default_factory=list)
    overlays: list[Path] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)  # of an earlier call, where this one wrote none of that name
    unreadable: dict[Path, str] = field(default_factory=dict)
    other_files: list[Path] = field(default_factory=list)


def predict_labels(
    model: nn.Module, images: torch.Tensor, device: torch.device | str, num_classes: int
) -> torch.Tensor:
    """The class of each pixel: images uint8 (N, 3, H, W) to int64 (N, H, W) on the CPU, by a model in eval mode."""
    with torch.inference_mode():
        logits = model(images.to(device).float() / 255)
    if logits.shape[1] != num_classes:
        raise LabError(
            f"the network gives {logits.shape[1]} classes, the data set has {num_classes}; use weights for these."
        )
    return logits.argmax(1).cpu()


def predict_images(
    images: Path | str,
    weights: Path | str,
    out: Path | str,
    *,
    model: str | None = None,
    overlays: bool = True,
    opacity: float = 0.5,
    overwrite: bool = False,
    size: tuple[int, int] | None = None,
    scales: Sequence[float] | None = None,
    crf: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Predictions:
    """Write `out`/masks/NAME.png and `out`/overlays/NAME.png for an image or for each image below a folder.

    A mask is an 8-bit palette PNG of the image's size: the pixel is the class number, the palette holds the class
    colours. `out`/classes.json lists names and colours, as the data set `folder:` reads them. Sub-folders are kept.
    A file's ending is replaced by .png; in a folder where two images would then have one name, all keep their ending
    (a.jpg.png, a.tif.png).
    Images are read one by one; one that cannot be read, or is too large for the memory, is passed over and stands in
    `unreadable`. model: the network of the weights, None for the one that they say. size, scales, crf: how the network
    is asked, see `ask_as`; a mask has the size of its image all the same.
    Raises LabError before anything is written when there is no image, when the name of a mask would be too long, when
    a file to write is there already and `overwrite` is off, when `out`/masks or `out`/classes.json are not of an
    earlier call, and when masks of one would stay under other classes.
    """
    images, weights, out = Path(images), Path(weights), Path(out)
    files, other_files = find_images(images, out)
    root = images if images.is_dir() else images.parent
    names = output_names([path.relative_to(root) for path in files])
    _refuse_long(files, names)
    folders = WRITTEN if overlays else WRITTEN[:1]
    _refuse_masks_of_others(out)
    if not overwrite:
        _refuse_existing([out / folder / name for name in names for folder in folders])
    network, description = load_exported(weights, model)
    network = ask_as(network, size=size, scales=scales, crf=crf).eval().to(device)
    info = classes_of(description, weights.name)
    result = Predictions(out, info, other_files=other_files)
    _write_legend(out, info, names)
    for path, name in tracked(zip(files, names, strict=True), len(files), "predicting", progress):
        try:
            pixels = read_image(path)
            labels = _labels_of(pixels, path, network, device, info)
        except LabError as error:
            result.unreadable[path] = str(error)
            result.stale += [file for folder in WRITTEN if (file := out / folder / name).is_file()]
            continue
        result.masks.append(_save(_palette_image(labels, info), out / "masks" / name))
        if overlays:
            drawn = Image.fromarray(overlay(pixels, labels, info, alpha=opacity))
            result.overlays.append(_save(drawn, out / "overlays" / name))
        elif (out / "overlays" / name).is_file():
            result.stale.append(out / "overlays" / name)
    return result


def _labels_of(
    pixels: np.ndarray, path: Path, network: torch.nn.Module, device: torch.device | str, info: DatasetInfo
) -> np.ndarray:
    """uint8 (H, W). Raises LabError, which names the file, where the memory is too small for it."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, H, W)
    try:
        return predict_labels(network, image, device, info.num_classes)[0].to(torch.uint8).numpy()
    except (RuntimeError, MemoryError) as error:
        if not memory_full(error):
            raise
        height, width = pixels.shape[:2]
        raise LabError(
            f"{path}: too large for this memory, {width} x {height} pixels; give a smaller --size."
        ) from error


def find_images(images: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """The images at or below a path, in order of their names, and the files that are none. Hidden files, `out` and what
    earlier calls have written below the path are left out. Raises LabError when there is no image, or one whose name is
    not UTF-8."""
    if images.is_file():
        return [require_utf8(images)], []  # a person who names one file means it, whatever its ending
    if not images.is_dir():
        raise LabError(f"{images}: there is no such file or folder; give an image or a folder of images.")
    found = sorted(files_below(images, skip={place.resolve() for place in (out, *(out / name for name in WRITTEN))}))
    legends = [path for path in found if path.name == LEGEND and _made_here(path)]
    written = {legend.parent / name for legend in legends for name in WRITTEN}
    found = [path for path in found if path not in legends and written.isdisjoint(path.parents)]
    files = [require_utf8(path) for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise LabError(f"{images}: no image in this folder or below it; expected files such as .jpg, .png or .tif.")
    return files, [path for path in found if path.suffix.lower() not in IMAGE_SUFFIXES]


def output_names(paths: Sequence[Path]) -> list[Path]:
    """Relative image paths to relative PNG paths, all different, also where a file system ignores case."""
    counts = Counter(_key(path.with_suffix(".png")) for path in paths)
    crowded = {path.parent for path in paths if counts[_key(path.with_suffix(".png"))] > 1}
    return [
        path.with_name(path.name + ".png") if path.parent in crowded else path.with_suffix(".png") for path in paths
    ]


def _key(path: Path) -> str:
    return str(path).casefold()


def classes_of(description: Mapping[str, Any], name: str) -> DatasetInfo:
    """Class names and colours from the JSON beside the weights; Pascal VOC's colours where it has none."""
    classes = tuple(description["classes"])
    if len(classes) > MOST_CLASSES:
        raise LabError(
            f"{name}: predicts {len(classes)} classes; a mask holds at most {MOST_CLASSES}. Use other weights."
        )
    palette = description.get("palette") or voc_palette(len(classes))
    return DatasetInfo(name, classes, tuple((red, green, blue) for red, green, blue in palette))


def with_outputs_of(weights: Path, info: DatasetInfo) -> DatasetInfo:
    """The classes to score these weights by, so that what is scored is what `predict` writes.

    Where nobody said the classes and the masks lack the last ones of the weights, those of the weights; else `info`.
    """
    if not info.found or not json_path(weights).is_file():
        return info
    trained = classes_of(describe_export(weights), info.name)
    more = trained.classes[info.num_classes :]
    # Two classes that are found have names of their own, and beside a third the same values have others.
    beginnings = (
        [info.classes, ("class 0", "class 1")] if info.classes == ("background", "foreground") else [info.classes]
    )
    if not more or trained.classes[: info.num_classes] not in beginnings:
        return info
    return replace(info, classes=trained.classes, palette=trained.palette)


def _palette_image(labels: np.ndarray, info: DatasetInfo) -> Image.Image:
    colours = np.zeros((256, 3), dtype=np.uint8)  # void (255) and unused numbers are black
    colours[: info.num_classes] = info.palette
    image = Image.fromarray(labels)
    image.putpalette(colours.tobytes())
    return image


def _write_legend(out: Path, info: DatasetInfo, names: Sequence[Path]) -> None:
    """Further images may join those of an earlier call, but none may stay under a legend of other classes.

    names: of the masks that are to be written, over others where these are there.
    """
    legend: dict[str, Any] = {"classes": list(info.classes), "palette_rgb": [list(colour) for colour in info.palette]}
    legend["made_by"] = MADE_BY
    path, masks = out / LEGEND, out / "masks"
    if path.exists() and not _made_here(path):
        raise LabError(f"{path}: is not from {MADE_BY}, and would be lost; choose another --out.")
    if path.exists() and read_json(path) != legend:
        others = sorted({file.relative_to(masks) for file in files_below(masks)} - set(names)) if masks.is_dir() else []
        if others:
            raise LabError(
                f"{path}: lists other classes than these weights have, and {masks / others[0]} is of those; choose "
                "another --out."
            )
    write_json(path, legend)


def _refuse_masks_of_others(out: Path) -> None:
    """A data set's own masks must not get predictions among them, which would count as truth."""
    masks = out / "masks"
    if masks.is_dir() and any(masks.iterdir()) and not _made_here(out / LEGEND):
        raise LabError(f"{masks}: holds masks that are not from {MADE_BY}; choose another --out.")


def _made_here(legend: Path) -> bool:
    """Whether a classes.json, which may be anything or missing, is of an earlier call."""
    try:
        said = read_json(legend)
    except LabError:
        return False
    return isinstance(said, dict) and said.get("made_by") == MADE_BY


def _refuse_long(files: Sequence[Path], names: Sequence[Path]) -> None:
    for path, name in zip(files, names, strict=True):
        if len(os.fsencode(name.name)) > LONGEST_NAME:
            raise LabError(
                f"{path}: its mask would have a name of more than {LONGEST_NAME} bytes, {name.name}; give the image a "
                "shorter name, or one that no other image there has with another ending."
            )


def _refuse_existing(paths: Sequence[Path]) -> None:
    existing = [path for path in paths if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise LabError(f"{existing[0]}{more}: already there; choose another --out, or replace them with --overwrite.")


def _save(image: Image.Image, path: Path) -> Path:
    """Write a PNG so that an interruption leaves no half file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial")  # short: the file's own name may be as long as is allowed
    try:
        image.save(partial, format="PNG")
        partial.replace(path)
    except OSError as error:  # a full disk
        partial.unlink(missing_ok=True)
        error.filename = str(path)  # not that of the partial one
        raise
    return path
