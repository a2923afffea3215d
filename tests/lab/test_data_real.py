"""The real data sets that the lab was made for; these tests pass over where the data are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lovasz.lab.data import IGNORE_INDEX, available_splits, open_dataset
from lovasz.lab.data.camvid import CAMVID_VOID
from lovasz.lab.data.classes_file import read_classes_file


@pytest.fixture(scope="module")
def camvid(shared: Path) -> str:
    return f"camvid:{shared / 'data' / 'camvid'}"


def test_camvid_has_its_367_101_and_233_frames(camvid: str) -> None:
    assert [len(open_dataset(camvid, split)) for split in available_splits(camvid)] == [367, 101, 233]


def test_a_camvid_frame_is_360_x_480_with_labels_of_its_11_classes(camvid: str) -> None:
    sample = open_dataset(camvid, "val")[0]
    assert sample.image.shape == (3, 360, 480)
    assert sample.mask.shape == (360, 480)
    assert set(sample.mask.unique().tolist()) <= {*range(11), IGNORE_INDEX}


def test_camvid_colours_in_the_code_are_those_beside_the_data(camvid: str, shared: Path) -> None:
    said = read_classes_file(shared / "data" / "camvid" / "classes.json")
    dataset = open_dataset(camvid, "val")
    assert said.classes == dataset.info.classes
    assert said.palette == dataset.info.palette
    assert said.void == (CAMVID_VOID,)


def test_nuclei_open_as_they_are(shared: Path) -> None:
    spec = f"folder:{shared / 'data' / 'nuclei'}"
    assert [len(open_dataset(spec, split)) for split in available_splits(spec)] == [377, 53, 108]
    dataset = open_dataset(spec, "val")
    assert dataset.info.classes == ("background", "nucleus")
    shares = [float((dataset[i].mask == 1).float().mean()) for i in range(len(dataset))]
    assert 0.08 < sum(shares) / len(shares) < 0.2


def test_voc_opens_as_it_is(shared: Path) -> None:
    spec = f"folder:{shared / 'data' / 'voc2012_mini'}"
    assert [len(open_dataset(spec, split)) for split in available_splits(spec)] == [311, 321]
    dataset = open_dataset(spec, "val")
    assert dataset.info.num_classes == 21
    seen = torch.unique(torch.cat([dataset[i].mask.unique() for i in range(40)])).tolist()
    assert IGNORE_INDEX in seen
    assert max(seen[:-1]) <= 20
