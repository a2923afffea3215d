"""Masks for a person's own images: right pixels under the right names, nothing overwritten, each bad file named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.lab.image_files import labels, write_folder
from torch import nn

from lovasz.lab import predict
from lovasz.lab.console import print_predictions
from lovasz.lab.data import DatasetInfo, open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.models import create_model, load_weights, save_weights

CLASSES = ("dark", "red", "green")
PALETTE = ((1, 2, 3), (200, 10, 20), (30, 220, 40))


class ByColour(nn.Module):
    """A network whose right answer is known: class 1 where red is brightest, 2 for green, 0 where all are below 0.2."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full_like(images[:, 0], 0.2), images[:, 0], images[:, 1]], 1)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    monkeypatch.setattr(
        predict, "load_exported", lambda *_: (ByColour(), {"classes": list(CLASSES), "palette": PALETTE})
    )
    return path


def picture(height=5, width=7):
    """Left half red, right half green, top row dark; and the labels that this means."""
    pixels = np.zeros((height, width, 3), np.uint8)
    labels = np.zeros((height, width), np.uint8)
    pixels[1:, : width // 2, 0] = 255
    pixels[1:, width // 2 :, 1] = 255
    labels[1:, : width // 2] = 1
    labels[1:, width // 2 :] = 2
    return pixels, labels


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture()[0] if pixels is None else pixels).save(path, **options)
    return path


def read(path, mode=None) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert(mode) if mode else image)


def run(images, weights, out, **options):
    return predict.predict_images(images, weights, out, **options)


def test_the_mask_holds_class_numbers_and_shows_class_colours(tmp_path, weights):
    pixels, labels = picture()
    save(tmp_path / "in" / "a.png", pixels)
    done = run(tmp_path / "in", weights, tmp_path / "out")
    mask = tmp_path / "out" / "masks" / "a.png"
    np.testing.assert_array_equal(read(mask), labels)
    np.testing.assert_array_equal(read(mask, "RGB"), np.array(PALETTE, np.uint8)[labels])
    assert [path.name for path in done.masks + done.overlays] == ["a.png", "a.png"]


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_the_overlay_mixes_image_and_class_colours(tmp_path, weights, opacity):
    pixels, labels = picture()
    save(tmp_path / "a.png", pixels)
    run(tmp_path / "a.png", weights, tmp_path / "out", opacity=opacity)
    drawn = read(tmp_path / "out" / "overlays" / "a.png").astype(float)
    expected = (1 - opacity) * pixels + opacity * np.array(PALETTE)[labels]
    assert np.abs(drawn - expected).max() <= 1


def test_overlays_can_be_left_out(tmp_path, weights):
    save(tmp_path / "a.png")
    run(tmp_path / "a.png", weights, tmp_path / "out", overlays=False)
    assert not (tmp_path / "out" / "overlays").exists()


def test_the_ways_of_asking_reach_the_network_and_the_mask_keeps_the_size_of_its_image(tmp_path, weights, monkeypatch):
    sizes = []

    class Noting(ByColour):
        def forward(self, images):
            sizes.append(tuple(images.shape[2:]))
            return super().forward(images)

    description = {"classes": list(CLASSES), "palette": PALETTE}
    monkeypatch.setattr(predict, "load_exported", lambda *_: (Noting(), description))
    save(tmp_path / "a.png", picture(20, 31)[0])
    run(tmp_path / "a.png", weights, tmp_path / "out", size=(8, 16), scales=(1, 0.5))
    assert sizes == [(8, 16), (4, 8)]
    assert read(tmp_path / "out" / "masks" / "a.png").shape == (20, 31)


@pytest.mark.parametrize("size", [(0, 16), (8.0, 16), (8,), (-1, 16), 384])
def test_a_size_that_cannot_be_is_refused_before_anything_is_written(tmp_path, weights, size):
    save(tmp_path / "a.png")
    with pytest.raises(LabError, match=r"size: got .*, expected \(height, width\)"):
        run(tmp_path / "a.png", weights, tmp_path / "out", size=size)
    assert not (tmp_path / "out").exists()


def test_paths_may_be_text(tmp_path, weights):
    save(tmp_path / "in" / "a.png")
    done = run(str(tmp_path / "in"), str(weights), str(tmp_path / "out"))
    assert done.masks == [tmp_path / "out" / "masks" / "a.png"]


def test_sub_folders_are_kept_and_every_size_and_kind_of_image_works(tmp_path, weights):
    save(tmp_path / "in" / "a.jpg", picture(64, 33)[0])
    save(tmp_path / "in" / "x" / "y" / "a.png", picture(1, 1)[0])
    save(tmp_path / "in" / "x" / "grey.png", picture()[0][..., 0])
    alpha = np.dstack([picture()[0], np.full((5, 7), 9, np.uint8)])
    save(tmp_path / "in" / "x" / "alpha.PNG", alpha)
    done = run(tmp_path / "in", weights, tmp_path / "out")
    names = ["a.png", "x/alpha.png", "x/grey.png", "x/y/a.png"]
    assert sorted(path.relative_to(tmp_path / "out" / "masks").as_posix() for path in done.masks) == names
    assert [read(tmp_path / "out" / "masks" / name).shape for name in names] == [(64, 33), (5, 7), (5, 7), (1, 1)]
    assert not done.unreadable


def test_images_that_differ_only_in_their_ending_do_not_clash(tmp_path, weights):
    red, green = np.full((3, 3, 3), (255, 0, 0), np.uint8), np.full((3, 3, 3), (0, 255, 0), np.uint8)
    save(tmp_path / "in" / "a.bmp", red)
    save(tmp_path / "in" / "a.png", green)
    save(tmp_path / "in" / "other" / "a.png", green)
    run(tmp_path / "in", weights, tmp_path / "out")
    masks = tmp_path / "out" / "masks"
    assert read(masks / "a.bmp.png").max() == 1
    assert read(masks / "a.png.png").min() == 2
    assert (masks / "other" / "a.png").is_file()


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.png", "a.jpg.png", "b.png"],
        ["a.jpg", "A.png"],
        ["a", "a.png", "a.png.png"],
        ["a.jpg.png", "a.jpg.tif"],
        ["x/a.jpg", "x/a.png", "y/a.png"],
    ],
)
def test_output_names_never_clash(names):
    made = predict.output_names([predict.Path(name) for name in names])
    assert len({str(name).casefold() for name in made}) == len(names)
    assert [name.parent for name in made] == [predict.Path(name).parent for name in names]
    assert all(name.suffix == ".png" for name in made)


def test_nothing_is_overwritten_unless_asked(tmp_path, weights):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    there = tmp_path / "out" / "overlays" / "b.png"
    there.parent.mkdir(parents=True)
    there.write_text("precious")
    with pytest.raises(LabError, match=r"overlays.b\.png.*--overwrite"):
        run(tmp_path / "in", weights, tmp_path / "out")
    assert there.read_text() == "precious"
    assert not (tmp_path / "out" / "masks").exists(), "nothing is written when one file is in the way"
    run(tmp_path / "in", weights, tmp_path / "out", overwrite=True)
    assert read(there).shape == (5, 7, 3)
    done = run(tmp_path / "in", weights, tmp_path / "out", overwrite=True, overlays=False)
    assert done.stale == [there.with_name("a.png"), there]
    assert read(there).shape == (5, 7, 3)


def test_the_legend_lists_names_and_colours(tmp_path, weights):
    save(tmp_path / "a.png")
    run(tmp_path / "a.png", weights, tmp_path / "out")
    legend = json.loads((tmp_path / "out" / "classes.json").read_text(encoding="utf-8"))
    assert legend["classes"] == list(CLASSES)
    assert legend["palette_rgb"] == [list(colour) for colour in PALETTE]


def test_masks_and_legend_are_a_data_set_that_the_lab_reads(tmp_path, weights):
    out = tmp_path / "out"
    for name in "abcd":
        save(out / "images" / f"{name}.png")
    run(out / "images", weights, out)
    dataset = open_dataset(f"folder:{out}", "train")
    assert (dataset.info.classes, dataset.info.palette) == (CLASSES, PALETTE)
    np.testing.assert_array_equal(dataset[0].mask.numpy(), picture()[1])


def test_more_images_may_join_but_not_under_another_legend(tmp_path, weights, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    run(tmp_path / "a.png", weights, tmp_path / "out")
    run(tmp_path / "b.png", weights, tmp_path / "out")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2
    other = {"classes": ["x", "y", "z"], "palette": PALETTE}
    monkeypatch.setattr(predict, "load_exported", lambda *_: (ByColour(), other))
    save(tmp_path / "c.png")
    with pytest.raises(LabError, match=r"classes\.json.*--out"):
        run(tmp_path / "c.png", weights, tmp_path / "out")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2


def test_what_an_earlier_call_wrote_below_the_folder_is_no_image(tmp_path, weights):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "own" / "masks" / "b.png")
    (tmp_path / "in" / "own" / "classes.json").write_text('["of a person"]')
    first = run(tmp_path / "in", weights, tmp_path / "in" / "predictions")
    second = run(tmp_path / "in", weights, tmp_path / "second")
    names = [Path("a.png"), Path("own/masks/b.png")]
    assert [path.relative_to(first.out / "masks") for path in first.masks] == names
    assert [path.relative_to(second.out / "masks") for path in second.masks] == names
    assert second.other_files == [tmp_path / "in" / "own" / "classes.json"]
    third = run(tmp_path / "in" / "predictions" / "overlays", weights, tmp_path / "third")  # named, so meant
    assert len(third.masks) == 2


@pytest.mark.parametrize("legend", [None, {"classes": list(CLASSES), "palette_rgb": [list(one) for one in PALETTE]}])
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_prediction_gets_among_the_masks_of_a_data_set(tmp_path, weights, legend, overwrite):
    save(tmp_path / "images" / "a.png")
    truth = save(tmp_path / "masks" / "a_mask.png", picture()[1])
    if legend:
        (tmp_path / "classes.json").write_text(json.dumps(legend))
    with pytest.raises(LabError, match=r"masks: holds masks that are not from lovasz predict; choose another --out"):
        run(tmp_path / "images", weights, tmp_path, overwrite=overwrite)
    assert list(truth.parent.iterdir()) == [truth]


def test_every_name_that_can_be_written_is_written(tmp_path, weights):
    longest = "a" * 251
    save(tmp_path / "in" / f"{longest}.png")
    done = run(tmp_path / "in", weights, tmp_path / "out")
    assert [path.name for path in done.masks] == [f"{longest}.png"]
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == [f"{longest}.png"]


def test_a_name_that_is_too_long_for_its_mask_is_told_before_anything_is_written(tmp_path, weights):
    longest = "z" * 251
    save(tmp_path / "in" / "a.png")
    for ending in ("png", "jpg"):
        save(tmp_path / "in" / f"{longest}.{ending}")
    with pytest.raises(LabError, match=r"z\.jpg: its mask would have a name of more than 255 bytes.*shorter name"):
        run(tmp_path / "in", weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_put_in_place_is_named_and_not_its_partial(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match="directory") as caught:
        predict._save(Image.new("L", (1, 1)), tmp_path / "a.png")
    assert caught.value.filename == str(tmp_path / "a.png")


def test_weights_of_more_classes_than_a_mask_holds_are_refused(tmp_path, monkeypatch):
    many = {"classes": [str(number) for number in range(300)]}
    monkeypatch.setattr(predict, "load_exported", lambda *_: (ByColour(), many))
    with pytest.raises(LabError, match=r"w\.safetensors: predicts 300 classes; a mask holds at most 255"):
        run(save(tmp_path / "a.png"), tmp_path / "w.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_image_is_named_and_the_others_are_done(tmp_path, weights):
    save(tmp_path / "in" / "good.png")
    whole = save(tmp_path / "in" / "cut.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole.write_bytes(whole.read_bytes()[:400])
    (tmp_path / "in" / "text.png").write_text("no image")
    (tmp_path / "in" / "empty.png").touch()
    (tmp_path / "in" / "notes.txt").write_text("left out")
    done = run(tmp_path / "in", weights, tmp_path / "out")
    assert {path.name for path in done.unreadable} == {"cut.jpg", "text.png", "empty.png"}
    assert [path.name for path in done.masks] == ["good.png"]
    assert [path.name for path in done.other_files] == ["notes.txt"]


def test_an_image_too_large_for_the_memory_is_named_and_the_others_are_done(tmp_path, weights, monkeypatch, capsys):
    forward = ByColour.forward

    def full(self, images):
        if images.shape[-1] == 9:
            torch.empty(1 << 60)
        return forward(self, images)

    monkeypatch.setattr(ByColour, "forward", full)
    for name, width in (("a", 7), ("b", 9), ("c", 7)):
        save(tmp_path / "in" / f"{name}.png", picture(width=width)[0])
    done = run(tmp_path / "in", weights, tmp_path / "out")
    assert [path.name for path in done.masks] == ["a.png", "c.png"]
    with pytest.raises(LabError, match=r"1 image has no mask.*\n.*b\.png: too large for this memory, 9 x 5.*--size"):
        print_predictions(done)


def test_an_image_that_claims_a_monstrous_size_is_refused_before_it_is_decoded(tmp_path, weights):
    good = save(tmp_path / "in" / "good.png")
    data = bytearray(good.read_bytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2  # width and height of the PNG header
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "in" / "bomb.png").write_bytes(data)
    done = run(tmp_path / "in", weights, tmp_path / "out")
    assert {path.name for path in done.unreadable} == {"bomb.png"}


def test_an_earlier_output_inside_the_folder_is_not_taken_for_input(tmp_path, weights):
    save(tmp_path / "a.png")
    first = run(tmp_path, weights, tmp_path / "out")
    again = run(tmp_path, weights, tmp_path / "out", overwrite=True)
    assert len(first.masks) == len(again.masks) == 1


def test_hidden_files_and_loops_of_links_are_left_alone(tmp_path, weights):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / ".thumbnails" / "a.png")
    save(tmp_path / "in" / "._a.png")
    os.symlink(tmp_path / "in", tmp_path / "in" / "loop")
    assert len(run(tmp_path / "in", weights, tmp_path / "out").masks) == 1


def test_folders_behind_links_are_read(tmp_path, weights):
    save(tmp_path / "elsewhere" / "b.png")
    save(tmp_path / "in" / "a.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "more")
    done = run(tmp_path / "in", weights, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out" / "masks").as_posix() for path in done.masks] == ["a.png", "more/b.png"]


def test_a_missing_or_empty_folder_is_named(tmp_path, weights):
    with pytest.raises(LabError, match="nowhere"):
        run(tmp_path / "nowhere", weights, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="empty"):
        run(tmp_path / "empty", weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_without_colours_get_distinct_ones():
    info = predict.classes_of({"classes": [f"c{i}" for i in range(40)], "palette": None}, "w")
    assert len(set(info.palette)) == 40
    assert all(0 <= part <= 255 for colour in info.palette for part in colour)


def test_a_class_that_a_folders_masks_lack_counts_in_its_scores_as_in_predictions(tmp_path):
    """Weights of four classes; where the masks hold three, an output for the fourth is wrong and not left out."""
    root = write_folder(tmp_path / "d", {name: labels(0, 1, 2, height=16, width=24) for name in "abcd"})
    classes = [f"class {number}" for number in range(4)]
    save_weights(create_model("unet", 4), tmp_path / "w.safetensors", model_name="unet", classes=classes, palette=None)
    dataset = open_dataset(f"folder:{root}", "val")
    dataset.info = predict.with_outputs_of(tmp_path / "w.safetensors", dataset.info)
    assert dataset.info.classes == tuple(classes)
    scores = evaluate(load_weights("unet", tmp_path / "w.safetensors", dataset.info.classes), dataset)

    done = run(root / "images", tmp_path / "w.safetensors", tmp_path / "out")
    name = dataset[0].name
    predicted = next(read(path) for path in done.masks if path.stem == name)
    assert scores.pixel_accuracy == (predicted == dataset[0].mask.numpy()).mean()


@pytest.mark.parametrize(
    "info",
    [
        DatasetInfo("said", ("class 0", "class 1"), ((0, 0, 0),) * 2),
        DatasetInfo("other", ("class 1", "class 2"), ((0, 0, 0),) * 2, found=True),
        DatasetInfo("same", ("class 0", "class 1", "class 2"), ((0, 0, 0),) * 3, found=True),
    ],
    ids=lambda info: info.name,
)
def test_classes_that_were_said_or_do_not_agree_stay_those_of_the_data(tmp_path, info):
    classes = [f"class {number}" for number in range(3)]
    save_weights(create_model("unet", 3), tmp_path / "w.safetensors", model_name="unet", classes=classes, palette=None)
    assert predict.with_outputs_of(tmp_path / "w.safetensors", info) == info


def test_two_classes_that_were_found_are_the_first_two_of_three(tmp_path):
    classes = ("class 0", "class 1", "class 2")
    save_weights(create_model("unet", 3), tmp_path / "w.safetensors", model_name="unet", classes=classes, palette=None)
    info = DatasetInfo("two", ("background", "foreground"), ((0, 0, 0),) * 2, found=True)
    assert predict.with_outputs_of(tmp_path / "w.safetensors", info).classes == classes


def test_the_shared_camvid_network_predicts_its_own_image(shared, tmp_path):
    folder = shared / "data" / "camvid" / "val"
    image = sorted(folder.iterdir())[0]
    done = run(image, shared / "weights" / "enet_camvid_davidtvs.safetensors", tmp_path / "out")
    assert len(done.info.classes) == 11
    truth = read(shared / "data" / "camvid" / "valannot" / f"{image.stem}.png")
    mask = read(done.masks[0])
    valid = truth < 11
    assert (mask[valid] == truth[valid]).mean() > 0.7


def test_a_legend_that_a_person_wrote_is_never_replaced(tmp_path, weights):
    save(tmp_path / "own" / "images" / "a.png")
    legend = tmp_path / "own" / "classes.json"
    legend.write_text('{"classes": ["road", "car"], "note": "mine"}')
    for overwrite in (False, True):
        with pytest.raises(LabError, match=r"classes\.json: is not from lovasz predict, and would be lost"):
            run(tmp_path / "own" / "images", weights, tmp_path / "own", overwrite=overwrite)
    assert "mine" in legend.read_text()
    assert not (tmp_path / "own" / "masks").exists()


def test_no_mask_stays_under_a_legend_of_other_classes(tmp_path, weights, monkeypatch):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name)
    out = tmp_path / "out"
    run(tmp_path / "in", weights, out)
    other = {"classes": ["sky", "dog", "cat"], "palette": PALETTE}
    monkeypatch.setattr(predict, "load_exported", lambda *_: (ByColour(), other))
    with pytest.raises(LabError, match=r"masks.b\.png is of those; choose another --out"):
        run(tmp_path / "in" / "a.png", weights, out, overwrite=True)
    assert json.loads((out / "classes.json").read_text())["classes"] == list(CLASSES)
    run(tmp_path / "in", weights, out, overwrite=True)
    assert json.loads((out / "classes.json").read_text())["classes"] == ["sky", "dog", "cat"]


def test_what_was_written_beside_the_images_is_no_image(tmp_path, weights):
    save(tmp_path / "a.png")
    for overwrite in (False, True):
        done = run(tmp_path, weights, tmp_path, overwrite=overwrite)
        assert [path.relative_to(tmp_path).as_posix() for path in done.masks + done.overlays] == [
            "masks/a.png",
            "overlays/a.png",
        ]


def test_the_old_mask_of_an_image_that_cannot_be_read_is_told(tmp_path, weights, capsys):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name)
    out = tmp_path / "out"
    run(tmp_path / "in", weights, out)
    (tmp_path / "in" / "b.png").write_bytes(b"junk")
    done = run(tmp_path / "in", weights, out, overwrite=True)
    assert done.stale == [out / "masks" / "b.png", out / "overlays" / "b.png"]
    with pytest.raises(LabError, match="1 image has no mask"):
        print_predictions(done)
    printed = capsys.readouterr().out
    assert "1 mask and 1 overlay in" in printed
    assert "Of an earlier call, and not of this one:" in printed


def test_a_folder_that_cannot_be_read_is_named(tmp_path, weights, monkeypatch):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "shut" / "b.png")
    scandir = os.scandir

    def refuse(path):  # root may read everything, so that chmod would not do
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LabError, match=r"shut: the folder cannot be read \(Permission denied\)"):
        run(tmp_path / "in", weights, tmp_path / "out")
