"""The procedural data: repeatable, split without overlap, and hard in the way real data are."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lovasz.lab.data import SegmentationDataset, available_splits, open_dataset
from lovasz.lab.data.shapes import COUNTS, SHAPES, SHAPES_INFO, draw_scene
from lovasz.lab.errors import LabError


def masks(dataset: SegmentationDataset) -> torch.Tensor:
    return torch.stack([dataset[i].mask for i in range(len(dataset))])


@pytest.fixture(scope="module")
def train() -> SegmentationDataset:
    return open_dataset("shapes?train=200", "train")


def test_samples_are_uint8_images_with_masks_of_known_classes(train: SegmentationDataset) -> None:
    sample = train[3]
    assert (sample.image.shape, sample.image.dtype) == ((3, 64, 64), torch.uint8)
    assert (sample.mask.shape, sample.mask.dtype) == ((64, 64), torch.uint8)
    assert int(sample.mask.max()) < train.info.num_classes == len(train.info.palette)
    assert len({train[i].name for i in range(20)}) == 20


def test_the_same_index_gives_the_same_picture_in_any_order() -> None:
    forwards, backwards = open_dataset("shapes", "val"), open_dataset("shapes", "val")
    first = [forwards[i] for i in (0, 5, 9)]
    second = [backwards[i] for i in (9, 5, 0)][::-1]
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.mask, other.mask)


def test_the_number_of_pictures_changes_none_of_them() -> None:
    few, many = open_dataset("shapes?train=5", "train"), open_dataset("shapes?train=50", "train")
    assert torch.equal(few[4].image, many[4].image)


def test_no_two_pictures_of_any_split_are_alike() -> None:
    pictures = {
        open_dataset("shapes?train=40&val=40&test=40", split)[i].image.numpy().tobytes()
        for split in ("train", "val", "test")
        for i in range(40)
    }
    assert len(pictures) == 120


def test_another_seed_gives_other_pictures() -> None:
    assert not torch.equal(open_dataset("shapes", "val")[0].image, open_dataset("shapes", "val", seed=1)[0].image)


def test_changing_a_sample_changes_no_later_one() -> None:
    dataset = open_dataset("shapes", "val")
    dataset[0].image.zero_()
    assert dataset[0].image.float().mean() > 10


def test_classes_are_imbalanced_and_all_present(train: SegmentationDataset) -> None:
    pixels = torch.bincount(masks(train).flatten().long(), minlength=train.info.num_classes)
    assert pixels.min() > 0
    assert 0.65 < pixels[0] / pixels.sum() < 0.85  # a net that says background everywhere is right here
    assert pixels[1:].max() > 20 * pixels[1:].min()


def test_rare_classes_are_in_few_pictures_and_common_ones_in_most(train: SegmentationDataset) -> None:
    there = [(masks(train) == label).flatten(1).any(1).float().mean().item() for label in range(10)]
    share = dict(zip(train.info.classes, there, strict=True))
    assert share["disc"] > 0.6
    assert share["crescent"] < 0.3
    assert share["crescent"] > 0.05


def test_a_colour_is_a_hint_and_no_answer(train: SegmentationDataset) -> None:
    """The nearest mean colour of a class is right more often than chance, yet wrong for many pixels."""
    pixels = torch.stack([train[i].image for i in range(100)]).permute(0, 2, 3, 1).reshape(-1, 3).float()
    truth = masks(train)[:100].flatten()
    keep = truth > 0
    pixels, truth = pixels[keep], truth[keep].long()
    means = torch.stack([pixels[truth == label].mean(0) for label in range(1, 10)])
    right = torch.cdist(pixels, means).argmin(1) + 1 == truth
    balanced = torch.stack([right[truth == label].float().mean() for label in range(1, 10)]).mean()
    assert 1 / 9 + 0.05 < balanced < 0.7


def test_shapes_are_as_large_as_their_radius_says() -> None:
    """The outline of each class against its area, known from geometry where it has a formula."""
    y, x = np.mgrid[-40:41, -40:41].astype(np.float32)
    area = {shape.name: int((shape.outline(x, y, 30.0, 6.0) <= 0).sum()) for shape in SHAPES}
    assert area["disc"] == pytest.approx(np.pi * 30**2, rel=0.02)
    assert area["dot"] == area["disc"]
    assert area["square"] == pytest.approx(60**2, rel=0.04)
    assert area["triangle"] == pytest.approx(3 * 3**0.5 / 4 * 30**2, rel=0.04)
    assert area["ring"] == pytest.approx(2 * np.pi * 30 * 6, rel=0.04)
    assert area["bar"] == pytest.approx(60 * 6 + np.pi * 3**2, rel=0.2)
    assert area["cross"] == pytest.approx(2 * 60 * 6 - 6**2, rel=0.2)
    assert area["star"] == pytest.approx(5 * 30 * 13.5 * np.sin(np.pi / 5), rel=0.04)
    assert 0 < area["crescent"] < 0.6 * area["disc"]


def test_pictures_of_another_size_hold_the_same_share_of_objects() -> None:
    def share(size: int) -> float:
        return float(np.mean([(draw_scene(np.random.default_rng(i), size)[1] > 0).mean() for i in range(60)]))

    assert share(128) == pytest.approx(share(64), rel=0.25)
    assert open_dataset("shapes?size=40", "val")[0].mask.shape == (40, 40)


def test_worker_processes_draw_the_same_pictures() -> None:
    dataset = open_dataset("shapes?val=8", "val")
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for i, sample in enumerate(loader):
        assert torch.equal(sample.image, dataset[i].image)


def test_a_copy_for_another_process_is_small_and_equal() -> None:
    dataset = open_dataset("shapes", "val")
    first = dataset[0]
    packed = pickle.dumps(dataset)
    assert len(packed) < 5_000
    assert torch.equal(pickle.loads(packed)[0].image, first.image)  # noqa: S301 - made here


def test_splits_and_counts_follow_the_options() -> None:
    assert available_splits("shapes") == ("train", "val", "test")
    assert available_splits("shapes?test=0") == ("train", "val")
    assert len(open_dataset("shapes", "train")) == COUNTS["train"]
    assert len(open_dataset("shapes", "test", test=7)) == 7
    with pytest.raises(LabError, match="no split 'test'"):
        open_dataset("shapes?test=0", "test")


def test_the_description_tells_what_the_pictures_are() -> None:
    text = open_dataset("shapes?train=20&size=80", "train", seed=4).describe()
    for part in ("10 classes", "crescent", "no void", "20 train", "100 val", "80 x 80", "seed 4"):
        assert part in text


def test_an_index_beyond_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        open_dataset("shapes", "val")[100]


def test_class_colours_differ_enough_to_be_told_apart() -> None:
    colours = np.array(SHAPES_INFO.palette, int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(len(colours), dtype=int)
    assert distance.min() > 60
