"""Scores on images that a network was trained on are told as such, whatever these images are called by now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.lab.image_files import folder, labels, names, picture, write, write_folder

from lovasz.lab.config import RunConfig
from lovasz.lab.data import open_dataset
from lovasz.lab.models import describe_weights
from lovasz.lab.scoring import open_network
from lovasz.lab.seen import seen_in_training
from lovasz.lab.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of ten images, and weights of a run on it."""
    place = tmp_path_factory.mktemp("seen")
    root = folder(place / "data")
    run = RunConfig(data=f"folder:{root}", data_seed=1, model="unet", epochs=1, batch_size=2, out=str(place / "run"))
    return root, train(run, progress=False).with_name("model.safetensors")


def notes(weights: Path, data: str, split: str, **options: int) -> str:
    return " ".join(open_network("unet", weights, open_dataset(data, split, **options))[2])


def test_a_split_by_another_seed_holds_training_images_and_the_note_counts_them(trained: tuple[Path, Path]) -> None:
    root, weights = trained
    spec = f"folder:{root}"
    known = set(names(spec, "train", seed=1))
    counts = set()
    for seed in range(6):
        for split in ("val", "test"):
            overlap = len(known & set(found := names(spec, split, seed=seed)))
            note = notes(weights, spec, split, seed=seed)
            assert (f"{overlap} of {len(found)} images were in training" in note) == (overlap > 0), note
            counts.add(overlap)
    assert counts >= {0, 1}  # else this shows nothing
    assert notes(weights, spec, "train", seed=1) == ""
    assert describe_weights(weights)["training"]["data_seed"] == 1


def test_the_content_tells_and_not_the_name(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Copies under new names were seen; new images under the old names, as of splits numbered anew, were not."""
    root, weights = trained
    seen = names(f"folder:{root}", "train", seed=1)
    for number, name in enumerate(seen):
        for place in ("images", "masks"):
            (tmp_path / "copies" / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(root / place / f"{name}.png", tmp_path / "copies" / place / f"new{number}.png")
    copies = [open_dataset(f"folder:{tmp_path / 'copies'}", split) for split in ("train", "val", "test")]
    assert sum(seen_in_training(weights, dataset) for dataset in copies) == len(seen)
    write_folder(tmp_path / "new", {name: labels(0, 1, 2) for name in seen})
    for number, name in enumerate(seen):
        write(tmp_path / "new" / "images" / f"{name}.png", picture(100 + number))
    assert not seen_in_training(weights, open_dataset(f"folder:{tmp_path / 'new'}", "train"))


def test_a_start_from_weights_has_seen_their_images_too(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, weights = trained
    write_folder(tmp_path / "d", {name: labels(0, 1, 2, height=8) for name in "abcd"})
    run = RunConfig(data=f"folder:{tmp_path / 'd'}", model="unet", weights=str(weights), epochs=1, batch_size=2)
    tuned = train(run.replace(out=str(tmp_path / "run")), progress=False).with_name("model.safetensors")
    first, both = (set(describe_weights(path)["training"]["images"].split()) for path in (weights, tuned))
    assert first < both
    before = open_dataset(f"folder:{root}", "train", seed=1)
    assert seen_in_training(tuned, before) == len(before)


@pytest.mark.parametrize("training", [None, "800 images", {"images": 800}, {}])
def test_weights_whose_json_says_nothing_of_images_are_scored_without_a_note(
    trained: tuple[Path, Path], tmp_path: Path, training: object
) -> None:
    root, weights = trained
    shutil.copy(weights, tmp_path / "w.safetensors")
    description = json.loads(weights.with_suffix(".json").read_text()) | {"training": training}
    (tmp_path / "w.json").write_text(json.dumps(description))
    assert notes(tmp_path / "w.safetensors", f"folder:{root}", "val", seed=3) == ""
