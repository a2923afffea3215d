"""The networks of the lab by name, and their weights in files.

A network takes floating RGB in [0, 1] of shape (N, 3, H, W), any H and W, and returns logits (N, C, H, W); the scaling
of its input is part of it.
"""

from collections.abc import Callable

from torch import nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.deeplab import DeepLabV2
from lovasz.lab.models.enet import pytorch_enet, torch7_enet
from lovasz.lab.models.espnetv2 import ESPNetV2
from lovasz.lab.models.hub import EXAMPLES, brings_weights, create_foreign, is_foreign
from lovasz.lab.models.unet import UNet
from lovasz.lab.models.weights import (
    describe_weights,
    load_exported,
    load_weights,
    network_of,
    new_classes,
    other_classes,
    save_weights,
    trained_size,
)

__all__ = [
    "MODELS",
    "brings_weights",
    "check_name",
    "create_model",
    "describe_weights",
    "load_exported",
    "load_weights",
    "network_of",
    "new_classes",
    "other_classes",
    "save_weights",
    "trained_size",
]

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "enet": pytorch_enet,
    "enet_torch7": torch7_enet,
    "unet": UNet,
    "espnetv2": ESPNetV2,
    "deeplab": DeepLabV2,
}


def create_model(name: str, num_classes: int) -> nn.Module:
    """A network of `MODELS` with `num_classes` outputs and random weights (drawn from torch's global generator).

    Or one of another library, see `lovasz.lab.models.hub.create_foreign`, with the weights of its folder if it has any.
    Raises LabError for an unknown name or fewer than one class.
    """
    check_name(name)
    return create_foreign(name, num_classes) if is_foreign(name) else MODELS[name](num_classes)


def check_name(name: str) -> None:
    """Raise LabError for a name that is neither one of `MODELS` nor of the form of another library's."""
    if not is_foreign(name) and name not in MODELS:
        raise LabError(
            f"model {name!r} is unknown; choose one of: {', '.join(MODELS)}; or one of another library, such as "
            f"{', '.join(EXAMPLES.values())}."
        )
