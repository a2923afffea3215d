"""`keep="average"`: the mean of a network's weights over the later steps of a run (stochastic weight averaging).

Apart from ``task.py``, which takes a step: here stands what is averaged, and what the mean still lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lovasz.lab.processes import ALONE, Team


def add(mean: dict[str, Tensor] | None, count: int, network: nn.Module) -> dict[str, Tensor]:
    """The mean of `count` networks' weights, by name, with those of one more; changes `mean`, None where count is 0.

    Buffers have no part in it: those of batch normalisation are measured anew (`measure_batch_norm`).
    """
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    if mean is None:
        return {name: weight.clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        mean[name] = mean[name].to(weight.device).lerp_(weight, 1 / (count + 1))
    return mean


def measure_batch_norm(
    network: nn.Module, batches: Iterable[tuple[Tensor, Any]], device: torch.device, team: Team = ALONE
) -> None:
    """Set the running statistics of batch normalisation to the means over these batches, images uint8 (N, 3, H, W).

    Those that training leaves are of the last weights, not of their mean. Each process of `team` takes its own batches.
    """
    update_bn((images.float() / 255 for images, _ in batches), network.to(device), device)
    if team.size == 1:
        return
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            for held in (layer.running_mean, layer.running_var):
                assert held is not None
                held.copy_(torch.stack(team.collect(held.cpu())).mean(0))
