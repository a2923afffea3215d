"""The checks of `lovasz.keras` on one backend, for a process of its own: ``python keras_checks.py`` with KERAS_BACKEND.

Prints one line of JSON for each check: the authors' cases, sample weights, what a model does, what bad input says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import lovasz.keras as port

DATA = Path(__file__).parents[1] / "data"


def value_and_gradient(loss: Callable[[Any], Any], scores: np.ndarray) -> tuple[float, np.ndarray]:
    """By the backend's own differentiation."""
    if keras.backend.backend() == "jax":
        import jax

        value, gradient = jax.jit(jax.value_and_grad(loss))(jax.numpy.asarray(scores))
        return float(value), np.asarray(gradient)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensor = tf.constant(scores)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = loss(tensor)
        return float(value), tape.gradient(value, tensor).numpy()
    import torch

    leaf = torch.tensor(scores, requires_grad=True)
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return float(value.detach()), leaf.grad.numpy()


def taken(loss: Callable[..., Any], labels: Any, scores: Any, **options: Any) -> float:
    """A loss's value."""
    return float(compiled(loss)(labels, scores, **options))


def compiled(loss: Callable[..., Any]) -> Callable[..., Any]:
    """On JAX, compiled whole: alone, each operation would be compiled for each shape of it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(loss)
    return loss


def golden(methods: list[str], step: int) -> None:
    """Relative distances of the authors' cases, the largest of all."""
    arrays = np.load(DATA / "golden.npz")
    for method in methods:
        value_error = gradient_error = 0.0
        for case in json.loads((DATA / "golden.json").read_text())[::step]:
            options = {"per_image": case["per_image"], "ignore_class": case["ignore_index"], "method": method}
            kind = port.LovaszHingeLoss
            if case["loss"] == "lovasz_softmax":
                kind, options = port.LovaszSoftmaxLoss, options | {"classes": case["classes"], "axis": 1}
            scores, target = (arrays[case["name"] + what] for what in ("_logits", "_target"))
            criterion = kind(**options)
            value, gradient = value_and_gradient(lambda z, t=target, c=criterion: c(t, z), scores)
            expected = arrays[case["name"] + "_grad"]
            value_error = max(value_error, abs(value - case["value"]) / abs(case["value"]))
            gradient_error = max(gradient_error, np.linalg.norm(gradient - expected) / np.linalg.norm(expected))
        report(f"golden {method}", value=value_error, gradient=float(gradient_error))


def weighted_jaccard(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> float:
    """The mean over classes of the Lovász extension by its definition, in float64, of pixels that occur so often."""
    again = np.repeat(np.arange(labels.size), counts)
    labels, exponentials = labels[again], np.exp(scores[again])
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    total = 0.0
    for label in range(scores.shape[1]):
        foreground = labels == label
        errors = np.abs(foreground - probabilities[:, label])
        order = np.argsort(-errors)
        missed, union = np.cumsum(foreground[order]), foreground.sum() + np.cumsum(~foreground[order])
        jaccard = 1 - (foreground.sum() - missed) / union
        total += float(errors[order] @ np.diff(jaccard, prepend=0.0))
    return total / scores.shape[1]


def weights() -> None:
    """Sample weights: of pixels like pixels that occur so often, of images like multiplied losses."""
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((2, 90, 100, 3)).astype(np.float32)
    labels = generator.integers(0, 3, (2, 90, 100))
    counts = generator.integers(0, 4, labels.shape)
    expected = weighted_jaccard(labels.ravel(), scores.reshape(-1, 3).astype(np.float64), counts.ravel())
    for method in ("exact", "binned"):
        criterion = port.LovaszSoftmaxLoss(method=method)
        weighted = taken(criterion, labels, scores, sample_weight=counts.astype(np.float32))
        report(f"pixel weights {method}", actual=weighted, expected=expected)
    flat = labels[0].ravel(), scores[0].reshape(-1, 3)
    weight = counts[0].astype(np.float32).ravel()
    alone = taken(port.LovaszSoftmaxLoss(), labels[:1], scores[:1], sample_weight=counts[:1].astype(np.float32))
    for shape in ((-1,), (-1, 1)):
        weighted = taken(port.LovaszSoftmaxLoss(), *flat, sample_weight=weight.reshape(shape))
        report(f"flat weights {len(shape)}", actual=weighted, expected=alone)
    chosen = weight > 0
    binary = labels[0].ravel() > 0, scores[0, ..., 0].ravel()
    weighted = taken(port.LovaszHingeLoss(), *binary, sample_weight=chosen.astype(np.float32))
    subset = taken(port.LovaszHingeLoss(), *(part[chosen] for part in binary))
    report("flat hinge weights", actual=weighted, expected=subset)
    several = labels[..., None] == np.arange(3), scores  # each pixel has three labels
    pixels = counts.astype(np.float32)
    binary_loss = port.LovaszSigmoidLoss()
    single = [taken(binary_loss, labels == c, scores[..., c], sample_weight=pixels) for c in range(3)]
    for shape in (labels.shape, (*labels.shape, 1), (2, -1)):
        weighted = taken(port.LovaszSigmoidLoss(multilabel=True), *several, sample_weight=pixels.reshape(shape))
        report(f"several labels {len(shape)}", actual=weighted, expected=float(np.mean(single)))
    each = compiled(port.LovaszSoftmaxLoss(per_image=True, reduction="none"))
    light = pixels * np.array([1.0, 1e-6], np.float32)[:, None, None]
    plain, scaled = (each(labels, scores, sample_weight=w) for w in (pixels, light))
    report("light image", actual=float(scaled[1]), expected=float(plain[1]))
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight"):
        criterion = port.LovaszHingeLoss(reduction=reduction)
        single = [taken(port.lovasz_hinge, labels[i : i + 1] > 0, scores[i : i + 1, ..., 0]) for i in range(2)]
        divisor = {"sum_over_batch_size": 2, "sum": 1, "mean_with_sample_weight": 4}[reduction]
        weighted = taken(criterion, labels > 0, scores[..., 0], sample_weight=np.array([1.0, 3.0], np.float32))
        report(f"image weights {reduction}", actual=weighted, expected=(single[0] + 3 * single[1]) / divisor)


def equal_weights() -> None:
    """More equal errors than float32 can count one by one, with and without weights that are all the same."""
    labels = np.zeros((37, 2**19), np.int32)  # 17 million of background alone, beyond 2^24
    labels[:, : 2**16] = 1
    scores = ops.zeros(labels.shape, "float16")
    # Without weights it is integers that are counted, the same way on all backends.
    for weight in (None, 0.1) if keras.backend.backend() == "tensorflow" else (0.1,):
        given = None if weight is None else np.full(labels.shape, weight, np.float32)
        value = taken(port.LovaszSigmoidLoss(), labels, scores, sample_weight=given)
        report(f"equal weights {weight}", actual=value)


def masked(folder: str) -> None:
    """A mask that a layer has set, in a compiled evaluation; a function as the loss of a saved model."""
    generator = np.random.default_rng(0)
    points = generator.random((4, 30, 3)).astype(np.float32) + 0.1
    points[:, 10:] = 0
    labels = generator.integers(0, 5, (4, 30))
    labels[:, 10:] = 0
    network = keras.Sequential([keras.Input((30, 3)), keras.layers.Masking(), keras.layers.Dense(5)])
    network.compile("sgd", loss=port.LovaszSoftmaxLoss())
    scores = ops.convert_to_numpy(network(points)).astype(np.float64)[:, :10].reshape(-1, 5)
    expected = weighted_jaccard(labels[:, :10].ravel(), scores, np.ones(40, np.int64))
    report("mask", actual=network.evaluate(points, labels, batch_size=4, verbose=0), expected=expected)
    network.compile("sgd", loss=port.lovasz_softmax)
    network.save(Path(folder) / "function.keras")
    report("function", loss=keras.models.load_model(Path(folder) / "function.keras").loss.__name__)


class Ending(keras.layers.Layer):
    """Takes the loss within the network, whose images are not counted yet when it is built."""

    def call(self, labels: Any, scores: Any) -> Any:
        self.add_loss(port.LovaszSoftmaxLoss()(labels, scores))
        return scores


def inside() -> None:
    generator = np.random.default_rng(0)
    labels, images = keras.Input((24, 20), dtype="int32"), keras.Input((24, 20, 3))
    network = keras.Model([labels, images], Ending()(labels, keras.layers.Conv2D(5, 1)(images)))
    network.compile("sgd")
    data = [generator.integers(0, 5, (4, 24, 20)).astype(np.int32), generator.random((4, 24, 20, 3)).astype(np.float32)]
    report("inside", loss=network.fit(data, batch_size=2, verbose=0).history["loss"][0])


def model(folder: str) -> None:
    """A model is compiled, trained for a step, saved and loaded with its loss; in mixed precision too."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((3, 8, 8, 2)).astype(np.float32)
    labels = generator.integers(0, 3, (3, 8, 8, 1))
    network = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(3, 1)])
    criterion = port.LovaszSoftmaxLoss(ignore_class=2, classes=[0, 1], weight=[1.0, 2.0, 0.0])
    network.compile("sgd", loss=criterion)
    before = network.get_weights()[0]
    history = network.fit(images, labels, batch_size=2, verbose=0)  # the last batch is smaller
    report("training", loss=history.history["loss"][0], moved=float(np.abs(network.get_weights()[0] - before).max()))
    path = Path(folder) / "model.keras"
    network.save(path)
    loaded = keras.models.load_model(path)
    report("loading", same=loaded.loss.get_config() == criterion.get_config(), kind=type(loaded.loss).__name__)
    half = ops.cast(network(images), "float16")
    value = compiled(port.lovasz_softmax)(labels, half)
    report("half precision", dtype=keras.backend.standardize_dtype(value.dtype), finite=bool(np.isfinite(float(value))))


def two_devices() -> None:
    """Before TensorFlow looks at its devices: two logical ones of one processor."""
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)


def replicas() -> None:
    """A step of two replicas that have the same image each, and of one that has this image alone."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    image, labels = generator.standard_normal((1, 6, 6, 3)).astype(np.float32), generator.integers(0, 3, (1, 6, 6))
    for name, options in {"batch": {}, "images": {"per_image": True}}.items():
        losses, kernels = [], []
        for count in (1, 2):
            strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
            with strategy.scope():
                keras.utils.set_random_seed(0)
                network = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(3, 1)])
                network.compile(keras.optimizers.SGD(1.0), loss=port.LovaszSoftmaxLoss(**options))
            images, targets = (np.concatenate([x] * count) for x in (image, labels))
            losses.append(network.fit(images, targets, batch_size=count, verbose=0).history["loss"][0])
            kernels.append(network.get_weights()[0])
        report(f"replicas {name}", losses=losses, apart=float(np.abs(kernels[1] - kernels[0]).max()))


def faults() -> None:
    """What bad input says."""
    labels, scores = np.zeros((1, 2, 2), np.int32), np.zeros((1, 2, 2, 3), np.float32)
    for name, call in {
        "stray label": lambda: port.lovasz_softmax(labels + 3, scores),
        "64 bits": lambda: port.lovasz_softmax(labels.astype(np.int64) + 2**32, scores),
        "one-hot": lambda: port.lovasz_softmax(np.eye(3, dtype=np.int32)[labels], scores),
        "swapped": lambda: port.lovasz_softmax(scores, labels),
        "nothing": lambda: port.lovasz_softmax(None, scores),
        "fraction": lambda: port.lovasz_softmax(labels + 0.5, scores),
        "reduction": lambda: port.LovaszSoftmaxLoss(reduction="median"),
        "classes": lambda: port.LovaszSoftmaxLoss(classes="presnt"),
        "class weight": lambda: port.LovaszSoftmaxLoss(weight=2.0),
        "text for class weights": lambda: port.LovaszSigmoidLoss(multilabel=True, weight="abc"),
        "negative class weights": lambda: port.LovaszSoftmaxLoss(weight=[-1, 2, 3]),
        "method": lambda: port.LovaszHingeLoss(method="fast"),
        "negative weights": lambda: port.LovaszSoftmaxLoss()(labels, scores, sample_weight=-np.ones((1, 2, 2))),
        "infinite weights": lambda: port.LovaszSoftmaxLoss()(labels, scores, sample_weight=np.full((1, 2, 2), np.inf)),
        "weights of other images": lambda: port.LovaszHingeLoss()(labels, scores[..., 0], sample_weight=np.ones(3)),
        "weights of labels": lambda: port.LovaszSigmoidLoss(multilabel=True)(
            np.ones((1, 2, 2, 3), np.int32), scores, sample_weight=np.ones((1, 2, 2, 3))
        ),
        "weights of another layout": lambda: port.LovaszSoftmaxLoss()(
            np.zeros((1, 2, 3), np.int32), np.zeros((1, 2, 3, 3), np.float32), sample_weight=np.ones((1, 3, 2))
        ),
        "weights": lambda: port.LovaszSoftmaxLoss()(labels, scores, sample_weight=np.ones((1, 3), np.float32)),
    }.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            report(name, message=str(error))


def report(name: str, **values: Any) -> None:
    print(json.dumps({"name": name, **values}), flush=True)


if __name__ == "__main__":
    if keras.backend.backend() == "tensorflow":
        two_devices()
        replicas()
    if keras.backend.backend() == "jax":  # each case is compiled; the arithmetic is shared
        golden(["binned"], step=5)
    else:
        golden(["exact", "binned"], step=1)
    weights()
    equal_weights()
    model(sys.argv[1])
    masked(sys.argv[1])
    inside()
    faults()
