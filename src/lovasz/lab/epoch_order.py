"""The order of images in each epoch, and which process takes which. Apart from the loop, which only goes through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from lovasz.lab.data import TrainingView
from lovasz.lab.processes import ALONE, Team
from lovasz.lab.task import SHUFFLE, mix
from lovasz.sampling import EquibatchSampler


class EpochOrder(Sampler[int | tuple[int, int]]):
    """The order of images, which depends on (seed, epoch) alone. Lightning calls `set_epoch`; the data view follows.

    Processes deal it out like cards, so that their batches of one step are what a single process would have in one
    batch of that size; what is left over is left out.

    image_classes: of each image for the order of equibatch; None for a plain shuffle. Equibatch gives an image again
    within an epoch, and says beside its number how often it came before: TrainingView changes it anew.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        data: TrainingView,
        team: Team = ALONE,
        image_classes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.length, self.seed, self.data, self.team, self.epoch = length, seed, data, team, 0
        self.equibatch = None
        if image_classes is not None:
            self.equibatch = EquibatchSampler(image_classes, seed=seed, num_replicas=1, rank=0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch before iterating."""
        self.epoch = epoch
        self.data.set_epoch(epoch)

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        order: list[int | tuple[int, int]]
        if self.equibatch is not None:
            self.equibatch.set_epoch(self.epoch)
            before = [0] * self.length
            order = []
            for index in self.equibatch:
                order.append((index, before[index]))
                before[index] += 1
        else:
            generator = torch.Generator().manual_seed(mix(self.seed, SHUFFLE, self.epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
        return iter(order[self.team.rank :: self.team.size][: len(self)])

    def __len__(self) -> int:
        return self.length // self.team.size
