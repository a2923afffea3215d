"""Networks whose every parameter tells its place, for tests that compare them with another formula or file."""

from torch import nn


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
