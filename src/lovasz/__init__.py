"""lovasz: the IoU loss for segmentation, at the price of cross-entropy. The public names, nothing else."""

from lovasz.functional import lovasz_cross_entropy, lovasz_extension, lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from lovasz.modules import LovaszCrossEntropyLoss, LovaszHingeLoss, LovaszSigmoidLoss, LovaszSoftmaxLoss
from lovasz.sampling import EquibatchSampler

__version__ = "0.1.0"

__all__ = [
    "EquibatchSampler",
    "LovaszCrossEntropyLoss",
    "LovaszHingeLoss",
    "LovaszSigmoidLoss",
    "LovaszSoftmaxLoss",
    "lovasz_cross_entropy",
    "lovasz_extension",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "lovasz_softmax",
]
