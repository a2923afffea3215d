"""What a user's type checker must accept, and what it must refuse: an ignore that nothing needs is an error here.

No test: `make lint` gives it to pyright, and nobody calls it.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import numpy as np
import torch

import lovasz
from lovasz import EquibatchSampler, LovaszHingeLoss, LovaszSoftmaxLoss, lovasz_sigmoid, lovasz_softmax


def use() -> None:
    logits, target = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)

    lovasz_softmax(logits, target, weight=np.ones(3), ignore_index=np.int64(255), classes=[0, 1], method="exact")
    lovasz_softmax(logits, target, weight=[1.0, 2.0, 3.0], classes="all", impl="torch")
    lovasz_sigmoid(logits, logits > 0, multilabel=True, weight=torch.ones(3))
    lovasz.metrics.DatasetIoU(3, absent="one")
    EquibatchSampler([np.array([0, 2]), torch.tensor([1]), [0]])
    LovaszSoftmaxLoss(weight=np.ones(3))(logits, target).backward()

    lovasz.lovasz_sofmax(logits, target)  # pyright: ignore[reportAttributeAccessIssue]
    lovasz.metrix.DatasetIoU(3)  # pyright: ignore[reportAttributeAccessIssue]
    lovasz_softmax(logits, target, classes="presnt")  # pyright: ignore[reportArgumentType]
    lovasz_softmax(logits, target, method="fast")  # pyright: ignore[reportArgumentType]
    lovasz_softmax(logits, target, "exact")  # pyright: ignore[reportCallIssue]
    LovaszHingeLoss(activation="gelu")  # pyright: ignore[reportArgumentType]
