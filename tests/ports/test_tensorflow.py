"""`lovasz.tensorflow`: the authors' cases, the table of options, graphs with and without XLA, sizes not yet known."""

import functools
from typing import Any

import golden
import numpy as np
import oracle
import pytest
import torch
from losses import Case

tf = pytest.importorskip("tensorflow", reason="tensorflow comes with the extra tensorflow")
port = pytest.importorskip("lovasz.tensorflow")

SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})


def loss_of(case: Case, method: str):
    function = {"softmax": port.lovasz_softmax, "hinge": port.lovasz_hinge, "sigmoid": port.lovasz_sigmoid}[case.name]
    return functools.partial(function, **case.options, method=method)


def value_and_gradient(loss, scores: Any, target: Any) -> tuple[Any, Any]:
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(scores, target)
    return value, tape.gradient(value, scores)


@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("case", golden.GOLDEN, ids=[case["name"] for case in golden.GOLDEN])
def test_value_and_gradient_are_the_authors(case: dict, method: str) -> None:
    loss = functools.partial(getattr(port, case["loss"]), **golden.golden_options(case), method=method)
    logits, target = (tf.constant(golden.ARRAYS[case["name"] + what]) for what in ("_logits", "_target"))
    value, gradient = value_and_gradient(loss, logits, target)
    golden.check_golden(case, float(value), gradient.numpy(), 1e-5, 1e-5 if method == "exact" else 1e-3)


@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("case", golden.TABLE, ids=str)
def test_every_option_means_what_it_means_in_pytorch(case: Case, method: str) -> None:
    scores, target = golden.drawn(case, method)
    value, gradient = value_and_gradient(loss_of(case, method), tf.constant(scores), target)
    golden.check_table(case, method, float(value), gradient.numpy(), golden.SIZES[method])


@pytest.mark.parametrize("method", ["exact", "binned"])
def test_the_value_keeps_its_digits_on_a_large_image(method: str) -> None:
    scores, target = Case("softmax", "softmax", 3).draw(size=(512, 512), images=1)
    expected = golden.value_and_gradient(Case("softmax", "softmax", 3), scores, target, method="exact")[0].item()
    value = port.lovasz_softmax(tf.constant(scores.float().movedim(1, -1).numpy()), target.numpy(), method=method)
    assert float(value) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("per_image", [False, True])
def test_graphs_of_unknown_sizes_agree_with_eager_calls(method: str, jit_compile: bool, per_image: bool) -> None:
    scores, target = golden.drawn(SOFTMAX, method)
    loss = functools.partial(port.lovasz_softmax, ignore_index=255, per_image=per_image, method=method)
    compiled = tf.function(
        functools.partial(value_and_gradient, loss),
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec((None, None, None, 5)), tf.TensorSpec((None, None, None), tf.int32)],
    )
    value, gradient = compiled(scores, target)
    expected, slopes = value_and_gradient(loss, tf.constant(scores), target)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.linalg.norm(gradient - slopes) <= 1e-3 * np.linalg.norm(slopes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_arithmetic_is_in_at_least_float32(dtype: str) -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    cast = tf.cast(scores, dtype)
    value, gradient = value_and_gradient(loss_of(SOFTMAX, "binned"), cast, target)
    assert value.dtype == (tf.float64 if dtype == "float64" else tf.float32)
    assert gradient.dtype == cast.dtype
    wide, slopes = value_and_gradient(loss_of(SOFTMAX, "binned"), tf.cast(cast, tf.float32), target)
    np.testing.assert_allclose(value, wide, rtol=1e-6)
    eps = {"float64": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), slopes, rtol=eps, atol=1e-7)


@pytest.mark.parametrize("width", [512, 509, None])
def test_the_sum_over_many_pixels_keeps_its_digits(width: int | None) -> None:
    rng = np.random.default_rng(0)
    scores = (2 * rng.normal(size=(1, 512, width or 509, 3))).astype(np.float32)
    target = rng.integers(0, 3, scores.shape[:3])
    exact = port.lovasz_softmax(scores.astype(np.float64), target, method="exact")
    signature = [tf.TensorSpec((1, 512, width, 3)), tf.TensorSpec((1, 512, width), tf.int64)]
    for loss in (port.lovasz_softmax, tf.function(port.lovasz_softmax, input_signature=signature)):
        assert float(loss(tf.constant(scores), tf.constant(target))) == pytest.approx(float(exact), rel=2e-6)


def test_void_pixels_may_hold_anything_and_all_void_is_zero() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    scores[target == 255] = np.nan
    value, gradient = value_and_gradient(loss_of(SOFTMAX, "binned"), tf.constant(scores), target)
    assert np.isfinite(value)
    assert (gradient.numpy()[target == 255] == 0).all()
    value, gradient = value_and_gradient(loss_of(SOFTMAX, "binned"), tf.constant(scores), np.full_like(target, 255))
    assert value == 0
    assert not gradient.numpy().any()


def test_a_stray_label_raises_eagerly_and_is_nan_in_a_graph() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    with pytest.raises(ValueError, match=r"beyond its 5 classes.*ignore_index"):
        loss_of(SOFTMAX, "exact")(scores, target + 7)
    assert np.isnan(tf.function(loss_of(SOFTMAX, "exact"))(tf.constant(scores), tf.constant(target + 7)))


def test_shapes_and_dtypes_that_do_not_fit_are_named() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    with pytest.raises(TypeError, match=r"target.*float32.*int32"):
        port.lovasz_softmax(scores, target.astype(np.float32))
    with pytest.raises(ValueError, match=r"target must have shape \(3, 5, 6\).*got \(3, 4, 6\)"):
        port.lovasz_softmax(scores, target[:, :4])
    with pytest.raises(ValueError, match="number of classes is unknown"):
        tf.function(port.lovasz_softmax).get_concrete_function(
            tf.TensorSpec((None, None, None, None)), tf.TensorSpec((None, None, None), tf.int32)
        )


def test_a_graph_for_any_number_of_images_has_tables_for_each_that_stay_small() -> None:
    """The finest bins of one class are 110,000; as many for each class of each image would fill the memory."""
    from lovasz.ports import bins

    fine, coarse = (bins.layout("softmax", groups, None).size for groups in (1, 21 * bins.UNKNOWN_IMAGES))
    assert coarse < fine / 20
    graph = tf.function(
        lambda logits, target: port.lovasz_softmax(logits, target, per_image=True),
        input_signature=[tf.TensorSpec((None, 32, 32, 21)), tf.TensorSpec((None, 32, 32), tf.int64)],
    )
    sizes = [
        dimension
        for node in graph.get_concrete_function().graph.get_operations()
        for output in node.outputs
        for dimension in (output.shape.as_list() if output.shape.rank is not None else ())
        if dimension is not None
    ]
    assert fine not in sizes
    assert coarse in sizes


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 6, 8)], ids=["spread", "turned"])
@pytest.mark.parametrize("kind", ["softmax", "hinge"])
def test_a_target_that_turns_out_to_have_other_sizes_makes_the_loss_nan(kind: str, shape: tuple[int, ...]) -> None:
    classes = (3,) if kind == "softmax" else ()
    unknown = [tf.TensorSpec([None, None, None, *classes]), tf.TensorSpec([None] * 3, tf.int32)]
    compiled = tf.function({"softmax": port.lovasz_softmax, "hinge": port.lovasz_hinge}[kind], input_signature=unknown)
    scores = tf.random.normal((2, 8, 6, *classes))
    assert np.isfinite(float(compiled(scores, tf.zeros((2, 8, 6), tf.int32))))
    assert np.isnan(float(compiled(scores, tf.zeros(shape, tf.int32))))


@pytest.mark.parametrize("classes", ["present", "all", [0, 2]])
def test_float64_is_float64_throughout(classes: str | list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 30, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 30), generator=generator)
    weight = [0.1, 0.2, 0.3]
    value = port.lovasz_softmax(scores.mT.numpy(), target.numpy(), classes=classes, weight=weight)
    expected = oracle.loss("softmax", scores, target, labelled=True, classes=classes, weight=weight)
    assert value.dtype == tf.float64
    assert float(value) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("per_image", [False, True])
def test_a_batch_that_turns_out_to_have_no_images_costs_nothing(per_image: bool) -> None:
    unknown = [tf.TensorSpec([None, None, 3]), tf.TensorSpec([None, None], tf.int32)]
    compiled = tf.function(lambda z, t: port.lovasz_softmax(z, t, per_image=per_image), input_signature=unknown)
    assert float(compiled(tf.zeros((0, 6, 3)), tf.zeros((0, 6), tf.int32))) == 0
    assert 0 < float(compiled(tf.zeros((1, 6, 3)), tf.zeros((1, 6), tf.int32))) < 1


def test_class_weights_with_values_may_be_an_array_within_a_graph() -> None:
    scores, target = golden.drawn(SOFTMAX, "exact")
    weight = [1.0, 2.0, 0.0, 1.0, 3.0]
    constant = tf.constant(weight)
    compiled = tf.function(lambda z: port.lovasz_softmax(z, target, ignore_index=255, weight=constant))
    expected = port.lovasz_softmax(scores, target, ignore_index=255, weight=weight)
    assert float(compiled(tf.constant(scores))) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(TypeError, match=r"weight must be a list .* that are known while tracing"):
        tf.function(lambda w: port.lovasz_softmax(scores, target, weight=w))(constant)
    with pytest.raises(TypeError, match="weight must be a list of numbers"):
        port.lovasz_softmax(scores, target, ignore_index=255, weight="12345")
    with pytest.raises(TypeError, match="weight must be a list of numbers"):  # Keras's class_weight looks so
        port.lovasz_softmax(scores, target, ignore_index=255, weight={0: 1.0, 1: 2.0, 2: 0.0, 3: 1.0, 4: 3.0})
    with pytest.raises(TypeError, match=r"classes must be .* a list of class indices"):
        port.lovasz_softmax(scores, target, ignore_index=255, classes=tf.constant([True, False, True]))


def test_large_unsigned_labels_are_not_taken_for_a_negative_void() -> None:
    labels = tf.constant([[0, 1, 2**32 - 1]], tf.uint32)
    with pytest.raises(ValueError, match="beyond its 3 classes"):
        port.lovasz_softmax(tf.zeros((1, 3, 3)), labels, ignore_index=-1)
