"""`compat` against the authors' numbers, their signatures, and an independent rewrite of their formulas."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lovasz import compat

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "golden.json").read_text())
ARRAYS = np.load(DATA / "golden.npz")

# Parameters and defaults of every public name of the authors' file; no value means no default.
SIGNATURES = {
    "lovasz_grad": ["gt_sorted"],
    "iou_binary": ["preds", "labels", ("EMPTY", 1.0), ("ignore", None), ("per_image", True)],
    "iou": ["preds", "labels", "C", ("EMPTY", 1.0), ("ignore", None), ("per_image", False)],
    "lovasz_hinge": ["logits", "labels", ("per_image", True), ("ignore", None)],
    "lovasz_hinge_flat": ["logits", "labels"],
    "flatten_binary_scores": ["scores", "labels", ("ignore", None)],
    "StableBCELoss": [],
    "binary_xloss": ["logits", "labels", ("ignore", None)],
    "lovasz_softmax": ["probas", "labels", ("classes", "present"), ("per_image", False), ("ignore", None)],
    "lovasz_softmax_flat": ["probas", "labels", ("classes", "present")],
    "flatten_probas": ["probas", "labels", ("ignore", None)],
    "xloss": ["logits", "labels", ("ignore", None)],
    "isnan": ["x"],
    "mean": ["l", ("ignore_nan", False), ("empty", 0)],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_authors(name):
    parameters = inspect.signature(getattr(compat, name)).parameters.values()
    got = [p.name if p.default is inspect.Parameter.empty else (p.name, p.default) for p in parameters]
    assert got == SIGNATURES[name]
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)


def test_no_other_name_is_public():
    own = {
        name
        for name, value in vars(compat).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == compat.__name__
    }
    assert own == set(SIGNATURES)


def golden_loss(case, logits, target):
    if case["loss"] == "lovasz_hinge":
        return compat.lovasz_hinge(logits, target, per_image=case["per_image"], ignore=case["ignore_index"])
    return compat.lovasz_softmax(
        logits.softmax(1),
        target,
        classes=case["classes"],
        per_image=case["per_image"],
        ignore=case["ignore_index"],
    )


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_authors_values_and_gradients(case, dtype):
    logits = torch.from_numpy(ARRAYS[case["name"] + "_logits"]).to(dtype).requires_grad_()
    loss = golden_loss(case, logits, torch.from_numpy(ARRAYS[case["name"] + "_target"]))
    assert loss.item() == pytest.approx(case["value"], abs=1e-5)
    assert loss.item() == pytest.approx(case["authors_float32"], abs=1e-5)
    loss.backward()
    expected = torch.from_numpy(ARRAYS[case["name"] + "_grad"])
    assert (logits.grad - expected).norm() <= 1e-5 * expected.norm()


def test_there_are_48_cases():
    assert len(CASES) == len({case["name"] for case in CASES}) == 48


# ------------------------------------------------------------------ the authors' formula, written anew in float64


def formula_weights(foreground):
    """Algorithm 1 as differences of the Jaccard loss along the sorted pixels."""
    n = foreground.sum()
    jaccard = 1 - (n - np.cumsum(foreground)) / (n + np.cumsum(1 - foreground))
    return np.diff(jaccard, prepend=0.0)


def formula_extension(errors, foreground):
    order = np.argsort(-errors, kind="stable")
    return float(errors[order] @ formula_weights(foreground[order].astype(np.float64)))


def formula_hinge(scores, labels, per_image, ignore):
    groups = list(zip(scores, labels, strict=True)) if per_image else [(scores, labels)]
    losses = []
    for group_scores, group_labels in groups:
        keep = group_labels.ravel() != ignore
        s, y = group_scores.ravel()[keep], group_labels.ravel()[keep]
        margins = 1 - s * (2.0 * y - 1)
        order = np.argsort(-margins, kind="stable")
        losses.append(float(np.maximum(margins[order], 0) @ formula_weights((y[order] == 1).astype(np.float64))))
    return sum(losses) / len(losses)


def formula_softmax(probas, labels, classes, per_image, ignore):
    channels = probas.shape[1]
    groups = [(probas[i : i + 1], labels[i : i + 1]) for i in range(len(probas))] if per_image else [(probas, labels)]
    means = []
    for group_probas, group_labels in groups:
        keep = group_labels.ravel() != ignore
        p = np.moveaxis(group_probas, 1, -1).reshape(-1, channels)[keep]
        y = group_labels.ravel()[keep]
        losses = []
        for c in range(channels) if isinstance(classes, str) else classes:
            foreground = y == c
            if classes == "present" and not foreground.any():
                continue
            losses.append(formula_extension(np.abs(foreground - p[:, c if channels > 1 else 0]), foreground))
        means.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(means) / len(means)


def draw(void, channels=5, size=(3, 6, 7)):
    probas = (2 * torch.randn(size[0], channels, *size[1:], dtype=torch.float64)).softmax(1)
    labels = torch.randint(0, channels - 1, size)  # the last class is absent
    if void is not None:
        labels[torch.rand(size) < 0.3] = void
    return probas, labels


@pytest.mark.parametrize("ignore", [None, 255, 2, -1])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all", [1, 3], (4,)])
def test_lovasz_softmax_is_the_formula(classes, per_image, ignore):
    probas, labels = draw(ignore)
    loss = compat.lovasz_softmax(probas, labels, classes=classes, per_image=per_image, ignore=ignore)
    expected = formula_softmax(probas.numpy(), labels.numpy(), classes, per_image, ignore)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ignore", [None, 255, -1])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("named", [1, 0])
def test_the_sigmoid_form_is_the_formula_for_the_class_named(named, per_image, ignore):
    probas, labels = torch.rand(3, 6, 7, dtype=torch.float64), torch.randint(0, 2, (3, 6, 7))
    if ignore is not None:
        labels[torch.rand(3, 6, 7) < 0.3] = ignore
    expected = formula_softmax(probas.unsqueeze(1).numpy(), labels.numpy(), [named], per_image, ignore)
    for form in (probas, probas.unsqueeze(1)):
        loss = compat.lovasz_softmax(form, labels, classes=[named], per_image=per_image, ignore=ignore)
        assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ignore", [None, 255, -1])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_hinge_is_the_formula(per_image, ignore):
    scores, labels = torch.randn(3, 6, 7, dtype=torch.float64), torch.randint(0, 2, (3, 6, 7))
    if ignore is not None:
        labels[torch.rand(3, 6, 7) < 0.3] = ignore
    expected = formula_hinge(scores.numpy(), labels.numpy(), per_image, ignore)
    assert compat.lovasz_hinge(scores, labels, per_image, ignore).item() == pytest.approx(expected, rel=1e-9)
    channel = compat.lovasz_hinge(scores.unsqueeze(1), labels.unsqueeze(1), per_image, ignore)
    assert channel.item() == pytest.approx(expected, rel=1e-9)
    volume = compat.lovasz_hinge(scores.view(3, 2, 3, 7), labels.view(3, 2, 3, 7), per_image, ignore)
    assert volume.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ignore", [None, 255])
def test_each_of_flat_pixels_is_an_image_as_the_authors_take_them(ignore):
    scores, labels = torch.randn(9, dtype=torch.float64), torch.randint(0, 2, (9,))
    if ignore is not None:
        labels[3] = ignore
    for per_image in (True, False):
        expected = formula_hinge(scores.numpy(), labels.numpy(), per_image, ignore)
        assert compat.lovasz_hinge(scores, labels, per_image, ignore).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("foreground", [0, 1, 5, 40])
def test_lovasz_grad_is_the_difference_of_the_jaccard_loss(foreground):
    gt = torch.zeros(40, dtype=torch.long)
    gt[torch.randperm(40)[:foreground]] = 1
    if foreground:
        expected = torch.from_numpy(formula_weights(gt.double().numpy()))
    else:
        expected = F.one_hot(torch.tensor(0), 40).double()  # 0/0 = 1: the first mistake costs all
    for dtype in (torch.long, torch.bool, torch.uint8, torch.float32, torch.float16, torch.float64):
        weights = compat.lovasz_grad(gt.to(dtype))
        assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(weights.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(compat.lovasz_grad(gt.double()), expected, rtol=1e-12, atol=1e-15)


def test_lovasz_grad_of_a_long_vector_keeps_its_sum():
    gt = torch.rand(2**20) < 0.3
    weights = compat.lovasz_grad(gt)
    assert torch.all(weights >= 0)
    assert weights.double().sum().item() == pytest.approx(1, abs=1e-6)


def test_lovasz_grad_says_what_it_needs():
    assert compat.lovasz_grad(torch.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="0 and 1 only"):
        compat.lovasz_grad(torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match=r"must be \(P,\)"):
        compat.lovasz_grad(torch.zeros(2, 2))


# ------------------------------------------------------------------ flattening


def test_flattened_probabilities_and_labels_stay_together():
    probas, labels = draw(255)
    vprobas, vlabels = compat.flatten_probas(probas, labels, ignore=255)
    pixels = [(i, y, x) for i, y, x in np.ndindex(3, 6, 7) if labels[i, y, x] != 255]
    assert vprobas.tolist() == [probas[i, :, y, x].tolist() for i, y, x in pixels]
    assert vlabels.tolist() == [labels[i, y, x].item() for i, y, x in pixels]
    assert [t.shape for t in compat.flatten_probas(probas, labels)] == [(126, 5), (126,)]
    assert [t.shape for t in compat.flatten_probas(probas[:, 0], labels)] == [(126, 1), (126,)]
    with pytest.raises(ValueError, match=r"probas must be \(B, C, H, W\)"):
        compat.flatten_probas(probas[0, 0], labels)


def test_flat_losses_equal_those_of_images():
    probas, labels = draw(255)
    flat = compat.lovasz_softmax_flat(*compat.flatten_probas(probas, labels, 255), classes="all")
    assert flat.item() == pytest.approx(compat.lovasz_softmax(probas, labels, "all", False, 255).item(), rel=1e-12)
    sigmoid = compat.lovasz_softmax_flat(*compat.flatten_probas(probas[:, 0], labels, 255), classes=[2])
    expected = formula_softmax(probas[:, :1].numpy(), labels.numpy(), [2], False, 255)
    assert sigmoid.item() == pytest.approx(expected, rel=1e-9)
    scores, masks = probas[:, 0], labels.where(labels == 255, labels % 2)
    flat = compat.lovasz_hinge_flat(*compat.flatten_binary_scores(scores, masks, 255))
    assert flat.item() == pytest.approx(compat.lovasz_hinge(scores, masks, False, 255).item(), rel=1e-12)


# ------------------------------------------------------------------ cross-entropies, IoU, means


@pytest.mark.parametrize("ignore", [None, 255, -1])
def test_cross_entropies_are_torchs_over_valid_pixels(ignore):
    logits = torch.randn(2, 4, 3, 5, requires_grad=True)
    labels = torch.randint(0, 4, (2, 3, 5))
    binary = labels % 2
    if ignore is not None:
        labels[0, :2] = binary[0, :2] = ignore
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore
    expected = F.cross_entropy(logits.movedim(1, -1)[valid], labels[valid])
    torch.testing.assert_close(compat.xloss(logits, labels, ignore), expected)
    scores = logits[:, 0]
    expected = F.binary_cross_entropy_with_logits(scores[valid], binary[valid].float())
    torch.testing.assert_close(compat.binary_xloss(scores, binary, ignore), expected)
    if ignore is None:
        torch.testing.assert_close(compat.StableBCELoss()(scores, binary.float()), expected)


def test_xloss_without_ignore_leaves_255_out_as_the_authors_do():
    logits, labels = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]]])
    assert compat.xloss(logits, labels) == compat.xloss(logits, labels, 255)
    assert compat.xloss(logits, labels).isfinite()


def test_stable_bce_stays_finite_for_huge_logits():
    loss = compat.StableBCELoss()(torch.tensor([1e4, -1e4, 1e4]), torch.tensor([1.0, 0.0, 0.0]))
    assert loss.item() == pytest.approx(1e4 / 3)
    assert isinstance(compat.StableBCELoss(), nn.Module)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("empty", [1.0, 0.0])
@pytest.mark.parametrize("ignore", [None, 255, 2])
@pytest.mark.parametrize("form", [torch.as_tensor, np.asarray])
def test_iou_is_that_of_sets_of_pixels_in_percent(form, ignore, empty, per_image):
    preds, labels = torch.randint(0, 4, (3, 4, 5)), torch.randint(0, 4, (3, 4, 5))
    labels[1] = 0  # classes 1 to 3 are absent from its truth
    preds[1] = 0
    if ignore == 255:
        labels[torch.rand(3, 4, 5) < 0.3] = 255

    def class_iou(c, images):
        truth = {i for i in np.ndindex(3, 4, 5) if i[0] in images and labels[i] == c}
        found = {i for i in np.ndindex(3, 4, 5) if i[0] in images and preds[i] == c and labels[i] != ignore}
        return len(truth & found) / len(truth | found) if truth | found else empty

    groups = [[0], [1], [2]] if per_image else [[0, 1, 2]]
    got = compat.iou(form(preds), form(labels), 5, EMPTY=empty, ignore=ignore, per_image=per_image)
    assert isinstance(got, np.ndarray)
    expected = [100 * np.mean([class_iou(c, images) for images in groups]) for c in range(5) if c != ignore]
    assert got.tolist() == pytest.approx(expected)
    binary = compat.iou_binary(form(preds), form(labels), EMPTY=empty, ignore=ignore, per_image=per_image)
    assert binary == pytest.approx(100 * np.mean([class_iou(1, images) for images in groups]))
    assert isinstance(binary, float)


def test_mean_takes_any_iterable_and_keeps_its_values():
    assert compat.mean(x for x in (1.0, 2.0, 6.0)) == 3
    assert compat.mean([5]) == 5
    assert compat.mean([1.0, float("nan"), 3.0], ignore_nan=True) == 2
    assert compat.isnan(compat.mean([1.0, float("nan")]))
    assert compat.mean([]) == 0
    assert compat.mean([], empty=-1) == -1
    assert compat.mean([float("nan")], ignore_nan=True, empty=7) == 7
    with pytest.raises(ValueError, match="mean of nothing"):
        compat.mean([], empty="raise")
    first = torch.tensor(1.0, requires_grad=True)
    assert compat.mean([first, torch.tensor(3.0)]) == 2
    assert first == 1  # theirs adds into it
    assert compat.isnan(torch.tensor([0.0, float("nan")])).tolist() == [False, True]


# ------------------------------------------------------------------ the faults that are mended


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: compat.lovasz_softmax(x.softmax(1), y, ignore=255),
        lambda x, y: compat.lovasz_softmax(x.softmax(1), y, per_image=True, ignore=255),
        lambda x, y: compat.lovasz_softmax(x.softmax(1), y, classes="all", ignore=255),
        lambda x, y: compat.lovasz_softmax(x[:, 0].sigmoid(), y, classes=[1], ignore=255),
        lambda x, y: compat.lovasz_softmax_flat(*compat.flatten_probas(x.softmax(1), y, 255)),
        lambda x, y: compat.lovasz_softmax_flat(*compat.flatten_probas(x[:, 0].sigmoid(), y, 255), classes=[1]),
        lambda x, y: compat.lovasz_hinge(x[:, 0], y, ignore=255),
        lambda x, y: compat.lovasz_hinge(x[:, 0], y, per_image=False, ignore=255),
        lambda x, y: compat.lovasz_hinge_flat(*compat.flatten_binary_scores(x[:, 0], y, 255)),
        lambda x, y: compat.xloss(x, y, 255),
        lambda x, y: compat.binary_xloss(x[:, 0], y, 255),
    ],
)
def test_all_void_is_a_scalar_zero_attached_to_the_graph(loss):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), 255))
    assert value.shape == ()
    assert value.item() == 0
    value.backward()
    assert torch.all(logits.grad == 0)


def test_an_all_void_image_counts_as_zero_in_the_mean_over_images():
    probas, labels = draw(255)
    labels[1] = 255
    alone = compat.lovasz_softmax(probas[[0, 2]], labels[[0, 2]], per_image=True, ignore=255)
    loss = compat.lovasz_softmax(probas, labels, per_image=True, ignore=255)
    assert loss.item() == pytest.approx(alone.item() * 2 / 3)


@pytest.mark.parametrize("per_image", [False, True])
def test_images_of_one_pixel_work(per_image):
    logits, labels = torch.tensor([0.5, -2.0, 3.0]).view(3, 1, 1), torch.tensor([1, 1, 0]).view(3, 1, 1)
    errors = torch.tensor([0.5, 3.0, 4.0])  # 1 - score * sign
    # Alone each has the weight 1; together the Jaccard loss of the worst, the two worst, all three is 1/3, 2/3, 1.
    assert float(compat.lovasz_hinge(logits, labels, per_image=per_image)) == pytest.approx(float(errors.mean()))


def test_one_valid_pixel_works():
    probas = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    labels = torch.tensor([[[255, 255], [2, 255]]])
    vprobas, vlabels = compat.flatten_probas(probas, labels, ignore=255)
    assert vprobas.shape == (1, 3)
    assert vlabels.tolist() == [2]
    assert compat.lovasz_softmax(probas, labels, ignore=255).item() == pytest.approx(0.5)
    assert compat.lovasz_softmax_flat(vprobas, vlabels).item() == pytest.approx(0.5)
    assert compat.lovasz_hinge(torch.tensor([[[-1.0, 3.0]]]), torch.tensor([[[1, 255]]]), ignore=255).item() == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_work(dtype):
    logits = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    labels = torch.randint(0, 3, (2, 4, 4))
    binary = labels % 2

    def losses(x):
        probas, flat_binary = x.softmax(1), compat.flatten_binary_scores(x[:, 0], binary)
        yield compat.lovasz_softmax(probas, labels)
        yield compat.lovasz_softmax_flat(*compat.flatten_probas(probas, labels))
        yield compat.lovasz_softmax(x[:, 0].sigmoid(), binary, classes=[1])
        yield compat.lovasz_hinge(x[:, 0], binary)
        yield compat.lovasz_hinge_flat(*flat_binary)
        yield compat.xloss(x, labels)
        yield compat.binary_xloss(x[:, 0], binary)

    tolerances = [2e-2] * 3 + [1e-5] * 4  # probabilities are rounded to the dtype before they come, logits are not
    wide_losses = losses(logits.detach().double())
    for value, wide, tolerance in zip(losses(logits), wide_losses, tolerances, strict=True):
        assert value.item() == pytest.approx(wide.item(), rel=tolerance)
        logits.grad = None
        value.backward(retain_graph=True)
        assert logits.grad.dtype == dtype
        assert torch.any(logits.grad != 0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
def test_labels_of_other_dtypes_work(dtype):
    scores, labels = torch.randn(2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    other = labels.to(dtype)
    probas = torch.stack([-scores, scores], 1).softmax(1)
    assert compat.lovasz_hinge(scores, other, ignore=255) == compat.lovasz_hinge(scores, labels)
    flat = compat.flatten_binary_scores(scores, other, ignore=255)
    assert compat.lovasz_hinge_flat(*flat) == compat.lovasz_hinge(scores, labels, per_image=False)
    assert compat.lovasz_softmax(probas, other) == compat.lovasz_softmax(probas, labels)
    assert compat.lovasz_softmax(probas[:, 1], other, classes=[1]) == compat.lovasz_softmax(
        probas[:, 1], labels, classes=[1]
    )
    assert compat.binary_xloss(scores, other) == compat.binary_xloss(scores, labels)
    assert compat.xloss(probas, other) == compat.xloss(probas, labels)
    assert compat.iou_binary(scores > 0, other) == compat.iou_binary((scores > 0).long(), labels)


def test_a_void_label_beyond_the_dtype_of_the_labels_is_not_found_in_them():
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)  # as uint8, -1 is 255
    assert len(compat.flatten_binary_scores(torch.zeros(1, 1, 3), labels, ignore=-1)[1]) == 3
    assert len(compat.flatten_probas(torch.zeros(1, 2, 1, 3), labels, ignore=-1)[1]) == 3


def test_tensors_that_are_not_contiguous_work():
    logits = torch.randn(2, 6, 5, 3).permute(0, 3, 1, 2)
    labels = torch.randint(0, 3, (2, 5, 6)).transpose(1, 2)
    binary = labels % 2
    for ignore in (None, 2):
        a = compat.lovasz_softmax(logits.softmax(1), labels, ignore=ignore)
        assert a == compat.lovasz_softmax(logits.softmax(1).contiguous(), labels.contiguous(), ignore=ignore)
        a = compat.flatten_probas(logits, labels, ignore)
        b = compat.flatten_probas(logits.contiguous(), labels.contiguous(), ignore)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        a = compat.flatten_binary_scores(logits[:, 0], labels, ignore)
        b = compat.flatten_binary_scores(logits[:, 0].contiguous(), labels.contiguous(), ignore)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    contiguous = compat.lovasz_hinge(logits[:, 0].contiguous(), binary.contiguous())
    assert compat.lovasz_hinge(logits[:, 0], binary) == contiguous
    contiguous = compat.binary_xloss(logits[:, 0].contiguous(), binary.contiguous())
    assert compat.binary_xloss(logits[:, 0], binary) == pytest.approx(contiguous)


def test_labels_may_have_a_channel_as_the_authors_flatten_them():
    probas, labels = torch.rand(2, 3, 4, 5).softmax(1), torch.randint(0, 2, (2, 4, 5))
    assert compat.lovasz_softmax(probas, labels[:, None]) == compat.lovasz_softmax(probas, labels)
    for scores in (probas[:, 0], probas[:, :1]):
        for per_image in (True, False):
            expected = compat.lovasz_hinge(probas[:, 0], labels, per_image)
            assert compat.lovasz_hinge(scores, labels[:, None], per_image) == expected
            assert compat.lovasz_hinge(scores, labels, per_image) == expected
            expected = compat.lovasz_softmax(probas[:, 0], labels, [1], per_image)
            assert compat.lovasz_softmax(scores, labels[:, None], [1], per_image) == expected


def test_labels_in_another_order_are_still_refused():
    with pytest.raises(ValueError, match="labels must have shape"):
        compat.lovasz_softmax(torch.rand(2, 3, 4, 5).softmax(1), torch.zeros(2, 5, 4, dtype=torch.long))


def test_flipped_arrays_have_an_iou():
    preds, labels = np.array([[0, 1, 2], [0, 1, 1]]), np.array([[0, 1, 1], [0, 2, 1]])
    np.testing.assert_array_equal(compat.iou(preds[:, ::-1], labels[:, ::-1], 3), compat.iou(preds, labels, 3))
    flipped = compat.iou_binary(preds[:, ::-1] == 1, labels[:, ::-1] == 1)
    assert flipped == compat.iou_binary(preds == 1, labels == 1)


def test_classes_may_be_any_equal_string():
    probas, labels = draw(None)  # the last class is absent, so that the two names differ
    computed = "".join(["pre", "sent"])
    assert computed is not compat.lovasz_softmax.__defaults__[0]
    assert compat.lovasz_softmax(probas, labels, classes=computed) == compat.lovasz_softmax(probas, labels)
    assert compat.lovasz_softmax(probas, labels, classes="all") != compat.lovasz_softmax(probas, labels)
    flat = compat.flatten_probas(probas, labels)
    assert compat.lovasz_softmax_flat(*flat, classes=computed) == compat.lovasz_softmax_flat(*flat)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("classes", ["present", "all", [0, 1], []])
def test_a_sigmoid_output_needs_its_one_class(classes):
    with pytest.raises(ValueError, match=r"classes=\[1\]"):
        compat.lovasz_softmax(torch.rand(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), classes=classes)
    with pytest.raises(ValueError, match=r"classes=\[1\]"):
        compat.lovasz_softmax_flat(torch.rand(4, 1), torch.zeros(4, dtype=torch.long), classes=classes)


def test_what_the_authors_take_silently_is_named():
    probas, labels = draw(255)
    with pytest.raises(ValueError, match="label 255"):
        compat.lovasz_softmax(probas, labels)
    with pytest.raises(ValueError, match=r"no probabilities in \[0, 1\]"):
        compat.lovasz_softmax(3 * probas, labels, ignore=255)
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        compat.lovasz_hinge(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match="label 255"):
        compat.binary_xloss(torch.ones(1, 2, 2), torch.tensor([[[0, 1], [255, 255]]]))


def test_errors_speak_of_arguments_that_these_functions_have():
    probas, labels, masks = torch.rand(2, 3, 4, 4).softmax(1), torch.full((2, 4, 4), 255), torch.zeros(2, 4, 4).long()
    said = []
    for loss, error in [
        (lambda: compat.lovasz_softmax(probas, labels), ValueError),
        (lambda: compat.lovasz_softmax(3 * probas, masks), ValueError),
        (lambda: compat.lovasz_softmax(3 * probas[:, 0], masks, [1]), ValueError),
        (lambda: compat.lovasz_softmax_flat(probas[0, :, 0].T, labels[0, 0]), ValueError),
        (lambda: compat.lovasz_softmax(probas, masks, ignore=255.0), TypeError),
        (lambda: compat.lovasz_hinge(probas[:, 0], labels), ValueError),
        (lambda: compat.lovasz_hinge(probas[:, 0], masks[:, :2]), ValueError),
        (lambda: compat.lovasz_hinge(probas[:, 0], masks, ignore=255.0), TypeError),
        (lambda: compat.binary_xloss(probas[:, 0], labels), ValueError),
    ]:
        with pytest.raises(error) as raised:
            loss()
        said.append(str(raised.value))
        assert not re.search(r"ignore_index|from_logits|\binput\b|\btarget\b", said[-1]), said[-1]
    assert "labels holds the label 255" in said[0]
    assert "pass ignore=255" in said[0]
    assert said[1].startswith("probas holds")
    assert said[1].endswith("no probabilities in [0, 1]; apply softmax or sigmoid first")
    assert said[4] == "ignore must be an integer or None, got 255.0"
    assert said[6].startswith("labels must have shape (2, 4, 4) to match logits (2, 4, 4)")


@pytest.mark.parametrize(
    ("name", "function", "second"),
    [
        ("probas", compat.lovasz_softmax, "labels"),
        ("probas", compat.lovasz_softmax_flat, "labels"),
        ("probas", compat.flatten_probas, "labels"),
        ("logits", compat.lovasz_hinge, "labels"),
        ("logits", compat.lovasz_hinge_flat, "labels"),
        ("logits", compat.binary_xloss, "labels"),
        ("logits", compat.xloss, "labels"),
        ("scores", compat.flatten_binary_scores, "labels"),
        ("gt_sorted", compat.lovasz_grad, None),
    ],
)
def test_what_is_no_tensor_is_named(name, function, second):
    array, tensor = np.zeros((1, 2, 3)), torch.zeros(1, 2, 3)
    with pytest.raises(TypeError, match=rf"{name} must be a torch\.Tensor, got ndarray; wrap it with torch\.as_tensor"):
        function(array, *([tensor] if second else []))
    if second:
        with pytest.raises(TypeError, match=rf"{second} must be a torch\.Tensor, got NoneType"):
            function(tensor, None)


@pytest.mark.parametrize(("only_present", "remedy"), [(True, "present"), (False, "all")])
def test_only_present_of_the_authors_first_version_is_known(only_present, remedy):
    with pytest.raises(TypeError, match=f'only_present.*classes="{remedy}"'):
        compat.lovasz_softmax(torch.rand(2, 3, 4, 4).softmax(1), torch.zeros(2, 4, 4).long(), only_present)
    with pytest.raises(ValueError, match=rf"name it, classes=\[1\]; got {only_present}"):
        compat.lovasz_softmax(torch.rand(2, 4, 4), torch.zeros(2, 4, 4).long(), only_present)
