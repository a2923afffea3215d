"""Figures 7 and 8: the crops lie where two networks differ most, and are for the experiment's folder alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lovasz.lab.data import open_dataset
from lovasz.lab.paper import crops
from lovasz.lab.paper.result import matplotlib_pyplot

SHAPES = "shapes?size=24&train=8&val=30"


class Constant(nn.Module):
    """One class everywhere, but another in the first columns."""

    def __init__(self, classes: int, label: int, columns: int = 0) -> None:
        super().__init__()
        self.classes, self.label, self.columns = classes, label, columns

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.zeros(len(image), self.classes, *image.shape[2:])
        logits[:, self.label] = 1
        logits[:, (self.label + 1) % self.classes, :, : self.columns] = 2
        return logits


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (24, 17)])
def test_the_window_holds_the_most_marked_pixels(shape):
    rng = np.random.default_rng(shape)
    marked = rng.random(shape) < 0.2
    pixels, window = crops.densest_window(marked)
    height, width = (max(1, round(crops.PART * side)) for side in shape)
    counts = [
        marked[top : top + height, left : left + width].sum()
        for top in range(shape[0] - height + 1)
        for left in range(shape[1] - width + 1)
    ]
    assert pixels == marked[window].sum() == max(counts)
    assert marked[window].shape == (height, width)


def test_the_images_on_which_the_networks_differ_most_come_first(tmp_path):
    data = open_dataset(SHAPES, "val")
    classes = len(data.info.classes)
    networks = {"before": Constant(classes, 2), "one": Constant(classes, 0), "other": Constant(classes, 0, 12)}
    path = tmp_path / "crops.png"
    names = crops.draw_crops(
        matplotlib_pyplot(), networks, ("one", "other"), data, path, device=torch.device("cpu"), count=3
    )
    differing = {}
    for sample in (data[i] for i in range(len(data))):
        left = sample.mask.numpy()[:, :12]  # where one says 0 and the other 1
        marked = np.zeros(sample.mask.shape, bool)
        marked[:, :12] = (left == 0) | (left == 1)
        differing[sample.name] = max(
            marked[top : top + 10, start : start + 10].sum() for top in range(15) for start in range(15)
        )
    assert [differing[name] for name in names] == sorted(differing.values(), reverse=True)[:3]
    with Image.open(path) as picture:
        assert picture.width > picture.height  # five columns, three rows


def test_networks_that_agree_give_no_picture(tmp_path):
    data = open_dataset(SHAPES, "val")
    networks = {name: Constant(len(data.info.classes), 1) for name in ("one", "other")}
    path = tmp_path / "crops.png"
    how = {"device": torch.device("cpu")}
    assert crops.draw_crops(matplotlib_pyplot(), networks, ("one", "other"), data, path, **how) == []
    assert not path.exists()
