"""The Cityscapes scores against cityscapesScripts itself on the same files, where it is installed, and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")
from lovasz.cityscapes import EVALUATED, MEAN_SIZES, NAMES, CityscapesScores, label_ids

PRINTED = "{:>5.3f}"


def scene(seed: int, absent: tuple[int, ...] = (), height: int = 48, width: int = 64) -> tuple[np.ndarray, ...]:
    """Label ids, instance ids and a prediction with mistakes: stuff, void, objects of all sizes, groups of objects."""
    rng = np.random.default_rng(seed)
    stuff = [label for label in range(24) if label not in absent]
    target = np.repeat(np.repeat(rng.choice(stuff, (6, 8)), height // 6, 0), width // 8, 1)
    instances = target.copy()
    things = [label for label in range(24, 34) if label not in absent]
    for number in range(14):
        label = int(rng.choice(things))
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        area = np.s_[y : y + rng.integers(1, 16), x : x + rng.integers(1, 20)]
        target[area] = label
        instances[area] = label if number % 5 == 0 else label * 1000 + number  # every fifth is a group
    wrong = rng.random(target.shape) < 0.3
    preds = np.where(wrong, rng.permutation(target.ravel()).reshape(target.shape), target)
    preds[:4] = rng.choice([0, 9, 29, 30, 26], preds[:4].shape)  # labels that do not count, predicted
    return target.astype(np.uint8), instances.astype(np.int32), preds.astype(np.uint8)


CASES = {
    "everything": [((), seed) for seed in range(4)],
    "absent classes": [((7, 24, 25, 31), seed) for seed in range(2)],
    "no objects": [(tuple(range(24, 33)), 0)],
}


def ours(scenes: list[tuple[np.ndarray, ...]]) -> CityscapesScores:
    scores = CityscapesScores()
    for target, instances, preds in scenes:
        scores.update(*(torch.from_numpy(x.astype(np.int64))[None] for x in (preds, target, instances)))
    return scores


@pytest.mark.parametrize("case", CASES)
def test_the_scores_are_those_that_cityscapes_scripts_gave(case):
    """Version 2.3.0 on the files of `scene`, kept in tests/data/cityscapes.json: its package is rarely installed."""
    theirs = json.loads((Path(__file__).parent / "data" / "cityscapes.json").read_text())[case]
    assert_equal(ours([scene(seed, absent) for absent, seed in CASES[case]]), theirs)


def assert_equal(scores: CityscapesScores, theirs: dict) -> None:
    """All scores to the last bits, and the means to the last printed digit; None and NaN stand for no score."""
    means = scores.compute()
    for name, key in (
        ("class_iou", "averageScoreClasses"),
        ("class_iiou", "averageScoreInstClasses"),
        ("category_iou", "averageScoreCategories"),
        ("category_iiou", "averageScoreInstCategories"),
    ):
        wanted = number(theirs[key])
        assert PRINTED.format(float(means[name])) == PRINTED.format(wanted)
        assert float(means[name]) == pytest.approx(wanted, rel=1e-12, nan_ok=True)
    for found, iou, iiou in (
        (scores.per_class(), "classScores", "classInstScores"),
        (scores.per_category(), "categoryScores", "categoryInstScores"),
    ):
        for name, pair in found.items():
            wanted_pair = number(theirs[iou][name]), number(theirs[iiou][name])
            assert pair == pytest.approx(wanted_pair, rel=1e-12, nan_ok=True), name


def number(value: float | None) -> float:
    return math.nan if value is None else value


@pytest.mark.parametrize("case", CASES)
def test_the_scores_are_those_of_cityscapes_scripts_on_the_same_files(case, tmp_path: Path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # its name before NumPy 2.4
    scenes = [scene(seed, absent) for absent, seed in CASES[case]]
    predictions, truths = [], []
    for number, (target, instances, preds) in enumerate(scenes):
        stem = tmp_path / f"city_{number:06}_000019"
        truths.append(f"{stem}_gtFine_labelIds.png")
        predictions.append(f"{stem}_pred.png")
        image.fromarray(target).save(truths[-1])
        image.fromarray(instances.astype(np.uint16)).save(f"{stem}_gtFine_instanceIds.png")
        image.fromarray(preds).save(predictions[-1])
    module.args.quiet, module.args.JSONOutput = True, False
    theirs = module.evaluateImgLists(predictions, truths, module.args)
    scores = ours(scenes)
    assert_equal(scores, theirs)
    assert scores.confusion.tolist() == theirs["confMatrix"]


def test_the_scenes_hold_what_they_should():
    """Else the comparison would prove little."""
    target, instances, preds = scene(0)
    objects = set(np.unique(instances[instances > 1000] // 1000))
    assert len(objects) > 4
    assert ((instances == target) & (target >= 24)).any()  # groups
    assert (target < 7).any()  # void
    assert np.isin(preds, [29, 30]).any()
    without = ours([scene(0, (7, 24, 25, 31))]).per_class()
    assert {name for name, (iou, _) in without.items() if math.isnan(iou)} >= {"road", "person", "rider", "train"}
    empty = np.full((1, 4, 4), 11)
    scores = CityscapesScores()
    scores.update(*(torch.from_numpy(empty) for _ in range(3)))
    assert math.isnan(scores.per_class()["road"][0])


def test_small_objects_weigh_as_much_as_large_ones():
    """Two persons, 10 pixels and 90; all of the small one is missed: IoU 0.9, iIoU about one half."""
    target = torch.full((1, 10, 20), 24)
    target[:, :, 10:] = 7
    objects = torch.where(target == 24, 24001, 7)
    objects[:, 0, :10] = 24002
    preds = target.clone()
    preds[:, 0, :10] = 7
    scores = CityscapesScores()
    scores.update(preds, target, objects)
    iou, iiou = scores.per_class()["person"]
    assert iou == pytest.approx(0.9)
    size = MEAN_SIZES["person"]  # each object weighs this, whatever its size
    assert iiou == pytest.approx(size / (2 * size))
    assert scores.per_class()["road"] == (pytest.approx(100 / 110), pytest.approx(math.nan, nan_ok=True))


def test_batches_and_processes_add_up():
    scenes = [scene(seed) for seed in range(3)]
    whole = ours(scenes).compute()
    stacked = CityscapesScores()
    target, instances, preds = (torch.from_numpy(np.stack(x).astype(np.int64)) for x in zip(*scenes, strict=True))
    stacked.update(preds, target, instances)
    parts = [ours(scenes[:1]), ours(scenes[1:])]
    for name in ("confusion", "weighted", "weighted_category"):
        setattr(parts[0], name, sum(getattr(part, name) for part in parts))
    parts[0]._computed = None
    for name, value in whole.items():
        assert float(stacked.compute()[name]) == pytest.approx(float(value), rel=1e-12)
        assert float(parts[0].compute()[name]) == pytest.approx(float(value), rel=1e-12)


def test_train_ids_become_label_ids():
    assert label_ids(torch.arange(19)).tolist() == list(EVALUATED)
    assert len(EVALUATED) == 19
    assert NAMES[label_ids(torch.tensor(18))] == "bicycle"
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        assert label_ids(torch.tensor([18, 255], dtype=dtype)).tolist() == [33, 0]
    for wrong in (torch.tensor([0.5]), torch.tensor([True])):
        with pytest.raises(TypeError, match="train_ids must be integers"):
            label_ids(wrong)
    for wrong in (19, -1):
        with pytest.raises(ValueError, match=f"train_ids holds {wrong}"):
            label_ids(torch.tensor([0, wrong]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preds": torch.zeros(1, 2, 2)}, TypeError, "preds must hold integer ids, got dtype torch.float32"),
        ({"instances": torch.zeros(1, 2, 3, dtype=torch.long)}, ValueError, r"instances has shape \(1, 2, 3\)"),
        ({"target": torch.full((1, 2, 2), 255)}, ValueError, r"target holds 255; expected 0\.\.33 \(label ids, not"),
        ({"preds": torch.full((1, 2, 2), -1)}, ValueError, "preds holds -1"),
        ({"instances": torch.full((1, 2, 2), 34000)}, ValueError, "instances holds 34000"),
    ],
)
def test_ids_that_cannot_be_are_named(change, error, message):
    given = {name: torch.zeros(1, 2, 2, dtype=torch.long) for name in ("preds", "target", "instances")} | change
    with pytest.raises(error, match=message):
        CityscapesScores().update(**given)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics says it, too, and goes on
def test_scores_of_nothing_are_refused():
    with pytest.raises(ValueError, match="call update"):
        CityscapesScores().compute()


def test_an_image_that_is_all_void_has_no_score():
    scores = CityscapesScores()
    scores.update(*(torch.zeros(1, 2, 2, dtype=torch.long) for _ in range(3)))
    assert all(math.isnan(float(value)) for value in scores.compute().values())


def test_scores_begun_in_inference_mode_go_on_outside():
    target, instances, preds = (torch.from_numpy(part).long()[None] for part in scene(0))
    scores, alone = CityscapesScores(), CityscapesScores()
    with torch.inference_mode():
        scores(preds, target, instances)
    for one, times in ((scores, 1), (alone, 2)):
        for _ in range(times):
            one.update(preds, target, instances)
    torch.testing.assert_close(scores.compute(), alone.compute())


def test_weighted_counts_stay_wide_whatever_dtype_is_set():
    train = torch.full((1, 4, 4), NAMES.index("train"))
    scores = CityscapesScores().set_dtype(torch.float16)
    for _ in range(2):
        scores.update(train, train, train * 1000 + 1)
    assert scores.compute()["class_iiou"] == 1
