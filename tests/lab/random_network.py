"""Networks for tests that compare them with another formula or file: every parameter tells its place; small ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import nn

from lovasz.lab.models import deeplab, layouts


def randomise(model: nn.Module) -> nn.Module:
    """Statistics, slopes and shifts at which no two channels or layers could be exchanged unseen."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.5)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


@contextmanager
def small_deeplab(widths: tuple[int, ...], blocks: tuple[int, ...]) -> Iterator[None]:
    """DeepLab with few channels and blocks: 44 million weights would make tests slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeplab, "WIDTHS", widths)
        patch.setattr(deeplab, "BLOCKS", blocks)
        _forget()
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    """Layouts keep names and shapes of a network's tensors once they have been asked."""
    layouts._shapes.cache_clear()
    for layout in layouts.LAYOUTS:
        layout.__dict__.pop("keys", None)
