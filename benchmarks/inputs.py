"""Random scores and labels to time on, and the small piece of them on which results are checked."""

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


def piece(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The corner of the first two images that results are checked on, in the layout of the whole.

    It is as large as it must be for the default to take the kernel that is timed, whether images have losses of their
    own or not.
    """
    if scores.dim() == 2:
        return scores[:65536].detach(), target[:65536]
    binary = target.dim() == scores.dim()
    side = 64
    while side < min(scores.shape[-2:]) and _kernels(scores[:2, ..., :side, :side], binary) != _kernels(scores, binary):
        side += 8
    if binary:
        return scores[:2, :side, :side].detach().contiguous(), target[:2, :side, :side].contiguous()
    form = torch.channels_last if scores.stride(1) == 1 and scores.shape[1] > 1 else torch.contiguous_format
    corner = scores[:2, :, :side, :side].detach().contiguous(memory_format=form)
    return corner, target[:2, :side, :side].contiguous()


def _kernels(scores: Tensor, binary: bool) -> set[str]:
    """The kernels that the losses of a batch and of single images take."""
    sizes = {"classes": 1 if binary else scores.shape[1], "dtype": scores.dtype}
    images = (None, scores.shape[-1] * scores.shape[-2])
    device = scores.device
    return {choose("binned", "auto", device, scores.numel(), image=image, **sizes).kernel for image in images}


def shape(scores: Tensor) -> str:
    """For people: "4 x 21 x 512 x 512 float32"."""
    return " x ".join(map(str, scores.shape)) + " " + str(scores.dtype).removeprefix("torch.")
