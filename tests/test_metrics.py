"""DatasetIoU and ImageIoU against sets of pixels in plain Python, in one process and in two."""

import math
import os
import socket
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchmetrics")

import torchmetrics
from torchmetrics.segmentation import MeanIoU

from lovasz.metrics import DatasetIoU, ImageIoU, confusion_counts


def oracle_iou(preds: list[int], target: list[int], label: int, ignore_index: int | None) -> Fraction | None:
    """Eq. 3 with sets of pixel positions; None where the union is empty."""
    valid = {i for i, t in enumerate(target) if t != ignore_index}
    truth = {i for i in valid if target[i] == label}
    found = {i for i in valid if preds[i] == label}
    return Fraction(len(truth & found), len(truth | found)) if truth | found else None


def oracle_dataset(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int | None) -> list[Fraction | None]:
    flat = preds.flatten().tolist(), target.flatten().tolist()
    return [oracle_iou(*flat, label, ignore_index) for label in range(num_classes) if label != ignore_index]


def oracle_mean(values: list[Fraction | None], absent: str) -> Fraction | None:
    known = [v if v is not None else Fraction(1) for v in values if v is not None or absent == "one"]
    return sum(known, Fraction(0)) / len(known) if known else None


def oracle_images(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int | None, absent: str) -> float:
    scores = []
    for one_pred, one_target in zip(preds, target, strict=True):
        if all(t == ignore_index for t in one_target.flatten().tolist()):
            continue
        mean = oracle_mean(oracle_dataset(one_pred, one_target, num_classes, ignore_index), absent)
        if mean is not None:
            scores.append(mean)
    return float(sum(scores) / len(scores))


def draw(
    images: int, num_classes: int, void: int | None, seed: int, size: tuple[int, int] = (7, 9)
) -> tuple[Tensor, Tensor]:
    """Labels and predictions that agree on about half of the pixels; the highest class is in neither."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, *size)
    target = torch.randint(0, num_classes - 1, shape, generator=generator)
    preds = torch.randint(0, num_classes - 1, shape, generator=generator)
    preds = torch.where(torch.rand(shape, generator=generator) < 0.5, target, preds)
    if void is not None:
        target[torch.rand(shape, generator=generator) < 0.2] = void
    return preds, target


CASES = [(3, None), (3, 255), (5, -1), (4, -100), (6, 2), (19, 255)]


@pytest.mark.parametrize(("num_classes", "void"), CASES)
@pytest.mark.parametrize("absent", ["exclude", "one"])
def test_dataset_iou_is_that_of_sets_of_pixels(num_classes, void, absent):
    metric = DatasetIoU(num_classes, ignore_index=void, absent=absent)
    batches = [draw(3, num_classes, void, seed) for seed in range(4)]
    for preds, target in batches:
        metric.update(preds, target)
    preds, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = oracle_dataset(preds, target, num_classes, void)
    got = [v for label, v in enumerate(metric.per_class().tolist()) if label != void]
    for value, exact in zip(got, expected, strict=True):
        if exact is None:
            assert value == 1 if absent == "one" else math.isnan(value)
        else:
            assert value == float(exact)
    assert metric.compute().item() == pytest.approx(float(oracle_mean(expected, absent)), rel=1e-14)
    valid = target != void if void is not None else torch.ones_like(target, dtype=torch.bool)
    assert metric.pixel_accuracy().item() == (preds == target)[valid].sum().item() / valid.sum().item()
    assert metric.confusion.dtype == torch.int64
    assert metric.confusion.sum() == valid.sum()


@pytest.mark.parametrize(("num_classes", "void"), CASES)
@pytest.mark.parametrize("absent", ["exclude", "one"])
def test_image_iou_is_the_mean_over_images_of_sets_of_pixels(num_classes, void, absent):
    metric = ImageIoU(num_classes, ignore_index=void, absent=absent)
    batches = [draw(3, num_classes, void, seed, size=(2, 3)) for seed in range(4)]
    if void is not None:
        batches[1][1][2] = void  # an image that is all void is left out
    for preds, target in batches:
        metric.update(preds, target)
    preds, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert metric.compute().item() == pytest.approx(oracle_images(preds, target, num_classes, void, absent), abs=1e-11)
    for label in range(num_classes):
        scores = [
            oracle_iou(p.flatten().tolist(), t.flatten().tolist(), label, void)
            for p, t in zip(preds, target, strict=True)
            if not (t == void if void is not None else t != t).all()
        ]
        mean = None if label == void else oracle_mean(scores, absent)
        got = metric.per_class()[label].item()
        assert math.isnan(got) if mean is None else got == pytest.approx(float(mean), abs=1e-11)


def test_rows_of_the_confusion_are_the_truth():
    counts = confusion_counts(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1]), 2)
    assert counts.tolist() == [[0, 1], [1, 1]]
    counts = confusion_counts(torch.tensor([1, 1, 2]), torch.tensor([0, 0, 1]), 3)
    assert counts.tolist() == [[0, 2, 0], [0, 0, 1], [0, 0, 0]]


def test_counts_of_single_images_add_up_also_where_many_classes_split_the_work():
    num_classes = 1500  # 2.25 million cells: one image at a time
    preds, target = draw(3, num_classes, 255, seed=1)
    per_image = confusion_counts(preds, target, num_classes, ignore_index=255, per_image=True)
    assert per_image.shape == (3, num_classes, num_classes)
    for i in range(3):
        assert torch.equal(per_image[i], confusion_counts(preds[i], target[i], num_classes, ignore_index=255))
    assert torch.equal(per_image.sum(0), confusion_counts(preds, target, num_classes, ignore_index=255))


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"num_classes": 3.0}, ValueError, "num_classes must be an integer of at least 2, got 3.0"),
        ({"num_classes": 0}, ValueError, "num_classes must be an integer of at least 2, got 0"),
        ({"num_classes": 2, "threshold": math.nan}, ValueError, "threshold must be a finite number"),
        ({"num_classes": 2, "threshold": "a"}, ValueError, "threshold must be a finite number .* got 'a'"),
        ({"num_classes": 3, "threshold": 0.5}, ValueError, "threshold=0.5 is for scores of a single foreground"),
        ({"num_classes": 2, "ignore_index": 2.0}, TypeError, "ignore_index must be an integer or None, got 2.0"),
        ({"num_classes": 2, "ignore_index": True}, TypeError, "ignore_index must be an integer or None, got True"),
    ],
)
def test_counts_are_asked_for_as_the_metrics_are(settings, kind, message):
    with pytest.raises(kind, match=message):
        confusion_counts(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long), **settings)


def test_a_class_predicted_but_never_true_is_not_absent():
    for absent, expected in (("exclude", [0.5, 0.0, math.nan]), ("one", [0.5, 0.0, 1.0])):
        metric = DatasetIoU(3, absent=absent)
        metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
        assert metric.per_class().tolist() == pytest.approx(expected, nan_ok=True)
        assert metric.compute() == torch.tensor(expected).nanmean()


def test_the_mean_over_the_data_set_and_over_images_are_two_different_things():
    target = torch.zeros(2, 10, 10, dtype=torch.long)
    target[0, :5] = 1
    target[1, 0, 0] = 1
    preds = target.clone()
    preds[1, 0, 0] = 0  # a one-pixel object is missed
    dataset, image = DatasetIoU(2, classes=[1]), ImageIoU(2, classes=[1])
    assert dataset(preds, target).item() == pytest.approx(50 / 51)
    assert image(preds, target).item() == pytest.approx(0.5)


@pytest.mark.parametrize("metric_class", [DatasetIoU, ImageIoU])
def test_scores_of_classes_predict_the_largest(metric_class):
    logits = torch.randn(2, 4, 5, 6)
    target = torch.randint(0, 4, (2, 5, 6))
    expected = metric_class(4)(logits.argmax(1), target)
    for preds in (logits, logits.softmax(1), logits.double(), logits.half(), logits.transpose(2, 3).transpose(2, 3)):
        labels = preds.argmax(1)
        assert metric_class(4)(preds, target) == metric_class(4)(labels, target)
    assert metric_class(4)(logits.clone().requires_grad_(), target) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_every_integer_dtype_gives_the_same(dtype):
    preds, target = draw(2, 3, None, seed=3)
    assert DatasetIoU(2)(preds.to(dtype), target.to(dtype)) == DatasetIoU(2)(preds, target)


def test_a_void_label_of_uint8_masks_is_left_out():
    target = torch.tensor([[[0, 1, 255, 255]]], dtype=torch.uint8)
    preds = torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8)  # at void pixels a prediction may be anything
    assert DatasetIoU(2, ignore_index=255)(preds, target) == 1
    assert ImageIoU(2, ignore_index=255)(preds, target) == 1


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 4, 4)])
def test_foreground_scores_are_cut_at_the_threshold(shape):
    logits = torch.randn(shape)
    target = torch.randint(0, 2, (2, 4, 4))
    expected = DatasetIoU(2, classes=[1])((logits > 0).long().view(2, 4, 4), target)
    assert DatasetIoU(2, classes=[1], threshold=0.0)(logits, target) == expected
    assert DatasetIoU(2, classes=[1], threshold=0.5)(logits.sigmoid(), target) == expected


def test_classes_choose_what_is_reported():
    preds, target = draw(2, 4, None, seed=5)
    every = DatasetIoU(4)
    every.update(preds, target)
    some = DatasetIoU(4, classes=[2, 0])
    some.update(preds, target)
    assert some.per_class().isnan().tolist() == [False, True, False, True]
    assert some.compute() == every.per_class()[[0, 2]].mean()
    assert some.pixel_accuracy() == every.pixel_accuracy()


def test_images_without_any_chosen_class_are_left_out_unless_absent_counts_as_one():
    target = torch.tensor([[[0, 0]], [[0, 1]]])
    preds = torch.tensor([[[0, 0]], [[1, 1]]])
    assert ImageIoU(2, classes=[1])(preds, target) == 0.5
    assert ImageIoU(2, classes=[1], absent="one")(preds, target) == 0.75


def test_the_result_does_not_depend_on_batches_or_order():
    preds, target = draw(40, 7, 255, seed=11)
    whole = ImageIoU(7, ignore_index=255)
    whole.update(preds, target)
    for size in (1, 3, 40):
        order = torch.randperm(40)
        parts = ImageIoU(7, ignore_index=255)
        for chunk in order.split(size):
            parts.update(preds[chunk], target[chunk])
        assert parts.compute().item() == whole.compute().item()  # to the last bit
        assert torch.equal(parts.per_class().nan_to_num(-1), whole.per_class().nan_to_num(-1))


def test_perfect_predictions_score_exactly_one():
    _, target = draw(7, 5, None, seed=2)
    for metric in (DatasetIoU(5), ImageIoU(5), DatasetIoU(5, absent="one"), ImageIoU(5, absent="one")):
        metric.update(target, target)
        assert metric.compute().item() == 1.0


def test_forward_gives_the_value_of_its_batch_and_adds_it():
    first, second = draw(2, 4, 255, seed=0), draw(2, 4, 255, seed=1)
    for metric_class in (DatasetIoU, ImageIoU):
        metric, alone, both = (metric_class(4, ignore_index=255) for _ in range(3))
        metric(*first)
        alone.update(*second)
        assert metric(*second) == alone.compute()
        both.update(*first)
        both.update(*second)
        assert metric.compute() == both.compute()
        metric.reset()
        metric.update(*second)
        assert metric.compute() == alone.compute()


def test_an_all_void_batch_in_training_is_nan_and_loses_nothing():
    void = torch.full((1, 2, 2), 255)
    preds, target = draw(2, 4, 255, seed=0)
    for metric_class in (DatasetIoU, ImageIoU):
        metric = metric_class(4, ignore_index=255)
        before = metric(preds, target)
        assert metric(torch.zeros_like(void), void).isnan()
        assert metric.compute() == before


@pytest.mark.parametrize("metric_class", [DatasetIoU, ImageIoU])
def test_no_valid_pixel_at_all_is_an_error(metric_class):
    metric = metric_class(4, ignore_index=255)
    metric.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255))
    with pytest.raises(ValueError, match=r"no valid pixel.*ignore_index=255"):
        metric.compute()
    with pytest.raises(ValueError, match=r"no valid pixel.*ignore_index=255"):
        metric.per_class()  # with absent="one" each class would seem perfect


@pytest.mark.parametrize("metric_class", [DatasetIoU, ImageIoU])
def test_classes_that_no_image_shows_have_no_score(metric_class):
    metric = metric_class(3, classes=[2])
    metric.update(torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.long))
    assert metric.compute().isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_counts_stay_integers_whatever_dtype_is_set(dtype):
    preds, target = draw(40, 4, 255, seed=0)
    for metric_class in (DatasetIoU, ImageIoU):
        metric, other = metric_class(4, ignore_index=255), metric_class(4, ignore_index=255).set_dtype(dtype)
        for one in (metric, other):
            one.update(preds, target)
        assert other.compute() == metric.compute()
        torch.testing.assert_close(other.per_class(), metric.per_class(), rtol=0, atol=0, equal_nan=True)


def test_scores_of_void_pixels_may_be_nan():
    target = torch.tensor([[[0, 1], [255, 1]]])
    scores = torch.tensor([[[[3.0, 0], [0, 0]], [[0, 3], [0, 3]]]])
    for preds, options in ((scores, {}), (scores[:, 1], {"threshold": 0.0})):
        preds = preds.clone()
        preds[..., 1, 0] = torch.nan
        for metric_class in (DatasetIoU, ImageIoU):
            metric = metric_class(2, ignore_index=255, **options)
            metric.update(preds, target)
            assert metric.compute() == 1
            with pytest.raises(ValueError, match="NaN"):
                metric.update(torch.full_like(preds, torch.nan), target)


def test_the_states_survive_copies_and_state_dicts(tmp_path):
    preds, target = draw(3, 4, 255, seed=0)
    for metric_class in (DatasetIoU, ImageIoU):
        metric = metric_class(4, ignore_index=255)
        metric.persistent(True)
        metric.update(preds, target)
        torch.save(metric.state_dict(), tmp_path / "metric.pt")
        other = metric_class(4, ignore_index=255)
        other.persistent(True)
        other.load_state_dict(torch.load(tmp_path / "metric.pt", weights_only=True))
        assert other.per_class().tolist() == pytest.approx(metric.per_class().tolist(), nan_ok=True, abs=0)
        assert metric.clone().half().compute() == metric.compute()  # counts are no floats: nothing is rounded


def test_a_collection_and_a_module_can_hold_them():
    preds, target = draw(3, 4, None, seed=0)
    collection = torchmetrics.MetricCollection({"dataset": DatasetIoU(4), "image": ImageIoU(4)})
    collection.update(preds, target)
    alone = DatasetIoU(4)
    alone.update(preds, target)
    assert collection.compute()["dataset"] == alone.compute()
    assert isinstance(nn.ModuleDict({"iou": alone})["iou"], DatasetIoU)


@pytest.mark.parametrize("ignore_index", [None, 255, -1])
def test_equals_torchmetrics_jaccard_where_the_meaning_is_the_same(ignore_index):
    preds, target = draw(3, 5, ignore_index, seed=4)
    ours = DatasetIoU(5, ignore_index=ignore_index)
    ours.update(preds, target)
    theirs = torchmetrics.JaccardIndex(task="multiclass", num_classes=5, average="macro", ignore_index=ignore_index)
    assert ours.compute().item() == pytest.approx(theirs(preds, target).item(), rel=1e-6)
    theirs = torchmetrics.JaccardIndex(task="multiclass", num_classes=5, average="none", ignore_index=ignore_index)
    assert ours.per_class().nan_to_num(0).tolist() == pytest.approx(theirs(preds, target).tolist(), rel=1e-6)


def test_torchmetrics_mean_iou_per_class_is_a_mean_over_images():
    preds, target = draw(6, 4, None, seed=4, size=(2, 2))
    ours = ImageIoU(4)
    ours.update(preds, target)
    theirs = MeanIoU(num_classes=4, per_class=True, input_format="index")
    assert ours.per_class().nan_to_num(-1).tolist() == pytest.approx(theirs(preds, target).tolist(), rel=1e-6)


# ------------------------------------------------------------------ two processes

WORKER = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lovasz.metrics import DatasetIoU, ImageIoU

def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    data = torch.load(f"{folder}/data.pt", weights_only=True)
    result = {}
    for metric_class in (DatasetIoU, ImageIoU):
        metric = metric_class(6, ignore_index=255)
        # Unequal shares, and batches of unequal size.
        share = slice(0, 3) if rank == 0 else slice(3, None)
        for preds, target in zip(data["preds"][share].split(2), data["target"][share].split(2)):
            metric.update(preds, target)
        name = metric_class.__name__
        result[name] = metric.compute()
        result[name + ".per_class"] = metric.per_class()
        if metric_class is DatasetIoU:
            result[name + ".pixel_accuracy"] = metric.pixel_accuracy()
            result["local"] = metric.confusion.sum()
    torch.save(result, f"{folder}/result{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    how = "fork" if "fork" in mp.get_all_start_methods() else "spawn"  # of what is imported once
    mp.start_processes(work, args=(sys.argv[1],), nprocs=2, start_method=how)
"""


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="this torch has no gloo"
)
def test_two_processes_give_exactly_the_result_of_one(tmp_path):
    preds, target = draw(11, 6, 255, seed=8)
    torch.save({"preds": preds, "target": target}, tmp_path / "data.pt")
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    environment = os.environ | ({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    dataset, image = DatasetIoU(6, ignore_index=255), ImageIoU(6, ignore_index=255)
    for metric in (dataset, image):
        metric.update(preds, target)
    seen = 0
    for rank in range(2):
        result = torch.load(tmp_path / f"result{rank}.pt", weights_only=True)
        for name, expected in (
            ("DatasetIoU", dataset.compute()),
            ("ImageIoU", image.compute()),
            ("DatasetIoU.per_class", dataset.per_class()),
            ("ImageIoU.per_class", image.per_class()),
            ("DatasetIoU.pixel_accuracy", dataset.pixel_accuracy()),
        ):
            assert torch.equal(result[name].nan_to_num(-1), expected.nan_to_num(-1)), (rank, name)
        seen += int(result["local"])
    assert seen == (target != 255).sum()  # after compute each process holds its own counts again


# ------------------------------------------------------------------ bad input

ZEROS = torch.zeros(2, 3, 3, dtype=torch.long)
ONE_HOT = torch.eye(4, dtype=torch.long)[ZEROS].movedim(-1, 1)


@pytest.mark.parametrize(
    ("preds", "target", "kind", "message"),
    [
        (ZEROS, ZEROS + 4, ValueError, r"target holds the label 4, but num_classes=4 allows 0\.\.3"),
        (ZEROS, ZEROS - 1, ValueError, r"target holds the label -1, but num_classes=4"),
        (ZEROS + 7, ZEROS, ValueError, r"preds holds the label 7 at a pixel that is not void"),
        (ZEROS, ZEROS.float(), TypeError, r"target must hold integer class labels, got dtype torch.float32.*\.long"),
        (ZEROS[:, :2], ZEROS, ValueError, r"must have target's shape \(2, 3, 3\), got \(2, 2, 3\)"),
        (
            torch.zeros(2, 5, 3, 3),
            ZEROS,
            ValueError,
            r"scores \(2, 4, 3, 3\) or labels .* got \(2, 5, 3, 3\); these are scores of 5 classes, not of 4\.",
        ),
        (torch.zeros(2, 3, 3, 4), ZEROS, ValueError, r"got \(2, 3, 3, 4\); preds looks .*preds\.movedim\(-1, 1\)"),
        (torch.zeros(2, 4, 3, 3), ZEROS[:, None], ValueError, r"drop the channel with target\.squeeze\(1\)"),
        (ZEROS[:, None], ZEROS, ValueError, r"got \(2, 1, 3, 3\); drop the channel with preds\.squeeze\(1\)"),
        (ZEROS, ZEROS[:, None], ValueError, r"got \(2, 3, 3\); drop the channel with target\.squeeze\(1\)"),
        (torch.zeros(2, 3, 3), ZEROS, ValueError, r"single foreground class.*threshold"),
        (torch.full((2, 4, 3, 3), math.nan), ZEROS, ValueError, r"preds holds NaN"),
        (torch.zeros(2, 4, 3, 3, dtype=torch.complex64), ZEROS, TypeError, r"preds must be real scores"),
        (ZEROS.numpy(), ZEROS, TypeError, r"preds must be a torch\.Tensor, got ndarray; wrap it with torch\.as_tensor"),
        ({"out": ZEROS}, ZEROS, TypeError, r"preds must be a torch\.Tensor, got dict; pass .*preds\['out'\]"),
        (ZEROS, ZEROS / 255 + 0.1, TypeError, r"target must hold integer .* holds 0\.1, which is no label"),
        (
            torch.zeros(2, 4, 2, 2),
            ZEROS,
            ValueError,
            r"got \(2, 4, 2, 2\); resize .*interpolate\(preds, \(3, 3\), mode",
        ),
        (ONE_HOT, ONE_HOT, ValueError, r"preds and target \(2, 4, 3, 3\) look one-hot.*\.argmax\(1\) on both"),
        (ZEROS, ZEROS.tolist(), TypeError, r"target must be a torch\.Tensor, got list"),
        (ZEROS[:0], ZEROS[:0], ValueError, r"target must hold pixels.*got shape \(0, 3, 3\)"),
    ],
)
@pytest.mark.parametrize("metric_class", [DatasetIoU, ImageIoU])
def test_bad_input_is_named(metric_class, preds, target, kind, message):
    metric = metric_class(4, ignore_index=255)
    with pytest.raises(kind, match=message):
        metric.update(preds, target)


def test_one_nan_among_the_scores_is_found():
    scores = torch.randn(1, 4, 3, 3)
    scores[0, 2, 1, 1] = math.nan
    with pytest.raises(ValueError, match="preds holds NaN"):
        DatasetIoU(4).update(scores, ZEROS[:1])
    with pytest.raises(ValueError, match="preds holds NaN"):
        DatasetIoU(2, threshold=0.0).update(scores[:, 2], ZEROS[:1])


def test_a_threshold_is_asked_for_where_it_is_needed():
    with pytest.raises(ValueError, match=r"threshold \(0\.0 for logits, 0\.5 for probabilities\)"):
        DatasetIoU(2).update(torch.zeros(2, 3, 3), ZEROS)


@pytest.mark.parametrize("preds", [torch.zeros(2, 2, 3, 3), ZEROS], ids=["scores of both classes", "labels"])
def test_a_threshold_that_would_not_be_used_is_refused(preds):
    with pytest.raises(ValueError, match=r"threshold=0\.7 has no meaning for preds .* leave it out\.$"):
        DatasetIoU(2, threshold=0.7).update(preds, ZEROS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_threshold_is_not_rounded_to_the_precision_of_the_scores(dtype):
    score = torch.tensor([[0.3]], dtype=torch.float32).to(dtype)  # a little above 0.3
    assert score.double().item() > 0.3
    assert DatasetIoU(2, threshold=0.3, classes=[1])(score, torch.tensor([[1]])) == 1


@pytest.mark.parametrize("metric_class", [DatasetIoU, ImageIoU])
def test_equal_thresholds_are_the_same_setting_whatever_type_wrote_them(metric_class):
    metric = metric_class(2, threshold=0.0)
    metric.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2).long())
    for zero in (0, -0.0, np.float64(0)):
        other = metric_class(2, threshold=zero)
        other.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2).long())
        metric.merge_state(other)
    assert metric.compute() == 1


@pytest.mark.parametrize("metric_class", [DatasetIoU, ImageIoU])
def test_states_of_other_settings_are_neither_merged_nor_loaded(metric_class):
    one, other, same = metric_class(3), metric_class(3, absent="one"), metric_class(3)
    for metric in (one, other, same):
        metric.persistent(True)
        metric.update(ZEROS, ZEROS)
    with pytest.raises(ValueError, match="state is of a metric with other settings"):
        one.merge_state(other)
    with pytest.raises(RuntimeError, match=f"{metric_class.__name__}: the state is of a metric with other settings"):
        one.load_state_dict(other.state_dict())
    one.merge_state(same)
    assert one.compute() == 1
    fresh = metric_class(3)
    fresh.persistent(True)
    fresh.update(ZEROS + 1, ZEROS)
    fresh.load_state_dict(same.state_dict())
    assert fresh.compute() == 1


def test_numpys_integers_are_counts_and_labels():
    metric = DatasetIoU(np.int64(3), ignore_index=np.uint8(255))
    metric.update(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 255]]))
    assert metric.compute() == 1


def test_a_metric_draws_its_value():
    pytest.importorskip("matplotlib").use("Agg")
    metric = DatasetIoU(2)
    metric.update(ZEROS, ZEROS)
    figure, axes = metric.plot()
    assert axes.get_ylim()[0] >= -1
    assert figure is axes.figure


def test_a_single_image_without_batch_dimension_is_not_taken_for_a_batch():
    with pytest.raises(ValueError, match=r"target\[None\]"):
        ImageIoU(4).update(ZEROS[0], ZEROS[0])
    DatasetIoU(4).update(ZEROS[0], ZEROS[0])  # no difference there
    with pytest.raises(ValueError, match=r"without a batch give preds\[None\] and target\[None\]"):
        DatasetIoU(4).update(torch.zeros(4, 3, 3), ZEROS[0])  # but with scores there is


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, r"num_classes=2 .* classes=\[1\]"),
        ({"num_classes": 2.0}, "num_classes must be an integer"),
        ({"num_classes": 4, "threshold": 0.9}, "threshold=0.9 is for scores of a single foreground class"),
        ({"num_classes": 3, "absent": "zero"}, '"exclude" or "one"'),
        ({"num_classes": 3, "classes": [3]}, r"classes must be different labels of 0\.\.2"),
        ({"num_classes": 3, "classes": [1, 1]}, "classes must be different labels"),
        ({"num_classes": 3, "classes": []}, "classes must be different labels"),
        ({"num_classes": 3, "classes": "12"}, "classes must be different labels"),
        ({"num_classes": 3, "classes": "all"}, "leave classes out for all of them"),
        ({"num_classes": 3, "classes": [0.5]}, "classes must be different labels"),
        ({"num_classes": 3, "classes": [True]}, "classes must be different labels"),
        ({"num_classes": 2, "classes": torch.tensor([False, True])}, "classes must be different labels"),
        ({"num_classes": 2, "threshold": "a"}, "threshold must be a finite number .*got 'a'"),
        ({"num_classes": 3, "classes": 1}, "classes must be different labels of 0..2, got 1"),
        ({"num_classes": 2, "threshold": math.nan}, "threshold must be a finite number"),
        ({"num_classes": 3, "classes": [1], "ignore_index": 1}, "also ignore_index"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DatasetIoU(**arguments)


@pytest.mark.parametrize("void", ["255", 1.5, True])
def test_a_void_label_that_is_no_integer_is_refused(void):
    with pytest.raises(TypeError, match="ignore_index must be an integer or None"):
        DatasetIoU(4, ignore_index=void)


@pytest.mark.parametrize("kind", [DatasetIoU, ImageIoU])
def test_counts_begun_in_inference_mode_go_on_outside(kind):
    target = torch.tensor([[[0, 1, 1]]])
    metric = kind(2)
    with torch.inference_mode():
        metric.update(target, target)
    metric.update(1 - target, target)
    assert metric.compute() == pytest.approx({DatasetIoU: (1 / 4 + 2 / 5) / 2, ImageIoU: 1 / 2}[kind])


@pytest.mark.parametrize("kind", [DatasetIoU, ImageIoU])
def test_without_synchronisation_no_result_asks_the_other_processes(kind):
    asked = []

    def gather(tensor, group=None):
        asked.append(tensor)
        return [tensor]

    metric = kind(2, sync_on_compute=False, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    metric.compute()
    metric.per_class()
    assert not asked


def test_a_collection_keeps_metrics_of_other_settings_apart():
    """torchmetrics lets metrics share states that are alike after the first batch, whatever the second brings."""
    collection = torchmetrics.MetricCollection(
        {"exclude": ImageIoU(2, classes=[1]), "one": ImageIoU(2, classes=[1], absent="one")}
    )
    collection.update(torch.tensor([[[1, 1]]]), torch.tensor([[[0, 1]]]))
    collection.update(torch.tensor([[[0, 0]]]), torch.tensor([[[0, 0]]]))
    assert {name: float(value) for name, value in collection.compute().items()} == {"exclude": 0.5, "one": 0.75}


def test_importing_the_library_does_not_load_torchmetrics_and_its_absence_is_explained():
    program = (
        "import sys, lovasz\n"
        "assert 'torchmetrics' not in sys.modules\n"
        "sys.modules['torchmetrics'] = None\n"
        "try:\n    import lovasz.metrics\n"
        "except ImportError as error:\n    assert 'pip install' in str(error), error\n"
        "else:\n    raise AssertionError('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
