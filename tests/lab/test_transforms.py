"""What training does to images: image and mask stay together, padding is void, and all of it can be repeated."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader

from lovasz.lab.config import RunConfig
from lovasz.lab.data import IGNORE_INDEX, Augmentation, DatasetInfo, Sample, SegmentationDataset, TrainingView
from lovasz.lab.data.transforms import PADDING_COLOUR, _in_other_light, augment
from lovasz.lab.errors import LabError


class LabelInImage(SegmentationDataset):
    """Images whose red channel is ten times the mask's label, in blocks of random size."""

    info = DatasetInfo("blocks", tuple("abcdefgh"), tuple((10 * label, 0, 0) for label in range(8)))
    split = "train"

    def __init__(self, height: int = 48, width: int = 64, block: int = 8) -> None:
        rng = np.random.default_rng(0)
        small = rng.integers(0, 8, (height // block, width // block), dtype=np.uint8)
        self.mask = torch.from_numpy(small.repeat(block, 0).repeat(block, 1))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        red = self.mask.roll(index, 1) * 10
        return Sample(torch.stack([red, torch.zeros_like(red), red]), self.mask.roll(index, 1), str(index))

    def describe(self) -> str:
        return "Blocks."


def view(dataset: SegmentationDataset | None = None, seed: int = 0, **changes) -> TrainingView:
    return TrainingView(dataset or LabelInImage(), Augmentation(**changes), seed)


def is_padding(image: torch.Tensor) -> torch.Tensor:
    return (image == torch.tensor(PADDING_COLOUR, dtype=torch.uint8)[:, None, None]).all(0)


def test_items_are_uint8_images_and_int64_targets() -> None:
    image, target = view(crop=(32, 40))[0]
    assert (image.shape, image.dtype) == ((3, 32, 40), torch.uint8)
    assert (target.shape, target.dtype) == ((32, 40), torch.int64)
    assert image.is_contiguous()
    assert target.is_contiguous()


@pytest.mark.parametrize("crop", [None, (32, 40), (60, 90), (20, 100)])
def test_without_scaling_every_label_stays_under_its_pixel(crop: tuple[int, int] | None) -> None:
    training = view(crop=crop)
    for epoch in range(5):
        training.set_epoch(epoch)
        for i in range(len(training)):
            image, target = training[i]
            inside = target != IGNORE_INDEX
            assert torch.equal(image[0][inside].long(), 10 * target[inside])
            assert is_padding(image)[~inside].all()
            assert inside.sum() == min(48, target.shape[0]) * min(64, target.shape[1])


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.7, 0.7), (1.3, 1.3), (2.0, 2.0), (0.5, 2.0)])
@pytest.mark.parametrize("crop", [None, (40, 40)])
def test_scaled_labels_stay_on_the_middle_of_their_pixels(scale: tuple[float, float], crop) -> None:
    """Bilinear values beside an edge lie between two labels; away from edges they are the label's own."""
    training = view(LabelInImage(96, 128, 16), crop=crop, scale=scale)
    checked = 0
    for i in range(len(training)):
        image, target = training[i]
        difference = (image[0].float() - 10 * target.float()).abs()
        inside = target != IGNORE_INDEX
        padded = torch.nn.functional.pad(target[None].float(), (2, 2, 2, 2), mode="replicate")[0]
        windows = padded.unfold(0, 5, 1).unfold(1, 5, 1)  # (h, w, 5, 5)
        flat = inside & (windows.amax((2, 3)) == windows.amin((2, 3)))
        # Near the border the image may hold a trace of a label that is too thin to be seen, or lies outside.
        border = torch.ones_like(inside)
        border[3:-3, 3:-3] = False
        flat &= ~border
        assert difference[flat].max() == 0
        checked += int(flat.sum())
        edges = inside & ~flat & ~border & (windows.amax((2, 3)) < IGNORE_INDEX)
        lower, upper = 10 * windows.amin((2, 3)), 10 * windows.amax((2, 3))
        assert ((image[0] >= lower) & (image[0] <= upper))[edges].all()
    assert checked > 500


@pytest.mark.parametrize("factor", [0.5, 1.7, 3.0])
def test_edges_of_image_and_mask_meet_within_half_a_pixel(factor: float) -> None:
    """A step from 0 to 200: where the image crosses the middle, the label changes."""
    mask = torch.zeros(20, 40, dtype=torch.uint8)
    mask[:, 23:] = 1
    image = (mask * 200).repeat(3, 1, 1)
    fixed = Augmentation(scale=(factor, factor), flip=False)
    scaled, labels = augment(Sample(image, mask, "step"), fixed, np.random.default_rng(0))
    by_image = int((scaled[0, 5] < 100).sum())
    by_label = int((labels[5] == 0).sum())
    assert abs(by_image - by_label) <= 1
    assert abs(by_label - 23 * factor) <= 0.5 + 1e-6


def test_a_window_scaled_alone_is_the_window_of_the_whole_scaled() -> None:
    """Only the part that is shown is resampled, and yet it equals the same part of the whole, up to rounding."""
    sample = LabelInImage(96, 128, 16)[0]
    for seed in range(5):
        whole, _ = augment(sample, Augmentation(None, (1.5, 1.5), False), np.random.default_rng(seed))
        part, _ = augment(sample, Augmentation((50, 60), (1.5, 1.5), False), np.random.default_rng(seed))
        place = np.random.default_rng(seed)
        place.uniform()
        top, left = (int(p * (side - crop + 1)) for p, side, crop in zip(place.random(2), (144, 192), (50, 60)))  # noqa: B905
        there = whole[:, top : top + 50, left : left + 60]
        assert (part.int() - there.int()).abs().max() <= 1


def test_the_same_seed_epoch_and_index_repeat() -> None:
    one, other = view(crop=(30, 30), scale=(0.5, 2.0)), view(crop=(30, 30), scale=(0.5, 2.0))
    for training in (one, other):
        training.set_epoch(7)
    order = torch.randperm(6).tolist()
    there = {i: one[i] for i in order}
    for i in range(6):
        assert torch.equal(there[i][0], other[i][0])
        assert torch.equal(there[i][1], other[i][1])


@pytest.mark.parametrize("change", ["epoch", "seed", "index"])
def test_another_epoch_seed_or_index_differs(change: str) -> None:
    def item(epoch: int = 0, seed: int = 0, index: int = 0) -> torch.Tensor:
        training = view(seed=seed, crop=(30, 30))
        training.dataset.__class__ = type("Same", (LabelInImage,), {"__getitem__": lambda self, i: one})
        training.set_epoch(epoch)
        return training[index][0]

    one = LabelInImage()[0]
    first = item()
    assert any(not torch.equal(first, item(**{change: value})) for value in (1, 2, 3))


def test_global_random_state_changes_nothing_and_is_left_alone() -> None:
    training = view(crop=(30, 30), scale=(0.5, 2.0))
    first = training[0]
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    again = training[0]
    assert torch.equal(first[0], again[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_half_of_the_images_are_mirrored() -> None:
    training, dataset, mirrored = view(), LabelInImage(), 0
    for epoch in range(50):
        training.set_epoch(epoch)
        for i in range(6):
            target = training[i][1]
            same, flipped = dataset[i].mask.long(), dataset[i].mask.long().flip(1)
            assert torch.equal(target, same) or torch.equal(target, flipped)
            mirrored += torch.equal(target, flipped)
    assert 110 < mirrored < 190


def test_without_anything_to_do_samples_pass_unchanged() -> None:
    dataset = LabelInImage()
    image, target = TrainingView(dataset, Augmentation(flip=False), 0)[2]
    assert torch.equal(image, dataset[2].image)
    assert torch.equal(target, dataset[2].mask.long())


def test_crops_reach_every_corner() -> None:
    dataset, places = LabelInImage(), set()
    coordinates = torch.arange(48)[:, None] * 0 + torch.arange(64)
    for seed in range(300):
        fixed = Augmentation((47, 60), flip=False)
        sample = Sample(coordinates.to(torch.uint8).repeat(3, 1, 1), dataset.mask, "x")
        image, _ = augment(sample, fixed, np.random.default_rng(seed))
        places.add(int(image[0, 0, 0]))
    assert places == {0, 1, 2, 3, 4}


def test_padding_puts_the_image_at_every_place() -> None:
    sample, tops = LabelInImage()[0], set()
    for seed in range(200):
        _, mask = augment(sample, Augmentation((52, 64)), np.random.default_rng(seed))
        tops.add(int((mask[:, 0] != IGNORE_INDEX).nonzero()[0]))
    assert tops == {0, 1, 2, 3, 4}


def test_void_of_the_data_stays_void_through_scaling() -> None:
    sample = LabelInImage()[0]
    sample.mask[:, :32] = IGNORE_INDEX
    _, mask = augment(sample, Augmentation(scale=(0.6, 0.6), flip=False), np.random.default_rng(0))
    assert set(mask.unique().tolist()) <= {*range(8), IGNORE_INDEX}
    assert (mask == IGNORE_INDEX).float().mean() == pytest.approx(0.5, abs=0.03)


def test_a_tiny_scale_leaves_at_least_one_pixel() -> None:
    image, target = view(scale=(0.001, 0.001))[0]
    assert image.shape == (3, 1, 1)
    assert target.shape == (1, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_that_outlive_an_epoch_hear_of_the_next(workers: int) -> None:
    training = view(crop=(30, 30))
    loader = DataLoader(training, batch_size=6, num_workers=workers, persistent_workers=workers > 0)
    for epoch in range(3):
        training.set_epoch(epoch)
        images, targets = next(iter(loader))
        expected = [view_of_epoch(epoch)[i] for i in range(6)]
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert torch.equal(targets, torch.stack([target for _, target in expected]))


def view_of_epoch(epoch: int) -> TrainingView:
    training = view(crop=(30, 30))
    training.set_epoch(epoch)
    return training


def test_a_view_can_be_copied_to_another_process() -> None:
    training = view_of_epoch(3)
    copy = pickle.loads(pickle.dumps(training))  # noqa: S301 - made here
    assert torch.equal(copy[1][0], training[1][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": (0, 5)}, r"crop: got \(0, 5\)"),
        ({"crop": (5,)}, "crop: got"),
        ({"scale": (0, 1)}, r"scale: got \(0, 1\)"),
        ({"scale": (2, 1)}, "scale: got"),
        ({"scale": (1, float("inf"))}, "scale: got"),
        ({"scale": (1, float("nan"))}, "scale: got"),
    ],
)
def test_wrong_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        Augmentation(**wrong)
    with pytest.raises(LabError, match="seed: got -1"):
        view(seed=-1)


def test_other_light_leaves_labels_and_geometry_alone_and_is_off_unless_asked_for() -> None:
    plain, lit = view(crop=(32, 40), scale=(0.5, 2.0)), view(crop=(32, 40), scale=(0.5, 2.0), color_jitter=0.5)
    changed = 0
    for i in range(len(plain)):
        (image, target), (other, same) = plain[i], lit[i]
        assert torch.equal(target, same)
        assert other.dtype == torch.uint8
        changed += not torch.equal(image, other)
    assert changed >= len(plain) - 1


def test_other_light_is_what_pillow_makes_of_the_same_factors() -> None:
    image = torch.randint(0, 120, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for brightness, contrast, saturation in ((1.7, 1, 1), (1, 0.6, 1), (1, 1, 1.8), (0.4, 1, 1), (1, 1, 0)):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = ImageEnhance.Brightness(expected).enhance(brightness)
        expected = ImageEnhance.Contrast(expected).enhance(contrast)
        expected = ImageEnhance.Color(expected).enhance(saturation)
        found = _in_other_light(image, brightness, contrast, saturation)
        off = (found.int() - torch.from_numpy(np.array(expected)).permute(2, 0, 1).int()).abs()
        assert off.max() <= 2  # Pillow rounds greys and its mean to whole numbers


def test_the_factors_of_other_light_fill_their_range() -> None:
    grey = Sample(torch.full((3, 4, 4), 100, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8), "grey")
    jitter = Augmentation(color_jitter=0.5)
    levels = [augment(grey, jitter, np.random.default_rng(seed))[0].unique().tolist() for seed in range(300)]
    assert all(len(level) == 1 for level in levels)  # a grey image has no contrast and no saturation to change
    values = np.array(levels)
    assert 50 <= values.min() < 55
    assert 145 < values.max() <= 150
    assert 95 < values.mean() < 105


@pytest.mark.parametrize("jitter", [-0.1, 1.5, float("nan")])
def test_an_impossible_jitter_is_refused(jitter: float) -> None:
    with pytest.raises(LabError, match="color_jitter"):
        Augmentation(color_jitter=jitter)
    with pytest.raises(LabError, match="color_jitter"):
        RunConfig(data="shapes", color_jitter=jitter)
