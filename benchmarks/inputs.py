"""Random scores and labels to time on, and the small pieces of them on which results are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz.kernels import choose

KINDS = {"random": (1.0, 0.0), "trained": (2.0, 6.0), "untrained": (0.01, 0.0), "confident": (3.0, 20.0)}
YARDSTICK = "F.cross_entropy"


def multiclass(images: int, classes: int, size: int, kind: str = "random", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 logits (N, C, size, size) and labels (N, size, size); spread and margin of the right class by kind.

    Labels are drawn with frequencies that fall like 1 / rank, as in real images, except for "random": all alike.
    """
    generator = torch.Generator().manual_seed(seed)
    spread, margin = KINDS[kind]
    frequency = torch.ones(classes) if kind == "random" else 1 / torch.arange(1, classes + 1)
    target = torch.multinomial(frequency, images * size * size, replacement=True, generator=generator)
    target = target.view(images, size, size)
    scores = torch.randn(images, classes, size, size, generator=generator) * spread
    if margin:
        scores.scatter_add_(1, target[:, None], torch.full((images, 1, size, size), margin))
    return scores.requires_grad_(), target


def binary(images: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 scores (N, size, size) and 0/1 labels of the same shape."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, size, size, generator=generator)
    return scores.requires_grad_(), torch.randint(0, 2, (images, size, size), generator=generator)


def corner(scores: Tensor, target: Tensor, side: int = 64) -> tuple[Tensor, Tensor]:
    """The first pixels of the first two images, ``side`` each way, in the layout of the whole.

    On more of them the usual formulas in float32 are too far from float64 to pass.
    """
    if scores.dim() == 2:
        return scores[: 2 * side * side].detach(), target[: 2 * side * side]
    form = torch.channels_last if scores.dim() == 4 and scores.stride(1) == 1 < scores.shape[1] else None
    part = scores[:2, ..., :side, :side].detach().contiguous(memory_format=form or torch.contiguous_format)
    return part, target[:2, ..., :side, :side].contiguous()


def piece(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The corner that ours is checked on: as large as it must be for the default to take the kernel that is timed,
    whether images have losses of their own or not.
    """
    binary, side = target.dim() == scores.dim(), 64
    most = scores.shape[0] if scores.dim() == 2 else min(scores.shape[-2:])
    while side < most and _kernels(corner(scores, target, side)[0], binary) != _kernels(scores, binary):
        side += 8
    return corner(scores, target, side)


def _kernels(scores: Tensor, binary: bool) -> set[str]:
    """The kernels that the losses of a batch and of single images take."""
    sizes = {"classes": 1 if binary else scores.shape[1], "dtype": scores.dtype}
    images = {None, scores.numel() // scores.shape[0] // sizes["classes"]} if scores.dim() > 2 else {None}
    count = scores.numel()
    return {choose("binned", "auto", scores.device, count, image=image, **sizes).kernel for image in images}


def shape(scores: Tensor) -> str:
    """For people: "4 x 21 x 512 x 512 float32"."""
    return " x ".join(map(str, scores.shape)) + " " + str(scores.dtype).removeprefix("torch.")
