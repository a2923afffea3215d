"""The cross-entropy that goes with a Lovász-Softmax loss, from what its passes have at hand.

Apart from the loops because bins and sort share it.
"""

import math
from typing import NamedTuple

import numpy as np

from lovasz.kernels.cpu.arithmetic import inlined, load, store


class Entropy(NamedTuple):
    """What the passes are to add.

    class_weights: (C,) float64, over the sum that the mean divides by and times the term's own weight; so is their sum
    in ``total``; smoothing: label smoothing, from 0 to 1.
    """

    class_weights: np.ndarray
    total: float
    smoothing: float


@inlined
def cross_entropy(scores, image, first, count, right, others, peak, label, entropy):
    """The cross-entropy of ``count`` pixels, weighted and divided as ``entropy`` says."""
    _, class_stride, stride = scores.strides
    at = image * scores.strides[0] + first * stride
    classes = len(entropy.class_weights)
    each = entropy.smoothing / classes
    result = 0.0
    for i in range(count):
        if label[i] < 0:
            continue
        t = np.uint32(label[i])
        pixel = scores.x[at + i * stride :]
        log = math.log(others[i] + right[i])
        straight = (1.0 - entropy.smoothing) * entropy.class_weights[t]
        result += straight * (log + (peak[i] - load(pixel, t * class_stride)))
        if each > 0:
            result += each * entropy.total * log
            for c in range(classes):
                result += each * entropy.class_weights[c] * (peak[i] - load(pixel, c * class_stride))
    return result


@inlined
def pull(entropy, factor, count, right, label, own, mean):
    """Add the gradient of ``factor`` times the cross-entropy to ``own``, that at the targets, and ``mean``, which all
    other classes' slopes are less; but for what ``smooth`` does. right: probability of the target.
    """
    each = factor * entropy.smoothing / len(entropy.class_weights)
    for i in range(count):
        if label[i] >= 0:
            t = np.uint32(label[i])
            straight = factor * (1 - entropy.smoothing) * entropy.class_weights[t]
            both = straight + each * entropy.total
            own[i] += both * right[i] - straight - each * entropy.class_weights[t]
            mean[i] -= both


@inlined
def smooth(entropy, factor, out, at, out_strides, count, tile, slopes, mean, label):
    """With label smoothing: what ``probabilities.write`` has written, again, less each class's own part."""
    classes = tile.shape[0]
    each = factor * entropy.smoothing / classes
    for i in range(count):
        if label[i] >= 0:
            pixel = out[at + i * out_strides[2] :]
            for c in range(classes):
                value = tile[c, i] * (slopes[c, i] - mean[i]) - each * entropy.class_weights[c]
                store(pixel, c * out_strides[1], value)
