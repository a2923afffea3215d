"""The ports against the authors' TensorFlow formula written anew in each framework, both compiled by it: one run each.

``python -m benchmarks.ports [jax tensorflow tensorflow-graph keras]``; each framework in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.settings import Settings

FRAMEWORKS = ("jax", "tensorflow", "tensorflow-graph", "keras")

LIMIT = 240.0  # seconds after which no round starts; the formula takes many

Passes = Callable[[Any, Any], tuple[Any, Any]]


def draw(images: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random logits and labels, channels last."""
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((images, size, size, classes), dtype=np.float32)
    return logits, generator.integers(0, classes, (images, size, size), dtype=np.int32)


def with_jax() -> dict[str, Passes]:
    """Value and gradient under jax.jit."""
    import jax
    import jax.numpy as jnp

    from lovasz.jax import lovasz_softmax

    def formula(logits: Any, target: Any) -> Any:
        probabilities = jax.nn.softmax(logits).reshape(-1, logits.shape[-1])
        labels, losses, present = target.reshape(-1), [], []
        for c in range(logits.shape[-1]):
            foreground = (labels == c).astype(logits.dtype)
            errors = jnp.abs(foreground - probabilities[:, c])
            order = jnp.argsort(errors, descending=True)
            truth = foreground[order]
            total = truth.sum()
            jaccard = 1 - (total - jnp.cumsum(truth)) / (total + jnp.cumsum(1 - truth))
            slopes = jnp.concatenate([jaccard[:1], jaccard[1:] - jaccard[:-1]])
            losses.append(errors[order] @ jax.lax.stop_gradient(slopes))
            present.append(total > 0)
        counted = jnp.stack(present)
        return jnp.where(counted, jnp.stack(losses), 0).sum() / counted.sum()

    def passes(loss: Callable[..., Any]) -> Passes:
        compiled = jax.jit(jax.value_and_grad(loss))
        return lambda logits, target: jax.block_until_ready(compiled(logits, target))

    return {"lovasz_softmax": passes(lovasz_softmax), "authors' formula": passes(formula)}


def with_tensorflow(jit_compile: bool = True, keras_loss: bool = False) -> dict[str, Passes]:
    """Value and gradient under tf.function."""
    import tensorflow as tf

    if keras_loss:
        from lovasz.keras import LovaszSoftmaxLoss

        criterion = LovaszSoftmaxLoss()

        def ours(logits: Any, target: Any) -> Any:
            return criterion(target, logits)
    else:
        from lovasz.tensorflow import lovasz_softmax as ours

    def formula(logits: Any, target: Any) -> Any:
        classes = logits.shape[-1]
        probabilities, labels = tf.reshape(tf.nn.softmax(logits), (-1, classes)), tf.reshape(target, (-1,))
        losses, present = [], []
        for c in range(classes):
            foreground = tf.cast(labels == c, logits.dtype)
            errors, order = tf.nn.top_k(tf.abs(foreground - probabilities[:, c]), tf.size(labels))
            truth = tf.gather(foreground, order)
            total = tf.reduce_sum(truth)
            jaccard = 1 - (total - tf.cumsum(truth)) / (total + tf.cumsum(1 - truth))
            slopes = tf.concat([jaccard[:1], jaccard[1:] - jaccard[:-1]], 0)
            losses.append(tf.tensordot(errors, tf.stop_gradient(slopes), 1))
            present.append(total > 0)
        counted = tf.stack(present)
        kept = tf.where(counted, tf.stack(losses), tf.zeros(classes))
        return tf.reduce_sum(kept) / tf.reduce_sum(tf.cast(counted, logits.dtype))

    def passes(loss: Callable[..., Any]) -> Passes:
        @tf.function(jit_compile=jit_compile)
        def both(logits: Any, target: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = loss(logits, target)
            return value, tape.gradient(value, logits)

        def run(logits: Any, target: Any) -> tuple[Any, Any]:
            value, gradient = both(tf.convert_to_tensor(logits), tf.convert_to_tensor(target))
            return value.numpy(), gradient

        return run

    return {"lovasz_softmax": passes(ours), "authors' formula": passes(formula)}


def measure(framework: str, images: int, size: int, classes: int, rounds: int) -> dict[str, Any]:
    """Both in turn, after a check that they agree; a table as in `benchmarks.speed`."""
    from benchmarks.timing import interleaved

    if framework == "jax":
        contestants = with_jax()
        import jax

        prepare, name = jax.numpy.asarray, f"jax {jax.__version__}, jax.jit"
    else:
        import tensorflow as tf

        contestants = with_tensorflow(jit_compile=framework != "tensorflow-graph", keras_loss=framework == "keras")
        prepare, name = tf.constant, f"tensorflow {tf.__version__}, tf.function(jit_compile=True)"
        if framework == "tensorflow-graph":
            name = f"tensorflow {tf.__version__}, tf.function"
        if framework == "keras":
            import keras

            name = f"keras {keras.__version__} on {name}"
    check(contestants, *(prepare(x) for x in draw(1, 128, classes)))
    logits, target = (prepare(x) for x in draw(images, size, classes))
    result = interleaved({n: (lambda run=run: run(logits, target)) for n, run in contestants.items()}, rounds, LIMIT)
    base = result["lovasz_softmax"].median
    rows = [{"name": n, **timing.as_json(), "ratio": timing.median / base} for n, timing in result.items()]
    shape = f"{name}: {images} x {size} x {size} x {classes} float32"
    return {"input": shape, "yardstick": "lovasz_softmax", "rows": rows}


def check(contestants: dict[str, Passes], logits: Any, target: Any) -> None:
    """Raise unless ours and the formula agree: a wrong result has no speed."""
    (value, gradient), (expected, slopes) = (run(logits, target) for run in contestants.values())
    if abs(float(value) - float(expected)) > 1e-4 * abs(float(expected)):
        raise ArithmeticError(f"value {float(value)} where {float(expected)} is right")
    distance = np.linalg.norm(np.asarray(gradient) - np.asarray(slopes)) / np.linalg.norm(np.asarray(slopes))
    if distance > 2e-2:  # the formula's own float32 is the larger part of it
        raise ArithmeticError(f"gradient off by {distance:.1e}")


def run(
    frameworks: tuple[str, ...] = FRAMEWORKS, images: int = 4, size: int = 512, classes: int = 21, rounds: int = 5
) -> dict[str, Any]:
    """A table for each framework; each is measured in a process of its own, so that none disturbs another."""
    tables = []
    for framework in frameworks:
        command = [sys.executable, "-m", "benchmarks.ports", framework, "--here"]
        command += ["--images", str(images), "--size", str(size), "--classes", str(classes), "--rounds", str(rounds)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{framework}: {done.stderr}")
        tables.append(json.loads(done.stdout.splitlines()[-1]))
    return {"tables": tables}


def measured(settings: Settings) -> dict[str, Any]:
    """The part "ports" of ``python -m benchmarks``."""
    return run(images=settings.size(4, 1), size=settings.size(512), rounds=settings.slow_rounds)


def main() -> None:
    """Measure and print: a table as text, or with --here one line of JSON for `run`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ports", description=__doc__)
    # Without choices=: argparse would hold the empty list against them.
    parser.add_argument("framework", nargs="*", help=f"of {', '.join(FRAMEWORKS)}; default: all")
    parser.add_argument("--here", action="store_true", help="measure one framework in this process, print JSON")
    for name, default in (("images", 4), ("size", 512), ("classes", 21), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    for framework in arguments.framework:
        if framework not in FRAMEWORKS:
            parser.error(f"framework {framework!r} is unknown; choose from {', '.join(FRAMEWORKS)}")
    sizes = (arguments.images, arguments.size, arguments.classes, arguments.rounds)
    if arguments.here:
        print(json.dumps(measure(arguments.framework[0], *sizes)))
        return
    for table in run(tuple(arguments.framework) or FRAMEWORKS, *sizes)["tables"]:
        print(table["input"])
        for row in table["rows"]:
            median, low, high = (1e3 * row[k] for k in ("median", "low", "high"))
            print(f"  {row['name']:18s} {median:9.1f} ms ({low:.1f} to {high:.1f})  x {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
