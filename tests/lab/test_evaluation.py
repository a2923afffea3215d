"""Evaluation at full resolution agrees with a plain count over pixels, whatever the sizes of the images."""

import json

import numpy as np
import pytest
import torch
from tests.lab.tiny import INFO, TinyDataset
from torch import nn

from lovasz.lab.data import DatasetInfo
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.predict import predict_labels


class ByColour(nn.Module):
    """Takes the class whose colour's channel is the strongest; wrong here and there, and different in training."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.outputs = outputs
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.min() >= 0
        assert images.max() <= 1
        self.sizes.append(tuple(images.shape))
        red, _, blue = images.unbind(1)
        logits = torch.stack([torch.full_like(red, 0.6), red, blue], 1)
        return (-logits if self.training else logits)[:, : self.outputs]


def ious(counts: np.ndarray) -> np.ndarray:
    hit = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


@pytest.mark.parametrize("varying", [False, True])
def test_scores_are_those_of_a_plain_count(varying: bool) -> None:
    dataset = TinyDataset("val", size=23, varying=varying)
    model = ByColour().train()
    scores = evaluate(model, dataset)

    total, by_image, each = np.zeros((3, 3), np.int64), {}, []
    for sample in (dataset[i] for i in range(len(dataset))):
        red, _, blue = sample.image.numpy().astype(np.float32) / 255
        predicted = np.argmax(np.stack([np.full_like(red, 0.6), red, blue]), 0)
        counts = np.zeros((3, 3), np.int64)
        valid = sample.mask.numpy() != 255
        np.add.at(counts, (sample.mask.numpy()[valid], predicted[valid]), 1)
        total += counts
        each.append(counts)
        by_image[sample.name] = np.nanmean(ious(counts))
    assert 0.2 < scores.dataset_miou < 0.95
    assert scores.dataset_miou == pytest.approx(np.nanmean(ious(total)), abs=1e-9)
    assert list(scores.per_class_iou.values()) == pytest.approx(list(ious(total)), abs=1e-9)
    assert scores.image_miou == pytest.approx(np.mean(list(by_image.values())), abs=1e-9)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0)).numpy()  # batches of ten, ten and three
    batches = [sum(each[i] for i in some) for some in (order[:10], order[10:20], order[20:])]
    assert scores.batch_miou == pytest.approx(np.mean([np.nanmean(ious(one)) for one in batches]), abs=1e-9)
    assert scores.images == pytest.approx(by_image, abs=1e-9)
    assert scores.pixel_accuracy == pytest.approx(np.trace(total) / total.sum(), abs=1e-9)
    assert model.training


def test_answers_beside_the_classes_are_wrong_and_have_no_score_of_their_own() -> None:
    class NoDots(TinyDataset):
        def __init__(self, split: str, **options) -> None:
            super().__init__(split, **options)
            self.info = DatasetInfo("two", INFO.classes[:2], INFO.palette[:2])

        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            sample.mask[sample.mask == 2] = 0
            return sample

    dataset = NoDots("val", size=5)
    scores = evaluate(ByColour(), dataset, others=1)
    total, by_image = np.zeros((3, 3), np.int64), []
    for sample in (dataset[i] for i in range(len(dataset))):
        predicted = predict_labels(ByColour().eval(), sample.image[None], "cpu", 3)[0].numpy()
        counts, valid = np.zeros((3, 3), np.int64), sample.mask.numpy() != 255
        np.add.at(counts, (sample.mask.numpy()[valid], predicted[valid]), 1)
        total += counts
        by_image.append(np.nanmean(ious(counts)[:2]))
    assert total[0, 2] > 0  # else this shows nothing
    assert scores.per_class_iou == pytest.approx(dict(zip(INFO.classes, ious(total)[:2], strict=False)), abs=1e-9)
    assert scores.dataset_miou == pytest.approx(ious(total)[:2].mean(), abs=1e-9)
    assert list(scores.images.values()) == pytest.approx(by_image, abs=1e-9)
    assert scores.image_miou == pytest.approx(np.mean(by_image), abs=1e-9)
    assert scores.batch_miou == pytest.approx(scores.dataset_miou, abs=1e-9)  # one batch
    assert scores.pixel_accuracy == pytest.approx(np.trace(total) / total.sum(), abs=1e-9)


def test_each_image_is_seen_at_its_own_size() -> None:
    model = ByColour()
    evaluate(model, TinyDataset("val", size=4, varying=True))
    assert [size[2:] for size in model.sizes] == [(32, 32), (32, 40)] * 2


def test_a_class_that_is_nowhere_has_no_iou_and_the_json_says_null() -> None:
    class NoDots(TinyDataset):
        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            sample.mask[sample.mask == 2] = 0
            sample.image[2] = 0
            return sample

    scores = evaluate(ByColour(), NoDots("val"))
    assert json.loads(json.dumps(scores.to_json(), allow_nan=False))["per_class_iou"]["dot"] is None
    assert scores.dataset_miou == pytest.approx(
        np.mean([scores.per_class_iou["ground"], scores.per_class_iou["square"]])
    )


def test_an_image_that_is_all_void_has_no_score_and_a_set_of_them_is_refused() -> None:
    class Void(TinyDataset):
        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            if index in (0, self.size):
                sample.mask[:] = 255
            return sample

    assert evaluate(ByColour(), Void("val")).images["val_0"] is None
    with pytest.raises(LabError, match="every pixel is void"):
        evaluate(ByColour(), Void("val", size=1))


def test_an_empty_set_and_a_network_for_other_classes_are_refused() -> None:
    empty = TinyDataset("val")
    empty.size = 0
    with pytest.raises(LabError, match="no images"):
        evaluate(ByColour(), empty)
    with pytest.raises(LabError, match="gives 2 classes, the data set has 3"):
        evaluate(ByColour(2), TinyDataset("val"))


def test_predicted_labels_are_class_numbers_at_the_size_of_the_image() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    labels = predict_labels(ByColour().eval(), images, "cpu", len(INFO.classes))
    assert labels.shape == (2, 5, 7)
    assert set(labels.unique().tolist()) <= {0, 1, 2}


def test_the_published_camvid_network_has_its_measured_scores(shared) -> None:
    """53.31 % on the whole test split stands beside the weights; a tenth shows a wrong class order or scale."""
    from lovasz.lab.data import open_dataset
    from lovasz.lab.models import load_weights

    weights = shared / "weights" / "enet_camvid_davidtvs.safetensors"
    test = open_dataset(f"camvid:{shared / 'data' / 'camvid'}", "test")
    model = load_weights("enet", weights, test.info.classes)
    part = torch.utils.data.Subset(test, range(0, len(test), 10))
    part.info, part.split = test.info, test.split  # type: ignore[attr-defined]
    scores = evaluate(model, part)  # type: ignore[arg-type]
    assert 0.45 < scores.dataset_miou < 0.62
    assert scores.per_class_iou["Road"] > 0.85
