"""`lovasz.jax`: the authors' cases, the table of options, and JAX's transformations.

Compiled without most optimisations, which take most of the time, but for one test that has them all.
"""

import functools

import golden
import numpy as np
import pytest
import xla
from losses import CASES, Case

jax = pytest.importorskip("jax", reason="jax comes with the extra jax")
jnp = jax.numpy
port = pytest.importorskip("lovasz.jax")
from lovasz.ports import preparation  # noqa: E402

SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})


def loss_of(case: Case, method: str):
    function = {"softmax": port.lovasz_softmax, "hinge": port.lovasz_hinge, "sigmoid": port.lovasz_sigmoid}[case.name]
    return functools.partial(function, **case.options, method=method)


@pytest.fixture(scope="module", autouse=True)
def _quickly_compiled() -> None:
    """For JAX alone: TensorFlow, which may follow in this process, has an XLA of its own with flags of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", xla.quick_flags())
        jax.jit(lambda x: x + 1)(1.0)  # the flags are read here


@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("case", golden.GOLDEN, ids=[case["name"] for case in golden.GOLDEN])
def test_value_and_gradient_are_the_authors(case: dict, method: str) -> None:
    loss = functools.partial(getattr(port, case["loss"]), **golden.golden_options(case), method=method)
    logits, target = (golden.ARRAYS[case["name"] + what] for what in ("_logits", "_target"))
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), target)
    golden.check_golden(case, float(value), np.asarray(gradient), 1e-5, 1e-5 if method == "exact" else 1e-3)


@pytest.mark.parametrize("case", [CASES[0], CASES[9], CASES[14]], ids=str)
@pytest.mark.parametrize("method", ["exact", "binned"])
def test_optimisation_keeps_value_and_gradient(case: Case, method: str) -> None:
    scores, target = golden.drawn(case, method)
    thorough = {name: not value if isinstance(value, bool) else 3 for name, value in xla.known_flags().items()}
    loss = jax.jit(jax.value_and_grad(loss_of(case, method)), compiler_options=thorough)
    value, gradient = loss(jnp.asarray(scores), target)
    golden.check_table(case, method, float(value), np.asarray(gradient), golden.SIZES[method])


@pytest.mark.parametrize("case", golden.TABLE, ids=str)  # sorted, each takes a compilation more: TensorFlow's test does
def test_every_option_means_what_it_means_in_pytorch(case: Case) -> None:
    scores, target = golden.drawn(case, "binned")
    value, gradient = jax.value_and_grad(loss_of(case, "binned"))(jnp.asarray(scores), target)
    golden.check_table(case, "binned", float(value), np.asarray(gradient), golden.SIZES["binned"])


@pytest.mark.parametrize("case", [CASES[0], CASES[9], CASES[14]], ids=str)
def test_bins_serve_inputs_that_would_be_sorted_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SMALL", 0)
    scores, target = golden.drawn(case, "exact")
    value, gradient = jax.value_and_grad(loss_of(case, "binned"))(jnp.asarray(scores), target)
    golden.check_table(case, "binned", float(value), np.asarray(gradient), golden.SIZES["exact"])


@pytest.mark.parametrize("method", ["exact", "binned"])
def test_jit_vmap_and_grad_agree_with_plain_calls(method: str) -> None:
    scores, target = golden.drawn(SOFTMAX, method)
    loss = loss_of(SOFTMAX, method)
    singly = jnp.stack([jax.grad(loss)(z[None], t[None])[0] for z, t in zip(scores, target, strict=True)])
    together = jax.jit(jax.vmap(jax.grad(lambda z, t: loss(z[None], t[None]))))(scores, target)
    np.testing.assert_allclose(together, singly, rtol=1e-4, atol=1e-9)
    assert jax.jit(loss)(scores, target) == pytest.approx(float(loss(scores, target)), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype: str) -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    half = jnp.asarray(scores).astype(dtype)
    value, gradient = jax.value_and_grad(loss_of(SOFTMAX, "binned"))(half, target)
    assert value.dtype == jnp.float32
    assert gradient.dtype == half.dtype
    wide = jax.grad(loss_of(SOFTMAX, "binned"))(half.astype(jnp.float32), target)
    eps = float(jnp.finfo(half.dtype).eps)
    np.testing.assert_allclose(gradient.astype(jnp.float32), wide, rtol=eps, atol=1e-7)


def test_void_pixels_may_hold_anything_and_all_void_is_zero() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    scores[target == 255] = np.nan
    value, gradient = jax.value_and_grad(loss_of(SOFTMAX, "binned"))(jnp.asarray(scores), target)
    assert np.isfinite(value)
    assert (gradient[target == 255] == 0).all()
    value, gradient = jax.value_and_grad(loss_of(SOFTMAX, "binned"))(jnp.asarray(scores), np.full_like(target, 255))
    assert value == 0
    assert not gradient.any()


def test_what_cannot_raise_inside_jit_is_nan_there_and_raises_under_plain_grad() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    with pytest.raises(ValueError, match="beyond its 5 classes"):
        jax.grad(loss_of(SOFTMAX, "exact"))(jnp.asarray(scores), target + 7)
    assert np.isnan(jax.jit(loss_of(SOFTMAX, "exact"))(scores, target + 7))
    probabilities = functools.partial(port.lovasz_softmax, from_logits=False)
    assert np.isnan(jax.jit(probabilities)(scores, np.zeros_like(target)))


FAULTS = {
    "integer logits": (lambda z, t: port.lovasz_softmax(z.astype(int), t), TypeError, "input.*int32.*float32"),
    "float target": (lambda z, t: port.lovasz_softmax(z, t.astype(np.float32)), TypeError, "target.*float32.*int32"),
    "other size": (lambda z, t: port.lovasz_softmax(z, t[:, :3]), ValueError, r"\(2, 4, 5\).*got \(2, 3, 5\)"),
    "channels first": (lambda z, t: port.lovasz_softmax(z.transpose(0, 3, 1, 2), t), ValueError, "axis=1"),
    "one-hot": (lambda z, t: port.lovasz_softmax(z, z.astype(np.int32)), ValueError, r"argmax\(axis=-1\)"),
    "empty": (lambda z, t: port.lovasz_softmax(z[:0], t[:0]), ValueError, "empty.*skip empty batches"),
    "one class": (lambda z, t: port.lovasz_softmax(z[..., :1], t), ValueError, "one channel.*lovasz_sigmoid"),
    "label": (
        lambda z, t: port.lovasz_softmax(z, 0 * t + 3),
        ValueError,
        "label 3, beyond its 3 classes.*ignore_index",
    ),
    "a label of 64 bits does not wrap": (
        lambda z, t: port.lovasz_softmax(z, t.astype(np.int64) + 2**32),
        ValueError,
        "a label of 32 bits or more, beyond its 3 classes",
    ),
    "nor an unsigned one": (
        lambda z, t: port.lovasz_softmax(z, t.astype(np.uint64) + 2**63),
        ValueError,
        "a label of 32 bits or more, beyond its 3 classes",
    ),
    "uint8 does not wrap": (
        lambda z, t: port.lovasz_softmax(z, (t + 255).astype(np.uint8), ignore_index=-1),
        ValueError,
        "beyond its 3 classes",
    ),
    "probabilities": (lambda z, t: port.lovasz_softmax(z + 2, t, from_logits=False), ValueError, r"\[0, 1\]"),
    "classes": (lambda z, t: port.lovasz_softmax(z, t, classes="some"), ValueError, "\"present\".*'some'"),
    "class beyond": (lambda z, t: port.lovasz_softmax(z, t, classes=[3]), ValueError, "class 3.*3 classes"),
    "weight": (lambda z, t: port.lovasz_softmax(z, t, weight=[1, 2]), ValueError, r"\(3,\).*\(2,\)"),
    "axis": (lambda z, t: port.lovasz_softmax(z, t, axis=4), ValueError, "axis=4"),
    "method": (lambda z, t: port.lovasz_softmax(z, t, method="fast"), ValueError, "'binned', 'exact'.*'fast'"),
    "flag": (lambda z, t: port.lovasz_softmax(z, t, per_image=1), TypeError, "per_image.*True or False.*1"),
    "void": (lambda z, t: port.lovasz_softmax(z, t, ignore_index=255.0), TypeError, "ignore_index.*255.0"),
    "void flag": (lambda z, t: port.lovasz_softmax(z, t, ignore_index=True), TypeError, "ignore_index.*True"),
    "a column of pixels": (
        lambda z, t: port.lovasz_hinge(z[0, :, :1, 0], t[0, :, :1]),
        ValueError,
        "4 images of one pixel.*drop the last axis",
    ),
    "activation": (lambda z, t: port.lovasz_hinge(z[..., 0], t, activation="gelu"), ValueError, "'gelu'"),
    "ambiguous": (lambda z, t: port.lovasz_hinge(z, z.astype(np.int32)), ValueError, "ambiguous.*multilabel=True"),
    "weight without multilabel": (
        lambda z, t: port.lovasz_sigmoid(z[..., 0], t, weight=[1.0]),
        TypeError,
        "multilabel",
    ),
}


def test_numpys_numbers_are_settings() -> None:
    scores, labels = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32), np.zeros((2, 4, 5), int)
    labels[:, 0] = 255
    of_numpy = port.lovasz_softmax(scores, labels, ignore_index=np.int64(255), per_image=np.bool_(True))
    assert of_numpy == port.lovasz_softmax(scores, labels, ignore_index=255, per_image=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_says_what_is_wrong_and_what_to_do(fault: str) -> None:
    call, error, message = FAULTS[fault]
    with pytest.raises(error, match=f"(?s){message}"):
        call(np.zeros((2, 4, 5, 3), np.float32), np.zeros((2, 4, 5), np.int32))


@pytest.mark.parametrize("loss", [port.lovasz_softmax, port.lovasz_sigmoid])
def test_void_pixels_need_hold_no_probabilities(loss) -> None:
    classes = 3 if loss is port.lovasz_softmax else 1
    probabilities = np.full((2, 4, 5, classes), 1 / 3, np.float32)
    target = np.ones((2, 4, 5), np.int32)
    target[:, :2] = 255
    expected = loss(probabilities, target, from_logits=False, ignore_index=255)
    probabilities[:, :2] = -1
    assert loss(probabilities, target, from_logits=False, ignore_index=255) == expected
    probabilities[:, 2] = -1
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        loss(probabilities, target, from_logits=False, ignore_index=255)


@pytest.mark.parametrize("per_image", [False, True])
def test_an_export_serves_any_number_of_images(per_image: bool) -> None:
    scores, target = golden.drawn(SOFTMAX, "binned")
    loss = functools.partial(port.lovasz_softmax, ignore_index=255, per_image=per_image)
    sizes = jax.export.symbolic_args_specs((jnp.asarray(scores), jnp.asarray(target)), ("n, ...", "n, ..."))
    exported = jax.export.export(jax.jit(loss))(*sizes)
    for images in (1, len(scores)):
        given = jnp.asarray(scores[:images]), jnp.asarray(target[:images])
        assert float(exported.call(*given)) == pytest.approx(float(loss(*given)), rel=1e-4)


def test_class_weights_with_values_may_be_an_array_within_jit() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    weight = [1.0, 2.0, 0.0, 1.0, 3.0]
    array = jnp.asarray(weight)
    value = jax.jit(lambda z: port.lovasz_softmax(z, target, ignore_index=255, weight=array))(scores)
    assert float(value) == pytest.approx(
        float(port.lovasz_softmax(scores, target, ignore_index=255, weight=weight)), rel=1e-6
    )
    with pytest.raises(TypeError, match=r"weight must be a list .* that are known while tracing"):
        jax.jit(lambda w: port.lovasz_softmax(scores, target, weight=w))(array)
