"""Synthetic comparison folders for the tests of the report: drawn pictures and invented, seeded numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("background", "road", HOSTILE, 'a long name of a class & its "quotes", won\'t fit', "pole", "bicyclist")
LOSSES = ("weighted_cross_entropy", "lovasz_softmax", "cross_entropy+0.5*lovasz_softmax")
LEVELS = {"weighted_cross_entropy": 0.54, "lovasz_softmax": 0.574, "cross_entropy": 0.566}


def palette(count: int) -> list[list[int]]:
    return [[(67 * i) % 256, (149 * i + 40) % 256, (211 * i + 90) % 256] for i in range(count)]


def scores(classes: tuple[str, ...], level: float, chance: random.Random) -> dict[str, Any]:
    per_class = {name: min(1.0, max(0.0, level + chance.uniform(-0.3, 0.3))) for name in classes}
    return {
        "dataset_miou": level + chance.uniform(-0.01, 0.01),
        "image_miou": level + 0.05 + chance.uniform(-0.01, 0.01),
        "pixel_accuracy": 0.85 + chance.uniform(-0.01, 0.01),
        "per_class_iou": per_class,
    }


def comparison(
    *,
    losses: tuple[str, ...] = LOSSES,
    seeds: tuple[int, ...] = (0, 1, 2),
    classes: tuple[str, ...] = CLASSES,
    test: bool = True,
    epochs: int = 5,
) -> dict[str, Any]:
    """The content of comparison.json without examples."""
    chance = random.Random(0)
    runs = []
    for index, loss in enumerate(losses):
        level = LEVELS.get(loss, 0.56 + 0.004 * index)
        for seed in seeds:
            history = [
                {
                    "epoch": epoch,
                    "train_loss": 1 / epoch,
                    "learning_rate": 5e-4 * (1 - epoch / (epochs + 1)) ** 0.9,
                    "val": scores(classes, level - 0.12 / epoch + 0.1, chance),
                }
                for epoch in range(1, epochs + 1)
            ]
            step = 0.31 + 0.01 * index + chance.uniform(0, 0.01)
            runs.append(
                {
                    "loss": loss,
                    "seed": seed,
                    "history": history,
                    "scores": {"val": history[-1]["val"], "test": scores(classes, level, chance) if test else None},
                    "seconds_per_step": step,
                    "loss_seconds_per_step": step * (0.06 + 0.02 * index),
                    "steps": 185,
                    "seconds": 340.0,
                    "weights": f"{loss}/seed-{seed}/model.safetensors",
                }
            )
    return {
        "version": 1,
        "command": "lovasz compare --data folder:street --weights start.safetensors --losses " + ",".join(losses),
        "created": "2030-01-02T03:04:05+00:00",
        "dataset": {
            "spec": "folder:street",
            "name": "street",
            "classes": list(classes),
            "palette": palette(len(classes)),
            "images": {"train": 367, "val": 101, "test": 233 if test else None},
        },
        "model": "enet",
        "parameters": 363_069,
        "start": {"kind": "weights", "detail": "start.safetensors"},
        "config": {"epochs": epochs, "learning_rate": 5e-4, "crop": None, "scale": [1.0, 1.0], "flip": True},
        "environment": {"lovasz": "0.1.0", "torch": "2.13.0", "processor": "a processor", "threads": 2},
        "initial": {"val": scores(classes, 0.5, chance), "test": scores(classes, 0.45, chance) if test else None},
        "losses": list(losses),
        "seeds": list(seeds),
        "pretraining": [],
        "runs": runs,
        "examples": [],
    }


def draw_examples(folder: Path, content: dict[str, Any], *, count: int = 3, size: tuple[int, int] = (480, 360)) -> None:
    """Adds examples to the content and their pictures to the folder, smallest difference first."""
    chance = random.Random(1)
    colours = [tuple(colour) for colour in content["dataset"]["palette"]]
    for index in range(count):
        name = f"image_{index} & <b>more</b>"
        place = Path("examples") / str(index)
        (folder / place).mkdir(parents=True)
        _scene(size, colours, random.Random(index), photo=True).save(folder / place / "image.png")
        _scene(size, colours, random.Random(index)).save(folder / place / "truth.png")
        predictions = {}
        for number, loss in enumerate(content["losses"]):
            picture = _scene(size, colours, random.Random(index), shift=chance.randint(-size[0] // 20, size[0] // 20))
            picture.save(folder / place / f"{number}.png")
            predictions[loss] = {"image": f"{place.as_posix()}/{number}.png", "miou": chance.uniform(0.4, 0.7)}
        content["examples"].append(
            {
                "name": name,
                "image": f"{place.as_posix()}/image.png",
                "truth": f"{place.as_posix()}/truth.png",
                "predictions": predictions,
                "difference": 0.02 * (index + 1),
            }
        )


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _scene(
    size: tuple[int, int], colours: list[tuple[int, ...]], chance: random.Random, *, photo: bool = False, shift: int = 0
) -> Image.Image:
    width, height = size
    image = Image.new("RGB", size, (150, 180, 210) if photo else colours[0])
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y = chance.randrange(width) + shift, chance.randrange(height)
        w, h = chance.randrange(width // 20, width // 3), chance.randrange(height // 20, height // 2)
        colour = chance.choice(colours)
        shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(sum(colour) // 3 + 20 * k for k in range(3)) if photo else colour)
    if not photo and not shift:
        draw.rectangle((0, height - height // 12, width, height), fill=(0, 0, 0))  # void
    return image


def content_of(folder: Path) -> dict[str, Any]:
    """What comparison.json holds now."""
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


def set_at(content: Any, path: str, value: object) -> None:
    """Put a value at a place such as "runs/0/seed"."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in parents:
        content = content[part]
    content[last] = value
