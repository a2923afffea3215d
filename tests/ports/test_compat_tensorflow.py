"""`lovasz.compat_tensorflow`: the authors' signatures, their values, and an oracle that shares no code with it."""

import inspect
import re

import golden
import numpy as np
import oracle
import pytest
import torch

tf = pytest.importorskip("tensorflow", reason="tensorflow comes with the extra tensorflow")
compat = pytest.importorskip("lovasz.compat_tensorflow")

SIGNATURES = {
    "lovasz_grad": "(gt_sorted)",
    "lovasz_hinge": "(logits, labels, per_image=True, ignore=None)",
    "lovasz_hinge_flat": "(logits, labels)",
    "flatten_binary_scores": "(scores, labels, ignore=None)",
    "lovasz_softmax": "(probas, labels, classes='all', per_image=False, ignore=None, order='BHWC')",
    "lovasz_softmax_flat": "(probas, labels, classes='all')",
    "flatten_probas": "(probas, labels, ignore=None, order='BHWC')",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_authors(name: str) -> None:
    signature = inspect.signature(getattr(compat, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == SIGNATURES[name]


@pytest.mark.parametrize("case", golden.GOLDEN, ids=[case["name"] for case in golden.GOLDEN])
def test_values_are_the_authors(case: dict) -> None:
    logits, target = (golden.ARRAYS[case["name"] + what] for what in ("_logits", "_target"))
    options = {"per_image": case["per_image"], "ignore": case["ignore_index"]}
    if case["loss"] == "lovasz_hinge":
        value = compat.lovasz_hinge(logits, target, **options)
    else:
        probas = tf.nn.softmax(tf.constant(logits), 1)
        value = compat.lovasz_softmax(probas, target, classes=case["classes"], order="BCHW", **options)
        last = tf.transpose(probas, (0, 2, 3, 1))
        assert float(compat.lovasz_softmax(last, target, classes=case["classes"], **options)) == float(value)
    assert float(value) == pytest.approx(case["authors_float32"], rel=1e-5)


@pytest.mark.parametrize("classes", ["all", "present", [2, 0]])
def test_flat_losses_equal_the_oracle(classes) -> None:
    generator = np.random.default_rng(0)
    probas = tf.nn.softmax(tf.constant(generator.standard_normal((3, 5, 4, 4)).astype(np.float32)))
    labels = generator.integers(0, 3, (3, 5, 4))
    labels[:, 0] = 9
    flat = compat.flatten_probas(probas, labels, ignore=9)
    scores = torch.tensor(probas.numpy()).permute(3, 0, 1, 2).reshape(1, 4, -1)
    target = torch.tensor(labels).reshape(1, -1)
    expected = oracle.loss("probability", scores, target, labelled=True, classes=classes, ignore_index=9)
    assert float(compat.lovasz_softmax_flat(*flat, classes=classes)) == pytest.approx(expected, rel=1e-5)
    binary = compat.flatten_binary_scores(probas[..., 0], np.where(labels == 9, 9, labels > 0), ignore=9)
    masks = torch.where(target == 9, 9, (target > 0).long()).unsqueeze(1)
    expected = oracle.loss("hinge", scores[:, :1], masks, labelled=False, ignore_index=9)
    assert float(compat.lovasz_hinge_flat(*binary)) == pytest.approx(expected, rel=1e-5)


def test_weights_are_the_differences_of_the_jaccard_loss() -> None:
    foreground = np.array([1, 0, 0, 1, 0, 1])
    jaccard = [oracle.jaccard_loss(np.arange(6) < i, foreground == 1) for i in range(7)]
    np.testing.assert_allclose(compat.lovasz_grad(foreground.astype(np.float32)), np.diff(jaccard), rtol=1e-6)
    np.testing.assert_allclose(compat.lovasz_grad(np.zeros(3, np.float32)), [1, 0, 0])


def test_all_void_and_nothing_are_zero() -> None:
    scores, void = tf.ones((1, 2, 2)), np.full((1, 2, 2), 255)
    assert float(compat.lovasz_hinge(scores, void, ignore=255)) == 0
    assert float(compat.lovasz_hinge_flat(*compat.flatten_binary_scores(scores, void, 255))) == 0


def test_per_image_may_be_a_number_as_in_the_authors_code() -> None:
    scores, labels = np.float32([[[2.0, -0.5]], [[-3.0, 1.0]]]), np.int32([[[1, 0]], [[0, 0]]])
    for number in (0, 1):
        assert float(compat.lovasz_hinge(scores, labels, number)) == float(
            compat.lovasz_hinge(scores, labels, bool(number))
        )
    assert float(compat.lovasz_hinge(scores, labels, 1)) != float(compat.lovasz_hinge(scores, labels, 0))


def test_labels_may_have_a_channel_as_the_authors_flatten_them() -> None:
    probas = tf.nn.softmax(tf.random.stateless_uniform((2, 4, 5, 3), (1, 2)))
    labels = np.random.default_rng(0).integers(0, 2, (2, 4, 5))
    expected = float(compat.lovasz_softmax(probas, labels))
    assert float(compat.lovasz_softmax(probas, labels[..., None])) == expected
    first = tf.transpose(probas, (0, 3, 1, 2))
    assert float(compat.lovasz_softmax(first, labels[:, None], order="BCHW")) == pytest.approx(expected, rel=1e-6)
    scores = probas[..., 0]
    assert float(compat.lovasz_hinge(scores, labels[..., None])) == float(compat.lovasz_hinge(scores, labels))


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ((3, 1, 4, 5), (3, 1, 4, 5)),
        ((3, 1, 4, 5), (3, 4, 5)),
        ((3, 4, 5, 1), (3, 4, 5)),
        ((3, 4, 5), (3, 1, 4, 5)),
        ((3, 1, 4, 1), (3, 4, 1)),
        ((3, 2, 4, 5), (3, 2, 4, 5)),
        ((3, 1), (3, 1)),
        ((6,), (6,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("per_image", [True, False])
def test_the_hinge_takes_all_shapes_that_the_authors_flatten(
    scores: tuple[int, ...], labels: tuple[int, ...], per_image: bool
) -> None:
    generator = np.random.default_rng(0)
    logits, masks = generator.standard_normal(scores).astype(np.float32), generator.integers(0, 2, labels)
    masks.flat[1] = 255
    flat = [torch.tensor(x).reshape(scores[0], 1, -1) for x in (logits, masks)]
    expected = oracle.loss("hinge", *flat, labelled=False, per_image=per_image, ignore_index=255)
    assert float(compat.lovasz_hinge(logits, masks, per_image, 255)) == pytest.approx(expected, rel=1e-5)
    if len(scores) == len(labels):
        unknown = [tf.TensorSpec([None] * len(scores), dtype) for dtype in (tf.float32, tf.int64)]
        traced = tf.function(lambda x, y: compat.lovasz_hinge(x, y, per_image, 255), input_signature=unknown)
        assert float(traced(logits, masks)) == pytest.approx(expected, rel=1e-5)


def test_sizes_that_only_the_graph_knows_are_compared() -> None:
    signature = [tf.TensorSpec([None] * 4, dtype) for dtype in (tf.float32, tf.int64)]
    loss = tf.function(compat.lovasz_hinge, input_signature=signature)
    assert np.isnan(loss(np.zeros((2, 1, 4, 6), np.float32), np.zeros((2, 1, 6, 4), np.int64)))


def test_compiles_with_xla() -> None:
    scores, labels = np.float32([[[2.0, -0.5, -3.0]]]), np.int32([[[1, 255, 0]]])
    compiled = tf.function(compat.lovasz_hinge, jit_compile=True)
    assert float(compiled(scores, labels, ignore=255)) == float(compat.lovasz_hinge(scores, labels, ignore=255))


def test_another_order_and_fractions_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"'BHWC' or 'BCHW'.*'HWC'"):
        compat.lovasz_softmax(tf.ones((1, 2, 2, 3)) / 3, np.zeros((1, 2, 2), int), order="HWC")
    with pytest.raises(ValueError, match="beyond its 2 classes"):
        compat.lovasz_hinge(tf.ones((1, 2, 2)), np.full((1, 2, 2), 0.5, np.float32))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("ignore", [None, 9])
def test_a_sigmoid_output_is_one_class(per_image: bool, ignore: int | None) -> None:
    generator = np.random.default_rng(0)
    probas, labels = generator.random((3, 5, 4)).astype(np.float32), generator.integers(0, 3, (3, 5, 4))
    if ignore is not None:
        labels[:, 0] = ignore
    masks = torch.tensor(np.where(labels == 9, 9, labels == 1)).view(3, 1, -1)
    scores = torch.tensor(probas).view(3, 1, -1)
    expected = oracle.loss("probability", scores, masks, labelled=False, per_image=per_image, ignore_index=ignore)
    options = {"classes": [1], "per_image": per_image, "ignore": ignore}
    for shaped, order in ((probas, "BHWC"), (probas[..., None], "BHWC"), (probas[:, None], "BCHW")):
        assert float(compat.lovasz_softmax(shaped, labels, order=order, **options)) == pytest.approx(expected, rel=1e-5)
    if not per_image:
        flat = compat.flatten_probas(probas, labels, ignore=ignore)
        assert float(compat.lovasz_softmax_flat(*flat, classes=[1])) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"name it, classes=\[1\]; got 'all'"):
        compat.lovasz_softmax(probas, labels)


def test_a_void_label_is_no_label_of_a_narrow_type() -> None:
    """-1 as uint8 would be 255."""
    scores, labels = tf.constant([[[0.2, 0.7]]]), np.array([[[1, 255]]], np.uint8)
    wide = labels.astype(np.int64)
    for ignore in (-1, 255):
        here, there = (
            compat.lovasz_softmax(scores, some, classes=[1], ignore=ignore).numpy() for some in (labels, wide)
        )
        assert here == there
        for flatten in (compat.flatten_probas, compat.flatten_binary_scores):
            assert len(flatten(scores, labels, ignore=ignore)[1]) == (2 if ignore < 0 else 1)


def test_errors_speak_of_arguments_that_these_functions_have() -> None:
    probas = tf.nn.softmax(tf.random.stateless_uniform((2, 4, 5, 3), (1, 2)))
    labels, masks = np.full((2, 4, 5), 255), np.zeros((2, 4, 5), int)
    said = []
    for loss, error in [
        (lambda: compat.lovasz_softmax(probas, labels), ValueError),
        (lambda: compat.lovasz_softmax(3 * probas, masks), ValueError),
        (lambda: compat.lovasz_softmax(tf.transpose(probas, (0, 3, 1, 2)), masks), ValueError),
        (lambda: compat.lovasz_softmax(probas, masks, order="BCHW"), ValueError),
        (lambda: compat.lovasz_softmax(probas, masks, ignore=255.0), TypeError),
        (lambda: compat.lovasz_softmax(probas, masks, True), TypeError),
        (lambda: compat.lovasz_hinge(probas[..., 0], labels), ValueError),
        (lambda: tf.function(compat.lovasz_hinge)(probas[..., 0], masks[:, :2]), ValueError),
    ]:
        with pytest.raises(error) as raised:
            loss()
        said.append(str(raised.value).rstrip().rpartition("\n")[2])  # a graph's error begins with the lines of code
        assert not re.search(r"ignore_index|from_logits|\binput\b|\btarget\b|axis=", said[-1]), said[-1]
    assert "pass it as ignore" in said[0]
    assert said[1] == "probas holds values outside [0, 1], no probabilities; apply softmax or sigmoid first"
    assert said[2].endswith('probas looks channels-first, pass order="BCHW"')
    assert said[3].endswith('probas looks channels-last, pass order="BHWC"')
    assert 'classes="present"' in said[5]
