"""Bad input to the losses: each fault has its own error, which names the argument, what came and the remedy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lovasz.compat
from lovasz import (
    LovaszSoftmaxLoss,
    lovasz_cross_entropy,
    lovasz_extension,
    lovasz_hinge,
    lovasz_sigmoid,
    lovasz_softmax,
)
from lovasz.baselines import hinge_loss, soft_jaccard_loss
from lovasz.choices import SMALL
from lovasz.kernels import choose, numba_problem

LOGITS = torch.zeros(2, 3, 4, 5)
LABELS = torch.zeros(2, 4, 5, dtype=torch.long)
SCORES = torch.zeros(2, 4, 5)

FAULTS = {
    "not a tensor": (lambda: lovasz_softmax([[1.0]], LABELS), TypeError, "input must be a torch.Tensor, got list"),
    "integer logits": (lambda: lovasz_softmax(LOGITS.long(), LABELS), TypeError, "int64.*input.float()"),
    "float target": (lambda: lovasz_softmax(LOGITS, LABELS.float()), TypeError, "target.*float32.*target.long()"),
    "float binary target": (lambda: lovasz_hinge(SCORES, SCORES), TypeError, "target.*float32.*target.long()"),
    "one dimension": (lambda: lovasz_softmax(torch.zeros(4), LABELS), ValueError, r"\(N, C, \*spatial\).*\(4,\)"),
    "other size": (lambda: lovasz_softmax(LOGITS, LABELS[:, :3]), ValueError, r"\(2, 4, 5\).*got \(2, 3, 5\)"),
    "a channel too many": (lambda: lovasz_softmax(LOGITS, LABELS[:, None]), ValueError, r"squeeze\(1\)"),
    "one-hot target": (lambda: lovasz_softmax(LOGITS, LOGITS.long()), ValueError, r"argmax\(1\)"),
    "channels last": (
        lambda: lovasz_softmax(LOGITS.permute(0, 2, 3, 1), LABELS),
        ValueError,
        r"input\.movedim\(-1, 1\)",
    ),
    "points, channels last": (
        lambda: lovasz_softmax(torch.zeros(2, 7, 3), torch.zeros(2, 7).long()),
        ValueError,
        r"input\.movedim\(-1, 1\)",
    ),
    "one image without a batch": (
        lambda: lovasz_softmax(LOGITS[0], LABELS[0]),
        ValueError,
        r"without a batch give input\[None\] and target\[None\]",
    ),
    "one mask without a batch": (
        lambda: lovasz_hinge(SCORES[:1], LABELS[0]),
        ValueError,
        r"without a batch give target\[None\]",
    ),
    "one-hot target, channels last": (
        lambda: lovasz_softmax(LOGITS, LOGITS.long().movedim(1, -1)),
        ValueError,
        r"target\.argmax\(-1\)",
    ),
    "small logits": (
        lambda: lovasz_softmax(LOGITS, torch.zeros(2, 8, 10).long()),
        ValueError,
        r'F\.interpolate\(input, \(8, 10\), mode="bilinear"\)',
    ),
    "small scores of volumes": (
        lambda: lovasz_hinge(torch.zeros(2, 1, 2, 2, 2), torch.zeros(2, 1, 4, 4, 4).long()),
        ValueError,
        r'F\.interpolate\(input, \(4, 4, 4\), mode="trilinear"\)',
    ),
    "two channels for a binary loss": (
        lambda: lovasz_hinge(LOGITS[:, :2], LABELS),
        ValueError,
        r"2 channels.*lovasz_softmax.*input\[:, 1:\] - input\[:, :1\]",
    ),
    "channels for a binary loss": (
        lambda: lovasz_sigmoid(LOGITS, LABELS[:, None]),
        ValueError,
        "3 channels.*for the 3",
    ),
    "a dict of outputs": (lambda: lovasz_softmax({"aux": LOGITS, "out": LOGITS}, LABELS), TypeError, r"input\['out'\]"),
    "another dict of outputs": (lambda: lovasz_softmax({"a": LOGITS}, LABELS), TypeError, r"input\['a'\]; it has a"),
    "an output of transformers": (
        lambda: lovasz_softmax(SimpleNamespace(logits=LOGITS), LABELS),
        TypeError,
        r"pass input\.logits",
    ),
    "several outputs": (lambda: lovasz_softmax([LOGITS, LOGITS], LABELS), TypeError, "add up the losses of each"),
    "an array": (lambda: lovasz_softmax(LOGITS.numpy(), LABELS), TypeError, r"torch\.as_tensor"),
    "masks divided by 255": (
        lambda: lovasz_softmax(LOGITS, (LABELS + 1) / 255),
        TypeError,
        "0.00392157, which is no label.*without dividing",
    ),
    "soft labels": (lambda: lovasz_hinge(SCORES, SCORES + 0.3), TypeError, "holds 0.3.*soft labels are not taken"),
    "foreground as 255": (
        lambda: lovasz_hinge(SCORES, LABELS + 255),
        ValueError,
        r"where 255 is the foreground use \(target > 0\)\.long\(\)",
    ),
    "background as -1": (
        lambda: lovasz_sigmoid(SCORES, LABELS - 1),
        ValueError,
        r"where -1 is the background use \(target > 0\)\.long\(\)",
    ),
    "empty": (lambda: lovasz_softmax(LOGITS[:0], LABELS[:0]), ValueError, "empty.*skip empty batches"),
    "empty binary": (lambda: lovasz_hinge(SCORES[:0], LABELS[:0]), ValueError, "empty"),
    "one class": (lambda: lovasz_softmax(LOGITS[:, :1], LABELS), ValueError, "one channel.*lovasz_sigmoid"),
    "label too large": (lambda: lovasz_softmax(LOGITS, LABELS + 3), ValueError, "label 3.*3 classes.*ignore_index=3"),
    "negative label": (lambda: lovasz_softmax(LOGITS, LABELS - 1), ValueError, "label -1.*3 classes"),
    "label too large for exact": (
        lambda: lovasz_softmax(LOGITS, LABELS + 3, method="exact"),
        ValueError,
        "label 3.*3 classes",
    ),
    "binary label": (
        lambda: lovasz_sigmoid(SCORES, LABELS + 255),
        ValueError,
        "label 255.*2 classes.*ignore_index=255",
    ),
    "uint8 does not wrap": (
        lambda: lovasz_softmax(LOGITS, (LABELS + 255).byte(), ignore_index=-1),
        ValueError,
        "label 255",
    ),
    "probabilities": (lambda: lovasz_softmax(LOGITS + 2, LABELS, from_logits=False), ValueError, r"2.*\[0, 1\]"),
    "binary probabilities": (
        lambda: lovasz_sigmoid(SCORES - 1, LABELS, from_logits=False),
        ValueError,
        r"-1.*\[0, 1\].*from_logits=True",
    ),
    "unknown classes": (lambda: lovasz_softmax(LOGITS, LABELS, classes="some"), ValueError, "\"present\".*'some'"),
    "class beyond": (lambda: lovasz_softmax(LOGITS, LABELS, classes=[3]), ValueError, "class 3.*3 classes"),
    "mask of classes": (lambda: lovasz_softmax(LOGITS, LABELS, classes=[True, False]), TypeError, "class indices"),
    "NumPy's mask": (lambda: lovasz_softmax(LOGITS, LABELS, classes=np.array([True])), TypeError, "class indices"),
    "torch's mask": (
        lambda: lovasz_softmax(LOGITS, LABELS, classes=torch.tensor([False, True])),
        TypeError,
        "class indices",
    ),
    "class twice": (lambda: lovasz_softmax(LOGITS, LABELS, classes=[1, 1]), ValueError, "twice"),
    "no class": (lambda: lovasz_softmax(LOGITS, LABELS, classes=[]), ValueError, "empty list"),
    "fractions of classes": (lambda: lovasz_softmax(LOGITS, LABELS, classes=[0.9, 1.9]), TypeError, r"\[0.9, 1.9\]"),
    "names of classes": (
        lambda: lovasz_softmax(LOGITS, LABELS, classes=["0", "1"]),
        TypeError,
        "list of class indices",
    ),
    "classes of a binary input": (
        lambda: lovasz_sigmoid(SCORES, LABELS, classes=torch.tensor([0, 1])),
        TypeError,
        "belong to multilabel=True",
    ),
    "float8 logits": (lambda: lovasz_softmax(LOGITS.to(torch.float8_e5m2), LABELS), TypeError, r"float8.*\.float\(\)"),
    "weight of a module": (lambda: LovaszSoftmaxLoss(weight=[1, float("nan")]), ValueError, "weight must be finite"),
    "label of more than 64 bits": (lambda: lovasz_softmax(LOGITS, LABELS, ignore_index=2**63), ValueError, "64 bits"),
    "classes of no kind": (lambda: lovasz_softmax(LOGITS, LABELS, classes=1.5), TypeError, "1.5"),
    "one weight": (lambda: lovasz_softmax(LOGITS, LABELS, weight=2.0), TypeError, "list of numbers.*got 2.0"),
    "weights by name": (
        lambda: lovasz_softmax(LOGITS, LABELS, weight={0: 1.0, 1: 2.0, 2: 1.0}),
        TypeError,
        "list of numbers",
    ),
    "weights in no order": (lambda: LovaszSoftmaxLoss(weight={1.0, 2.0, 3.0}), TypeError, "list of numbers"),
    "weights by name, elsewhere": (
        lambda: lovasz_softmax(LOGITS.to("meta"), LABELS.to("meta"), weight={0: 1.0, 1: 2.0, 2: 1.0}),
        TypeError,
        "list of numbers.*got {0: 1.0",
    ),
    "text for weights": (lambda: lovasz_softmax(LOGITS, LABELS, weight="abc"), TypeError, "list of numbers.*'abc'"),
    "texts for weights": (lambda: LovaszSoftmaxLoss(weight=["1", "2"]), TypeError, "list of numbers"),
    "lists for weights": (lambda: lovasz_softmax(LOGITS, LABELS, weight=[[1], [2, 3]]), TypeError, "list of numbers"),
    "complex weights": (
        lambda: lovasz_softmax(LOGITS, LABELS, weight=torch.ones(3, dtype=torch.complex64)),
        TypeError,
        "list of numbers or a tensor",
    ),
    "weight of other length": (lambda: lovasz_softmax(LOGITS, LABELS, weight=[1, 2]), ValueError, r"\(3,\).*\(2,\)"),
    "negative weight": (lambda: lovasz_softmax(LOGITS, LABELS, weight=[1, 2, -1]), ValueError, "not negative"),
    "float ignore_index": (
        lambda: lovasz_softmax(LOGITS, LABELS, ignore_index=255.0),
        TypeError,
        "ignore_index.*255.0",
    ),
    "a word for from_logits": (
        lambda: lovasz_softmax(LOGITS, LABELS, from_logits="no"),
        TypeError,
        "from_logits must be True or False, got 'no'",
    ),
    "a word for per_image": (
        lambda: lovasz_cross_entropy(LOGITS, LABELS, per_image="no"),
        TypeError,
        "per_image must be True or False, got 'no'",
    ),
    "a number for per_image": (lambda: lovasz_hinge(SCORES, LABELS, per_image=0), TypeError, "per_image.*got 0"),
    "a word for multilabel": (lambda: lovasz_sigmoid(SCORES, LABELS, multilabel="no"), TypeError, "multilabel.*'no'"),
    "a word for a sigmoid's from_logits": (
        lambda: lovasz_sigmoid(SCORES, LABELS, from_logits="no"),
        TypeError,
        "from_logits.*'no'",
    ),
    "a tensor for per_image": (
        lambda: lovasz_sigmoid(SCORES, LABELS, per_image=torch.tensor(False)),
        TypeError,
        "per_image.*tensor",
    ),
    "a word for a baseline's per_image": (
        lambda: hinge_loss(SCORES, LABELS, per_image="no"),
        TypeError,
        "per_image.*'no'",
    ),
    "a word for a baseline's from_logits": (
        lambda: soft_jaccard_loss(LOGITS, LABELS, from_logits="no"),
        TypeError,
        "from_logits.*'no'",
    ),
    "per_image of flat pixels": (
        lambda: lovasz_softmax(LOGITS.view(-1, 3), LABELS.flatten(), per_image=True),
        ValueError,
        "per_image",
    ),
    "unknown method": (lambda: lovasz_softmax(LOGITS, LABELS, method="fast"), ValueError, "'binned', 'exact'.*'fast'"),
    "unknown impl": (lambda: lovasz_softmax(LOGITS, LABELS, impl="cuda"), ValueError, "impl.*'cuda'"),
    # Without triton it says what to install, with it which device it needs.
    "impl that cannot run here": (
        lambda: lovasz_softmax(LOGITS, LABELS, impl="triton"),
        (ImportError, ValueError),
        "impl='triton'",
    ),
    "impl that cannot sort": (
        lambda: lovasz_softmax(LOGITS, LABELS, method="exact", impl="triton"),
        ValueError,
        "impl='triton'.*method='exact'",
    ),
    "unknown activation": (lambda: lovasz_hinge(SCORES, LABELS, activation="gelu"), ValueError, "activation.*'gelu'"),
    "ambiguous binary input": (
        lambda: lovasz_hinge(LOGITS, LOGITS.long()),
        ValueError,
        r"ambiguous.*multilabel=True.*unsqueeze\(1\)",
    ),
    "scalar": (lambda: lovasz_hinge(torch.zeros(()), torch.zeros((), dtype=torch.long)), ValueError, "scalar"),
    "multi-label of other shape": (
        lambda: lovasz_sigmoid(LOGITS, LABELS, multilabel=True),
        ValueError,
        "each channel is its own 0/1 mask",
    ),
    "weight without multilabel": (lambda: lovasz_sigmoid(SCORES, LABELS, weight=[1.0]), TypeError, "multilabel=True"),
    "ignore_index as text": (lambda: lovasz_softmax(LOGITS, LABELS, ignore_index="255"), TypeError, "integer.*'255'"),
    "ignore_index as a flag": (lambda: lovasz_hinge(SCORES, LABELS, ignore_index=True), TypeError, "integer.*True"),
    "a weight to be learnt": (
        lambda: lovasz_cross_entropy(LOGITS, LABELS, lovasz_weight=torch.tensor(0.5)),
        TypeError,
        "lovasz_weight must be a number.*take the losses apart",
    ),
    "label_smoothing as text": (
        lambda: lovasz_cross_entropy(LOGITS, LABELS, label_smoothing="0.1"),
        TypeError,
        "label_smoothing must be a number, got '0.1'",
    ),
    "class weights to be learnt": (
        lambda: lovasz_softmax(LOGITS, LABELS, weight=torch.ones(3, requires_grad=True)),
        ValueError,
        r"weight requires a gradient.*detach\(\)",
    ),
    "a column of pixels": (
        lambda: lovasz_hinge(torch.zeros(9, 1), torch.zeros(9, 1, dtype=torch.long)),
        ValueError,
        r"9 images of one pixel.*input.squeeze\(1\)",
    ),
    "errors and foreground differ": (
        lambda: lovasz_extension(torch.zeros(3), torch.zeros(4).bool()),
        ValueError,
        r"\(3,\).*\(4,\)",
    ),
    "unknown set function": (
        lambda: lovasz_extension(torch.zeros(3), torch.zeros(3).bool(), set_function="iou"),
        ValueError,
        "'iou'",
    ),
    "set function that is not zero without errors": (
        lambda: lovasz_extension(torch.zeros(3), torch.zeros(3).bool(), set_function=lambda fn, fp, n: fn + fp + 1),
        ValueError,
        r"f\(0, 0, n\) = 0",
    ),
    "set function that is no function": (
        lambda: lovasz_extension(torch.zeros(3), torch.zeros(3).bool(), set_function=3),
        TypeError,
        "int",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_says_what_is_wrong_and_what_to_do(fault: str) -> None:
    call, error, message = FAULTS[fault]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("method", ["exact", "binned"])
def test_numpys_true_and_false_are_flags(method: str) -> None:
    logits, labels = torch.randn(2, 3, 80, 80), torch.randint(0, 3, (2, 80, 80))
    assert logits.numel() > SMALL
    for value in (True, False):
        of_numpy = lovasz_softmax(logits, labels, per_image=np.bool_(value), method=method)
        assert of_numpy == lovasz_softmax(logits, labels, per_image=value, method=method)
    assert lovasz_softmax(logits, labels, from_logits=np.bool_(True)) == lovasz_softmax(logits, labels)


@pytest.mark.parametrize("side", [8, 16, 17])
def test_small_images_with_losses_of_their_own_are_sorted(side: int) -> None:
    """Thousands of them would have as many tables of bins, whatever their size."""
    images, device = 2000, torch.device("cpu")
    errors = images * side * side
    for dtype in (torch.float32, torch.float64):
        choice = choose("binned", "auto", device, errors, image=side * side, dtype=dtype).kernel
        quick = dtype == torch.float32 and not numba_problem()
        assert choice == ("sorted" if quick else "exact" if numba_problem() or side <= 16 else "cpu")
    assert choose("binned", "auto", device, errors).kernel not in ("exact", "sorted")
    assert choose("binned", "torch", device, errors, image=side * side).kernel == "portable"  # as asked
    scores, masks = torch.randn(images, side, side), torch.randint(0, 2, (images, side, side))
    assert torch.allclose(lovasz_hinge(scores, masks), lovasz_hinge(scores, masks, method="exact"), rtol=1e-4)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_numpys_integers_are_void_labels(integer: type) -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 2, (2, 4, 5))
    labels[:, 0] = 255
    for loss, scores in ((lovasz_softmax, logits), (lovasz_hinge, logits[:, 0]), (soft_jaccard_loss, logits)):
        assert loss(scores, labels, ignore_index=integer(255)) == loss(scores, labels, ignore_index=255)


def test_a_column_of_pixels_is_one_set_without_per_image() -> None:
    scores, labels = torch.randn(9, 1), torch.randint(0, 2, (9, 1))
    flat = lovasz_hinge(scores[:, 0], labels[:, 0])
    assert lovasz_hinge(scores, labels, per_image=False) == flat
    assert lovasz_sigmoid(scores, labels) == lovasz_sigmoid(scores[:, 0], labels[:, 0])
    one = lovasz_hinge(scores[:1], labels[:1])  # one pixel is one pixel, either way
    assert one == lovasz_hinge(scores[0], labels[0])


def test_the_authors_names_take_what_is_true_or_false_as_theirs_do() -> None:
    scores, labels = torch.randn(2, 4, 5), torch.randint(0, 2, (2, 4, 5))
    for value in (0, 1):
        assert lovasz.compat.lovasz_hinge(scores, labels, per_image=value) == lovasz.compat.lovasz_hinge(
            scores, labels, per_image=bool(value)
        )


@pytest.mark.parametrize("name", ["meta"])
def test_tensors_on_two_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"input is on cpu but target is on meta.*\.to\(device\)"):
        lovasz_softmax(LOGITS, LABELS.to(name))


@pytest.mark.parametrize("impl", ["torch", *([] if numba_problem() else ["numba"])])
def test_a_stray_label_is_found_by_every_kernel(impl: str) -> None:
    logits, labels = torch.zeros(1, 3, 100, 100), torch.zeros(1, 100, 100, dtype=torch.long)
    labels[0, 99, 99] = 7
    with pytest.raises(ValueError, match="label 7"):
        lovasz_softmax(logits, labels, impl=impl)
    with pytest.raises(ValueError, match="label 7"):
        lovasz_hinge(logits[:, 0], labels, impl=impl)
    with pytest.raises(ValueError, match="label 7"):
        lovasz_sigmoid(logits[:, :1], labels, impl=impl)


@pytest.mark.parametrize("impl", ["torch", *([] if numba_problem() else ["numba"])])
def test_a_stray_label_is_found_in_channels_that_do_not_count(impl: str) -> None:
    masks = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    masks[0, 2, 0, 0] = 7
    with pytest.raises(ValueError, match="label 7"):
        lovasz_sigmoid(torch.zeros(masks.shape), masks, multilabel=True, classes=[0], impl=impl)


@pytest.mark.parametrize("loss", [lovasz_softmax, lovasz_sigmoid, soft_jaccard_loss, lovasz.compat.lovasz_softmax])
def test_void_pixels_need_hold_no_probabilities(loss) -> None:
    classes = 1 if loss is lovasz_sigmoid else 3
    probabilities = torch.rand(2, classes, 4, 5).div(classes)
    target = torch.randint(0, max(2, classes), (2, 4, 5), dtype=torch.uint8)
    target[:, :2] = 255
    void = {"ignore": 255} if loss is lovasz.compat.lovasz_softmax else {"ignore_index": 255, "from_logits": False}
    expected = loss(probabilities, target, **void)
    probabilities[:, :, :2] = -1
    assert loss(probabilities, target, **void) == expected
    probabilities[:, :, 2] = -1
    with pytest.raises(ValueError, match=r"(input|probas) holds -1.*\[0, 1\]"):
        loss(probabilities, target, **void)


def test_rounding_beyond_one_is_not_refused() -> None:
    p = torch.full((1, 2, 2, 2), 0.5)
    p[0, 0] += 0.5 + 2**-22
    p[0, 1] = -(2**-24)
    assert lovasz_softmax(p, torch.zeros(1, 2, 2, dtype=torch.long), from_logits=False).isfinite()


def test_the_choice_of_kernel_gives_its_reason() -> None:
    cpu = torch.device("cpu")
    assert choose("binned", "auto", cpu, 100).kernel == "exact"
    assert "small" in choose("binned", "auto", cpu, 100).reason
    assert choose("binned", "auto", cpu, 10**7).kernel == ("portable" if numba_problem() else "cpu")
    assert choose("binned", "auto", torch.device("cuda"), 10**7).kernel == "portable"
    assert choose("exact", "auto", cpu, 10**7).kernel == ("exact" if numba_problem() else "sorted")
    with pytest.raises(ValueError, match="needs tensors on the CPU, got cuda"):
        choose("binned", "numba", torch.device("cuda"), 10**7)


def test_numba_that_cannot_be_imported_is_told_and_passed_over(monkeypatch) -> None:
    def refuse(name):
        raise ImportError("Numba needs NumPy 2.0 or less")

    pytest.importorskip("numba")
    numba_problem.cache_clear()
    try:
        with monkeypatch.context() as patched:
            patched.setattr("lovasz.kernels.importlib.import_module", refuse)
            assert "cannot be imported (Numba needs NumPy 2.0 or less)" in numba_problem()
        assert choose("binned", "auto", torch.device("cpu"), 10**7).kernel == "portable"
        with pytest.raises(ImportError, match="Numba needs NumPy"):
            choose("binned", "numba", torch.device("cpu"), 10**7)
    finally:
        numba_problem.cache_clear()


def test_numba_that_is_missing_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setattr("lovasz.kernels.numba_problem", lambda: 'numba is not installed; pip install "lovasz[cpu]"')
    with pytest.raises(ImportError, match=r"lovasz\[cpu\]"):
        choose("binned", "numba", torch.device("cpu"), 10**7)
