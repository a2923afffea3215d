"""EquibatchSampler: the order of images of Section 3.1, in which every class comes up once in every |C| samples.

Apart from the losses: the batches decide which classes a batch loss sees. Needs torch and the standard library only.
"""

from __future__ import annotations

import json
import math
import operator
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DistributedSampler

from lovasz.validation import void_label

_CACHE_VERSION = 1


class EquibatchSampler(DistributedSampler[int]):
    """Indices of images such that each class is visited at least once in every |C| consecutive samples.

    Section 3.1 of Berman et al. 2018 ("equibatch"): dataset-mIoU averages over the classes of the whole data set, a
    batch shows only some; cycling over the classes makes all of them come up equally often. With the classes in one
    random cyclic order `o` and the images of class c in a random order that is drawn anew each time it is used up,

        sample g  =  the next image of class o[g mod |C|]                                    g = 0, 1, 2, ...

    so every |C| consecutive samples hold an image of each class, also across the ends of epochs, and of each class
    all images come before a new order of them begins. Images of several classes come more often than in a plain
    shuffle, images without any class never. The guarantee is about whole images: a random crop may miss the class.

    Sample g is a function of (seed, g) alone. So an epoch is given by its number, resuming by a position, and several
    processes share one sequence: of each `num_replicas` consecutive samples each rank takes one. All ranks together
    thus see every class in |C| consecutive samples; and as they take turns, each rank alone sees every class at least
    once in its samples k|C| to (k+1)|C| - 1, for every k. It is a DistributedSampler by type, so that Lightning, which
    replaces any other sampler by one that shuffles when it trains in several processes, leaves it in place.

    Args:
        image_classes: for each image of the data set the classes that it holds, as `image_classes` computes them.
        classes: the classes to cycle over; None: all that occur.
        num_samples: samples of one epoch over all ranks, rounded up to a multiple of `num_replicas`; None: as many as
            there are images.
        seed: of all randomness.
        num_replicas, rank: as in torch.utils.data.DistributedSampler; None: those of the default process group, also of
            one that is there only when the sampler is used, or one process where there is none.

    Raises:
        ValueError: no images; a class without an image; a rank or a number out of range. The message names it.
        TypeError: classes that are not integers; an image whose classes are not in a list.

    >>> sampler = EquibatchSampler([[0], [0, 1], [0], [0, 2], [0]])
    >>> len(sampler), sampler.classes
    (5, (0, 1, 2))
    >>> 1 in list(sampler) and 3 in list(sampler)
    True
    """

    def __init__(
        self,
        image_classes: Sequence[Iterable[SupportsIndex]],
        *,
        classes: Sequence[SupportsIndex] | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if not hasattr(image_classes, "__len__"):
            raise TypeError(
                "image_classes must be a list with the classes of each image, such as [[0, 7], [0]], got "
                f"{type(image_classes).__name__}."
            )
        if not len(image_classes):
            raise ValueError("image_classes is empty; give one entry for each image of the data set.")
        if classes is not None and not isinstance(classes, Iterable):
            raise TypeError(f"classes must be a list of class indices, or None for all that occur, got {classes!r}.")
        images: dict[int, list[int]] = {}
        for index, held in enumerate(image_classes):
            if not isinstance(held, Iterable):
                raise TypeError(
                    f"image_classes[{index}] is {held!r}; expected the classes of one image, such as [0, 7]."
                )
            for label in held:
                label = _label(f"image_classes[{index}]", label)
                members = images.setdefault(label, [])
                if not members or members[-1] != index:
                    members.append(index)
        chosen = sorted(images) if classes is None else [_label("classes", label) for label in classes]
        if not chosen:
            raise ValueError(
                "image_classes names no class for any image; expected class indices, such as [[0, 7], [0]]."
                if classes is None
                else "classes is an empty list; name at least one class, or None for all that occur."
            )
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"classes must be different labels, got {chosen}.")
        absent = [label for label in chosen if label not in images]
        if absent:
            raise ValueError(f"classes: no image holds class {absent[0]}; leave it out, or give images that show it.")
        self.classes = tuple(chosen)
        self.seed = _whole("seed", seed, 0)
        self._total = len(image_classes) if num_samples is None else _whole("num_samples", num_samples, 1)
        self._given, self._placed = (num_replicas, rank), False
        self._take_place()
        self._images = {label: images[label] for label in self.classes}
        self._orders: dict[int, tuple[int, list[int]]] = {}  # of each class the pass that was drawn last
        order = _permutation(len(self.classes), self.seed)
        self._cycle = [self.classes[i] for i in order]
        # What a DistributedSampler has, whose own __init__ would want the data set.
        self.dataset, self.shuffle, self.drop_last = image_classes, True, False
        self.epoch = 0
        self._start = 0  # where the next iteration begins; not 0 after load_state_dict only
        self._position = 0  # samples of this rank that the last iteration has given

    def _take_place(self) -> None:
        """Find this process's part; again at each use, for Lightning makes the process group after the data loaders."""
        num_replicas, rank = self._given
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed and self._placed:
            return  # a group that is no more had its place, too
        self._placed = True
        if num_replicas is None:
            num_replicas = torch.distributed.get_world_size() if distributed else 1
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        self.num_replicas = _whole("num_replicas", num_replicas, 1)
        self.rank = _whole("rank", rank, 0)
        if self.rank >= self.num_replicas:
            raise ValueError(f"rank must be 0..{self.num_replicas - 1} with num_replicas={num_replicas}, got {rank}.")
        self._length = self.num_samples = math.ceil(self._total / self.num_replicas)
        self.total_size = self._length * self.num_replicas

    def __len__(self) -> int:
        """Samples of one epoch on this rank."""
        self._take_place()
        return self._length

    def __iter__(self) -> Iterator[int]:
        """The epoch from its beginning; once after `load_state_dict`, what was still to come of it."""
        self._take_place()
        start, self._start = self._start, 0
        self._position = start
        return self._samples(self.epoch, start)

    def _samples(self, epoch: int, start: int) -> Iterator[int]:
        for position in range(start, self._length):
            self._position = position + 1
            yield self._image(self._turn(epoch * self._length + position))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, as with DistributedSampler: call it before iterating, else the same order comes again.

        Raises ValueError for what is no whole number of at least 0.
        """
        epoch = _whole("epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch, self._start, self._position = epoch, 0, 0

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: plain integers.

        consumed: how many samples of this epoch the training has used on this rank. A DataLoader asks for batches
            ahead of the training (with worker processes, several), so its own count is the one to give; None: those
            that this sampler has handed out.

        Raises:
            ValueError: consumed that is no whole number, or more than an epoch has on this rank.
        """
        self._take_place()
        position = self._position if consumed is None else _whole("consumed", consumed, 0)
        if position > self._length:
            raise ValueError(f"consumed is {position}, but an epoch has {self._length} samples on this rank.")
        return {"epoch": self.epoch, "position": position, "identity": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError for the state of another, by what differs."""
        self._take_place()
        known = isinstance(state, dict) and {"epoch", "position"} <= state.keys()
        if not known or not isinstance(state.get("identity"), dict):
            raise ValueError(f"the state is none of an EquibatchSampler, got {state}; give what state_dict() returned.")
        for name, (theirs, ours) in _differences(state["identity"], self._identity()).items():
            raise ValueError(
                f"the state is of a sampler with {name}={theirs}, this one has {name}={ours}. Build it with the same "
                "arguments, or start at an epoch's beginning with set_epoch."
            )
        finished, position = divmod(_whole("position", state["position"], 0), self._length)
        self.epoch = _whole("epoch", state["epoch"], 0) + finished  # after a whole epoch, the next
        self._start = self._position = position

    def _identity(self) -> dict[str, Any]:
        images = json.dumps([self._images[label] for label in self.classes]).encode()
        return {
            "seed": self.seed,
            "classes": list(self.classes),
            "num_replicas": self.num_replicas,
            "length": self._length,
            "checksum of the images of each class": zlib.crc32(images),
        }

    def _turn(self, block: int) -> int:
        """Which sample of all is this rank's in block `block` of `num_replicas` consecutive ones.

        Were it always the same place, a rank would meet only every d-th class, d = gcd(ranks, classes): the ranks move
        on by one place each time that they have gone through the classes that such places hold.
        """
        shared = math.gcd(self.num_replicas, len(self.classes))
        shift = block // (len(self.classes) // shared)
        return block * self.num_replicas + (self.rank + shift) % self.num_replicas

    def _image(self, sample: int) -> int:
        """Sample `sample` of the endless sequence."""
        visit, place = divmod(sample, len(self._cycle))
        label = self._cycle[place]
        members = self._images[label]
        turn, index = divmod(visit, len(members))
        if self._orders.get(label, (-1, []))[0] != turn:
            self._orders[label] = turn, _permutation(len(members), self.seed, label, turn)
        return members[self._orders[label][1][index]]


def image_classes(
    dataset: Any,
    target: Callable[[Any], Tensor],
    *,
    ignore_index: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cache: str | Path | None = None,
    key: str = "",
) -> list[list[int]]:
    """The classes that each image of a map-style data set holds, in ascending order, from one pass over it.

    Args:
        dataset: anything with `len()` and integer indexing.
        target: the label map of one item, integers or bool of any shape: `lambda item: item[1]`.
        ignore_index: void label, which is no class.
        progress: called with (images done, images of all) after each image.
        cache: a JSON file that is read instead where it exists, and written after the pass.
        key: any text that says which data these are, and in which state (a path, a split, a date); a cache with
            another key or ignore_index, or of another number of images, is made anew.

    Returns:
        For each image its classes as plain ints, without ignore_index; what `EquibatchSampler` takes.

    Raises:
        TypeError: a target that is no tensor of integers or bool, a key that is no text, an ignore_index that is no
            integer.
        ValueError: a cache file that cannot be read as such: delete it, and it is made anew; a cache that is a folder.

    >>> image_classes([torch.tensor([0, 0, 3]), torch.tensor([255])], lambda item: item, ignore_index=255)
    [[0, 3], []]
    """
    if not isinstance(key, str):
        raise TypeError(f"key must be text that says which data these are, got {key!r}.")
    ignore_index = void_label(ignore_index)
    path = None if cache is None else Path(cache)
    if path is not None and path.is_dir():
        raise ValueError(f"cache must be a file, and {path} is a folder: give {path / 'image_classes.json'}.")
    if path is not None and path.is_file():
        kept = _read_cache(path)
        same = kept["key"] == key and kept.get("ignore_index", "not said") == ignore_index
        if same and len(kept["classes"]) == len(dataset):
            return kept["classes"]
    found: list[list[int]] = []
    for index in range(len(dataset)):
        labels = target(dataset[index])
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"target of item {index} must be a tensor of integer labels, got {kind}.")
        found.append([label for label in labels.long().unique().tolist() if label != ignore_index])
        if progress is not None:
            progress(index + 1, len(dataset))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": _CACHE_VERSION, "key": key, "ignore_index": ignore_index, "classes": found}
        # A name of its own, for the processes of one training may all write the same cache.
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            partial.write_text(json.dumps(content), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return found


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["version"] != _CACHE_VERSION or not isinstance(kept["key"], str):
            raise ValueError(f"version {kept['version']!r}")
        for held in kept["classes"]:
            if not isinstance(held, list) or not all(type(label) is int for label in held):
                raise ValueError(f"{held!r} among the classes")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a list of image classes ({error!r}). Delete it, and it is made anew.") from error
    return kept


def _permutation(length: int, *numbers: int) -> list[int]:
    """A permutation that is a function of the numbers alone; hashed, as sums of seeds coincide."""
    mixed = 0
    for number in numbers:
        # splitmix64 (Steele, Lea and Flood 2014), one round for each number
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    generator = torch.Generator().manual_seed(mixed >> 1)
    return torch.randperm(length, generator=generator, device="cpu").tolist()


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (theirs.get(name), value) for name, value in ours.items() if theirs.get(name) != value}


def _label(name: str, value: Any) -> int:
    """A class index as an int: a plain one, NumPy's or torch's, but no truth value."""
    dtype = str(getattr(value, "dtype", type(value).__name__))
    try:
        if "bool" not in dtype:
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} holds {value!r}; expected class indices, integers such as [0, 7].")


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)  # takes NumPy's integers, too
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return number
