"""Equibatch (Section 3.1): the promise of every class in every |C| samples, counted; ranks, epochs, resuming, cache."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lovasz import EquibatchSampler
from lovasz.sampling import image_classes


def imbalanced(images: int, classes: int, seed: int = 0) -> list[list[int]]:
    """Class 0 in every image, class c in a share of 1 / (c + 1)^2 of them, and in one at the least."""
    random_ = random.Random(seed)
    held = [[0] + [c for c in range(1, classes) if random_.random() < (c + 1) ** -2] for _ in range(images)]
    for c in range(1, classes):
        if not any(c in classes_ for classes_ in held):
            held[random_.randrange(images)].append(c)
    return held


def epochs(sampler: EquibatchSampler, count: int) -> list[list[int]]:
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


def missing(window: list[int], held: list[list[int]], classes: int) -> set[int]:
    return set(range(classes)) - {label for index in window for label in held[index]}


@pytest.mark.parametrize(("images", "classes"), [(40, 7), (13, 21), (200, 3), (5, 1)])
def test_every_class_is_in_every_window_of_as_many_samples_as_classes(images, classes):
    held = imbalanced(images, classes)
    order = list(itertools.chain(*epochs(EquibatchSampler(held, seed=3), 5)))  # windows across epochs count too
    windows = [order[i : i + classes] for i in range(len(order) - classes + 1)]
    assert all(not missing(window, held, classes) for window in windows)


def test_a_plain_shuffle_would_fail_that_test():
    held = imbalanced(40, 7)
    order = torch.randperm(40).tolist()
    assert any(missing(order[i : i + 7], held, 7) for i in range(34))


@pytest.mark.parametrize("classes", [6, 7, 20])
@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
def test_ranks_share_one_sequence_and_each_alone_goes_through_all_classes(classes, replicas):
    held = [[c] for c in range(classes) for _ in range(3)]  # one class an image: nothing is covered by luck
    samplers = [EquibatchSampler(held, num_samples=400, num_replicas=replicas, rank=r) for r in range(replicas)]
    orders = [list(itertools.chain(*epochs(sampler, 3))) for sampler in samplers]
    assert {len(order) for order in orders} == {3 * -(-400 // replicas)}
    one = EquibatchSampler(held, num_samples=len(orders[0]) * replicas)
    steps = list(zip(*orders, strict=True))
    together = list(one)
    blocks = [together[i : i + replicas] for i in range(0, len(together), replicas)]
    assert all(Counter(step) == Counter(block) for step, block in zip(steps, blocks, strict=True))
    for order in orders:
        runs = [order[i : i + classes] for i in range(0, len(order) - classes + 1, classes)]
        assert all(not missing(run, held, classes) for run in runs)


def test_within_a_class_every_image_comes_before_one_comes_again():
    held = [[c] for c in (0, 0, 0, 0, 0, 1, 1)]
    sampler = EquibatchSampler(held, num_samples=40)
    order = [index for index in sampler if index < 5]
    assert len(order) == 20
    assert all(sorted(order[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    assert len({tuple(order[i : i + 5]) for i in range(0, 20, 5)}) > 1  # drawn anew each time


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    held = imbalanced(30, 5)
    assert epochs(EquibatchSampler(held, seed=1), 3) == epochs(EquibatchSampler(held, seed=1), 3)
    torch.manual_seed(5)
    later = EquibatchSampler(held, seed=1)
    later.set_epoch(2)
    assert list(later) == epochs(EquibatchSampler(held, seed=1), 3)[2]
    assert list(later) != list(EquibatchSampler(held, seed=2))
    assert epochs(EquibatchSampler(held), 2)[0] != epochs(EquibatchSampler(held), 2)[1]


def test_resuming_in_mid_epoch_gives_what_was_still_to_come():
    held = imbalanced(30, 5)
    whole = epochs(EquibatchSampler(held), 3)
    sampler = EquibatchSampler(held)
    sampler.set_epoch(1)
    begun = list(itertools.islice(iter(sampler), 11))
    state = json.loads(json.dumps(sampler.state_dict()))  # plain values
    again = EquibatchSampler(held)
    again.load_state_dict(state)
    again.set_epoch(1)  # as a trainer does on resuming; it must not start anew
    assert begun + list(again) == whole[1]
    assert list(again) == whole[1]  # the next pass is whole
    again.set_epoch(2)
    assert list(again) == whole[2]


def test_looking_at_a_few_samples_takes_none_from_the_epoch():
    sampler = EquibatchSampler(imbalanced(30, 5))
    whole = list(sampler)
    next(iter(sampler))
    assert list(sampler) == whole


def test_a_state_taken_after_an_epoch_goes_on_with_the_next():
    held = imbalanced(30, 5)
    sampler = EquibatchSampler(held)
    list(sampler)
    again = EquibatchSampler(held)
    again.load_state_dict(sampler.state_dict())
    assert list(again) == epochs(EquibatchSampler(held), 2)[1]


def test_what_the_training_consumed_counts_and_not_what_a_loader_fetched():
    held = imbalanced(20, 4)
    sampler = EquibatchSampler(held)
    whole = list(sampler)
    iterator = iter(sampler)
    for _ in range(16):
        next(iterator)
    again = EquibatchSampler(held)
    again.load_state_dict(sampler.state_dict(consumed=8))
    assert list(again) == whole[8:]
    again.load_state_dict(sampler.state_dict(consumed=20))  # a finished epoch: the next one
    assert again.epoch == 1
    with pytest.raises(ValueError, match="consumed is 21, but an epoch has 20"):
        sampler.state_dict(consumed=21)


def test_a_state_of_another_sampler_is_refused_by_what_differs():
    held = imbalanced(20, 4)
    state = EquibatchSampler(held, seed=1).state_dict()
    with pytest.raises(ValueError, match="seed=1, this one has seed=0"):
        EquibatchSampler(held).load_state_dict(state)
    with pytest.raises(ValueError, match="num_replicas=1, this one has num_replicas=2"):
        EquibatchSampler(held, seed=1, num_replicas=2, rank=0).load_state_dict(state)
    with pytest.raises(ValueError, match="checksum of the images of each class"):
        EquibatchSampler([[1], [0], [0, 1]]).load_state_dict(EquibatchSampler([[0], [1], [0, 1]]).state_dict())
    with pytest.raises(ValueError, match="the state is none of an EquibatchSampler"):
        EquibatchSampler(held).load_state_dict({"epoch": 0, "position": 0})
    with pytest.raises(ValueError, match="the state is none of an EquibatchSampler, got None"):
        EquibatchSampler(held).load_state_dict(None)


def test_it_drives_a_data_loader_with_workers():
    held = imbalanced(12, 4)
    loader = DataLoader(list(range(12)), batch_size=4, sampler=EquibatchSampler(held), num_workers=1)
    assert torch.cat(list(loader)).tolist() == list(EquibatchSampler(held))


def test_chosen_classes_alone_are_cycled_over():
    held = [[0, 1], [0, 2], [0], [3]]
    assert set(EquibatchSampler(held, classes=[1, 2], num_samples=8)) == {0, 1}


def test_the_process_group_gives_rank_and_number(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    sampler = EquibatchSampler([[0], [1]])
    assert (sampler.num_replicas, sampler.rank, len(sampler)) == (4, 3, 1)


def test_a_process_group_that_is_made_later_counts_as_well(monkeypatch):
    held = imbalanced(12, 3)
    early = EquibatchSampler(held)
    assert (early.num_replicas, len(early)) == (1, 12)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    late = EquibatchSampler(held, num_replicas=4, rank=3)
    assert list(early) == list(late)
    assert len(early) == 3
    assert early.state_dict() == late.state_dict()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # after destroy_process_group
    assert early.state_dict() == late.state_dict()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    alone = EquibatchSampler(held, num_replicas=1, rank=0)  # as said
    assert len(alone) == len(list(alone)) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "image_classes is empty"),
        (([[], []],), "names no class"),
        (([[0]], {"classes": [0, 5]}), "no image holds class 5"),
        (([[0]], {"classes": [0, 0]}), "different labels"),
        (([[0]], {"classes": []}), "classes is an empty list"),
        (([[0]], {"rank": 2, "num_replicas": 2}), "rank must be 0..1"),
        (([[0]], {"num_samples": 0}), "num_samples must be a whole number of at least 1, got 0"),
        (([[0]], {"seed": -1}), "seed must be"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    held, keywords = (*arguments, {})[:2]
    with pytest.raises(ValueError, match=message):
        EquibatchSampler(held, **keywords)


@pytest.mark.parametrize("unique", [np.unique, lambda mask: torch.unique(torch.from_numpy(mask)), list])
def test_the_classes_of_a_mask_are_taken_as_numpy_torch_and_python_give_them(unique):
    masks = [np.array([0, 0, 2]), np.array([1, 2, 2]), np.array([0])]
    sampler = EquibatchSampler([unique(mask) for mask in masks], classes=unique(np.array([0, 2])))
    plain = EquibatchSampler([[0, 2], [1, 2], [0]], classes=[0, 2])
    assert list(sampler) == list(plain)
    assert json.loads(json.dumps(sampler.state_dict())) == plain.state_dict()


def test_classes_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match=r"^classes holds .*True.*; expected class indices, integers such as"):
        EquibatchSampler([[0], [1]], classes=torch.ones(2, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"^classes holds 1\.0; expected class indices"):
        EquibatchSampler([[0], [1]], classes=[0, 1.0])
    with pytest.raises(TypeError, match=r"image_classes\[0\] holds np\.True_"):
        EquibatchSampler([np.array([True])])
    with pytest.raises(TypeError, match=r"image_classes\[1\] holds 'cat'"):
        EquibatchSampler([[0], ["cat"]])
    with pytest.raises(TypeError, match=r"image_classes\[0\] is 3; expected the classes of one image, such as"):
        EquibatchSampler([3, 4])
    with pytest.raises(TypeError, match=r"image_classes must be a list .* got NoneType"):
        EquibatchSampler(None)
    with pytest.raises(TypeError, match=r"image_classes must be a list .* got generator"):
        EquibatchSampler([label] for label in range(3))
    with pytest.raises(TypeError, match=r"classes must be a list of class indices, .* got 1"):
        EquibatchSampler([[0], [1]], classes=1)


def test_numpys_integers_are_numbers_too(tmp_path):
    sampler = EquibatchSampler([[0], [1], [0]], seed=np.int64(3))
    sampler.set_epoch(np.int64(2))
    plain = EquibatchSampler([[0], [1], [0]], seed=3)
    plain.set_epoch(2)
    assert list(sampler) == list(plain)
    assert json.loads(json.dumps(sampler.state_dict())) == plain.state_dict()
    cache = tmp_path / "classes.json"
    assert read(Masks(), ignore_index=np.int64(255), cache=cache) == [[0, 2], [1], []]
    assert json.loads(cache.read_text())["ignore_index"] == 255


def test_lightning_leaves_it_in_place_when_it_trains_in_several_processes():
    lightning = pytest.importorskip("lightning.pytorch")
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    replaced = trainer._data_connector._requires_distributed_sampler
    held = [[0], [1], [0]]
    assert replaced(DataLoader(held, shuffle=True))
    assert not replaced(DataLoader(held, sampler=EquibatchSampler(held)))


# --- the classes of each image


class Masks:
    def __init__(self):
        self.reads = 0
        self.masks = [torch.tensor([[0, 2], [255, 2]]), torch.tensor([[1, 1], [1, 1]]), torch.full((2, 2), 255)]

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        self.reads += 1
        return {"image": None, "mask": self.masks[index]}


def read(data, **keywords):
    return image_classes(data, lambda item: item["mask"], **({"ignore_index": 255} | keywords))


def test_the_classes_of_each_image_are_found_with_progress():
    calls = []
    assert read(Masks(), progress=lambda done, total: calls.append((done, total))) == [[0, 2], [1], []]
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_they_are_read_once_and_again_only_for_other_data(tmp_path):
    data, cache = Masks(), tmp_path / "of" / "images.json"
    first = read(data, cache=cache, key="a")
    assert read(data, cache=cache, key="a") == first
    assert data.reads == 3
    data.masks[0] = torch.tensor([9])
    assert read(data, cache=cache, key="b") == [[9], [1], []]
    data.masks.append(torch.tensor([4]))
    assert read(data, cache=cache, key="b") == [[9], [1], [], [4]]
    assert read(data, cache=cache, key="b", ignore_index=9) == [[], [1], [255], [4]]
    assert [path.name for path in cache.parent.iterdir()] == ["images.json"]


def test_processes_that_write_one_cache_together_do_not_disturb_each_other(tmp_path, monkeypatch):
    cache, replace = tmp_path / "c.json", os.replace

    def while_another_writes(source, destination):
        monkeypatch.setattr(os, "replace", replace)
        read(Masks(), cache=cache)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", while_another_writes)
    assert read(Masks(), cache=cache) == [[0, 2], [1], []]
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9, "key": "", "classes": []}', "[" * 9999])
def test_a_cache_that_is_none_is_refused_by_name(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json: not a list of image classes .* Delete it"):
        read(Masks(), cache=tmp_path / "c.json")


def test_masks_of_bool_hold_the_classes_0_and_1(tmp_path):
    for _ in range(2):  # found, and read from the cache
        held = image_classes([torch.tensor([True, False])] * 2, lambda item: item, cache=tmp_path / "c.json")
        assert EquibatchSampler(held).classes == (0, 1)


def test_a_key_that_is_no_text_is_refused_before_the_pass(tmp_path):
    data = Masks()
    with pytest.raises(TypeError, match=r"key must be text .* got 3"):
        read(data, cache=tmp_path / "c.json", key=3)
    assert not data.reads


def test_a_folder_in_the_place_of_a_cache_is_refused_before_the_pass(tmp_path):
    data = Masks()
    with pytest.raises(ValueError, match=r"cache must be a file, and .* is a folder: give .*image_classes\.json"):
        read(data, cache=tmp_path)
    assert not data.reads


def test_a_cache_that_cannot_be_put_in_its_place_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(source, destination):
        raise PermissionError(destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        read(Masks(), cache=tmp_path / "c.json")
    assert not list(tmp_path.iterdir())


def test_targets_that_are_no_labels_are_refused():
    with pytest.raises(TypeError, match=r"target of item 0 .* torch\.float32"):
        image_classes([torch.rand(2)], lambda item: item)


def test_the_default_device_of_tensors_is_no_matter():
    expected = list(EquibatchSampler([[0], [1], [0, 1]], num_replicas=1, rank=0))
    with torch.device("meta"):
        assert list(EquibatchSampler([[0], [1], [0, 1]], num_replicas=1, rank=0)) == expected
