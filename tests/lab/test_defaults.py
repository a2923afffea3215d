"""What a run is where the user says nothing: long enough to learn, and of a shape that can be trained at all."""

import numpy as np
import pytest
from PIL import Image

from lovasz.lab import defaults
from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError


def folder_of(place, sizes, orientation=None):
    """A data set with one image of each (height, width)."""
    (place / "images").mkdir(parents=True)
    (place / "masks").mkdir()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    for number, size in enumerate([*sizes, (9, 9)]):  # the last one is for validation
        mask = np.arange(size[0] * size[1]).reshape(size).astype(np.uint8) % 2
        Image.fromarray(mask * 200).save(place / "images" / f"{number}.jpg", exif=exif)
        turned = mask.T if orientation == 6 else mask
        Image.fromarray(turned).save(place / "masks" / f"{number}.png")
    (place / "train.txt").write_text("".join(f"{number}\n" for number in range(len(sizes))))
    (place / "val.txt").write_text(f"{len(sizes)}\n")
    return open_dataset(f"folder:{place}", "train")


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        ([(20, 30)] * 3, None),
        ([(512, 512)], None),
        ([(20, 30), (40, 25)], (40, 30)),
        ([(600, 800)] * 2, (512, 512)),
        ([(100, 2000), (90, 2000)], (100, 512)),
        ([(20, 40000)], (20, 512)),
    ],
)
def test_crops_only_where_images_differ_or_are_large(tmp_path, sizes, crop):
    assert defaults.default_crop(folder_of(tmp_path, sizes)) == crop


def test_images_that_are_resized_first_have_that_size(tmp_path):
    dataset = folder_of(tmp_path, [(20, 30), (40, 25)])
    assert defaults.default_crop(dataset, (24, 48)) is None
    assert defaults.default_crop(dataset, (600, 400)) is None
    assert defaults.default_crop(dataset, (600, 800)) == (512, 512)


def test_images_that_a_camera_turned_count_as_they_are_read(tmp_path):
    dataset = folder_of(tmp_path, [(600, 40)], orientation=6)
    assert dataset[0].image.shape == (3, 40, 600)
    assert defaults.default_crop(dataset) is None
    dataset = folder_of(tmp_path / "more", [(10, 700), (20, 30)], orientation=6)
    assert defaults.default_crop(dataset) == (512, 20)


def test_a_damaged_image_is_named(tmp_path):
    dataset = folder_of(tmp_path, [(20, 30)] * 2)
    (tmp_path / "images" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(LabError, match=r"1\.jpg"):
        defaults.default_crop(dataset)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("from_weights", [False, True])
def test_few_images_get_more_epochs_so_that_the_steps_suffice(tmp_path, batch_size, from_weights):
    dataset = folder_of(tmp_path, [(8, 8)] * 7)
    epochs = defaults.default_epochs(dataset, batch_size, from_weights=from_weights)
    least_steps, least_epochs = defaults.FROM_WEIGHTS if from_weights else defaults.FROM_SCRATCH
    steps = max(1, 7 // batch_size)
    assert epochs * steps >= least_steps
    assert epochs == least_epochs or (epochs - 1) * steps < least_steps


def test_a_run_from_weights_is_shorter_and_drawn_images_are_for_minutes():
    shapes = open_dataset("shapes", "train")
    scratch = defaults.default_epochs(shapes, 10, from_weights=False)
    assert 5 <= defaults.default_epochs(shapes, 10, from_weights=True) < scratch <= 10


def test_camvid_is_trained_on_whole_images_for_the_trial_length(shared):
    camvid = open_dataset(f"camvid:{shared / 'data' / 'camvid'}", "train")
    assert defaults.default_crop(camvid) is None
    assert defaults.default_epochs(camvid, 10, from_weights=True) == 5
