"""The hinge loss and the soft Jaccard loss against loops over pixels in plain Python."""

import math

import pytest
import torch

from lovasz.baselines import HingeLoss, SoftJaccardLoss, hinge_loss, soft_jaccard_loss
from lovasz.functional import lovasz_extension

LOSSES = [hinge_loss, soft_jaccard_loss]


def images_of(input, target, ignore_index):
    """For every image the list of (scores of the classes, label) of its valid pixels, as Python numbers."""
    if input.dim() == target.dim():
        input = input.unsqueeze(1)  # one class
    images = []
    for scores, labels in zip(input, target, strict=True):
        scores, labels = scores.flatten(1).t().tolist(), labels.flatten().tolist()
        images.append([(s, y) for s, y in zip(scores, labels, strict=True) if y != ignore_index])
    return images


def oracle_hinge(input, target, per_image, ignore_index):
    def mean(pixels):
        terms = []
        for scores, label in pixels:
            if len(scores) == 1:
                terms.append(max(0.0, 1 - scores[0] * (1 if label == 1 else -1)))
            else:
                terms += [max(0.0, 1 - s * (1 if c == label else -1)) for c, s in enumerate(scores)]
        return sum(terms) / len(terms) if terms else 0.0

    images = images_of(input, target, ignore_index)
    if per_image:
        return sum(mean(image) for image in images) / len(images)
    return mean([pixel for image in images for pixel in image])


def oracle_soft_jaccard(probabilities, target, classes, per_image, ignore_index):
    def score(pixels):
        channels = probabilities.shape[1] if probabilities.dim() > target.dim() else 1
        losses = []
        for c in range(channels) if isinstance(classes, str) else classes:
            truth = [1.0 if y == (c if channels > 1 else 1) else 0.0 for _, y in pixels]
            p = [scores[c] for scores, _ in pixels]
            if channels > 1 and classes == "present" and not any(truth):
                continue
            intersection = math.fsum(a * b for a, b in zip(p, truth, strict=True))
            union = math.fsum(a + b - a * b for a, b in zip(p, truth, strict=True))
            losses.append(1 - intersection / union if union else 0.0)
        return sum(losses) / len(losses) if losses else 0.0

    images = images_of(probabilities, target, ignore_index)
    if per_image:
        return sum(score(image) for image in images) / len(images)
    return score([pixel for image in images for pixel in image])


def draw_binary(void):
    logits = 2 * torch.randn(3, 4, 5, dtype=torch.float64)
    target = torch.randint(0, 2, (3, 4, 5))
    target[1] = 0  # an image without foreground
    if void is not None:
        target[torch.rand(3, 4, 5) < 0.3] = void
        target[2] = void  # an image that is all void
    return logits, target


def draw_multiclass(void):
    logits = 2 * torch.randn(3, 5, 4, 5, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 4, 5))  # class 4 is absent
    target[1] = 2
    if void is not None:
        target[torch.rand(3, 4, 5) < 0.3] = void
        target[2] = void
    return logits, target


@pytest.mark.parametrize("void", [None, 255, -1])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("draw", [draw_binary, draw_multiclass])
def test_hinge_loss_is_the_mean_over_pixels(draw, per_image, void):
    logits, target = draw(void)
    loss = hinge_loss(logits, target, per_image=per_image, ignore_index=void)
    assert loss.item() == pytest.approx(oracle_hinge(logits, target, per_image, void), rel=1e-12)


@pytest.mark.parametrize("void", [None, 255, -1])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_binary_soft_jaccard_is_its_formula(void, per_image, from_logits):
    logits, target = draw_binary(void)
    probabilities = logits.sigmoid()
    loss = soft_jaccard_loss(
        logits if from_logits else probabilities,
        target,
        from_logits=from_logits,
        per_image=per_image,
        ignore_index=void,
    )
    expected = oracle_soft_jaccard(probabilities, target, "present", per_image, void)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("void", [None, 255, -1])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all", [2], [4, 0]])
@pytest.mark.parametrize("from_logits", [False, True])
def test_soft_jaccard_of_classes_is_its_formula(void, per_image, classes, from_logits):
    logits, target = draw_multiclass(void)
    probabilities = logits.softmax(1)
    loss = soft_jaccard_loss(
        logits if from_logits else probabilities,
        target,
        from_logits=from_logits,
        classes=classes,
        per_image=per_image,
        ignore_index=void,
    )
    expected = oracle_soft_jaccard(probabilities, target, classes, per_image, void)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_hinge_loss_is_the_lovasz_extension_of_the_hamming_loss():
    logits, target = draw_binary(None)
    errors = torch.relu(1 - logits * (2 * target - 1))
    extension = lovasz_extension(errors.flatten(), target.flatten(), set_function="hamming")
    assert hinge_loss(logits, target).item() == pytest.approx(extension.item(), rel=1e-6)


def test_soft_jaccard_of_hard_predictions_is_one_minus_the_iou():
    target = torch.randint(0, 3, (2, 6, 6))
    preds = torch.where(torch.rand(2, 6, 6) < 0.6, target, torch.randint(0, 3, (2, 6, 6)))
    probabilities = torch.nn.functional.one_hot(preds, 3).movedim(-1, 1).double()
    ious = [((preds == c) & (target == c)).sum().item() / ((preds == c) | (target == c)).sum().item() for c in range(3)]
    loss = soft_jaccard_loss(probabilities, target, from_logits=False)
    assert loss.item() == pytest.approx(1 - sum(ious) / 3, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("draw", [draw_binary, draw_multiclass])
@pytest.mark.parametrize("per_image", [False, True])
def test_gradients_are_those_of_finite_differences(loss, draw, per_image):
    logits, target = draw(255)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, per_image=per_image, ignore_index=255), (logits,))
    loss(logits, target, per_image=per_image, ignore_index=255).backward()
    void = target == 255
    void = void if logits.dim() == target.dim() else void.unsqueeze(1).expand_as(logits)
    assert torch.all(logits.grad[void] == 0)
    assert torch.any(logits.grad[~void] != 0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_image", [False, True])
def test_the_channel_of_a_binary_input_may_be_kept_or_dropped(loss, per_image):
    logits, target = draw_binary(None)
    expected = loss(logits, target, per_image=per_image)
    assert loss(logits.unsqueeze(1), target, per_image=per_image) == expected
    assert loss(logits.unsqueeze(1), target.unsqueeze(1), per_image=per_image) == expected
    assert loss(logits, target.bool(), per_image=per_image) == expected
    assert loss(logits, target.to(torch.uint8), per_image=per_image) == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_flat_lists_of_pixels_and_volumes_are_like_images(loss):
    logits, target = draw_multiclass(None)
    expected = loss(logits, target).item()
    flat = loss(logits.permute(0, 2, 3, 1).reshape(-1, 5), target.reshape(-1)).item()
    assert flat == pytest.approx(expected, rel=1e-12)
    assert loss(logits.unsqueeze(2), target.unsqueeze(1)).item() == pytest.approx(expected, rel=1e-12)
    logits, target = draw_binary(None)
    assert loss(logits.flatten(), target.flatten()).item() == pytest.approx(loss(logits, target).item(), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 3, 3), (2, 3, 3)), ((2, 1, 3, 3), (2, 3, 3)), ((2, 4, 3, 3), (2, 3, 3))]
)
def test_all_void_is_a_scalar_zero_with_zero_gradient(loss, per_image, shape, labels):
    logits = torch.full(shape, math.nan, requires_grad=True)  # void pixels are not read
    value = loss(logits, torch.full(labels, 255), per_image=per_image, ignore_index=255)
    assert value.shape == ()
    assert value.item() == 0
    value.backward()
    assert torch.all(logits.grad == 0)


def test_no_class_to_average_over_is_zero():
    value = soft_jaccard_loss(torch.zeros(1, 3, 2, requires_grad=True), torch.full((1, 2), -7), ignore_index=-7)
    value.backward()
    assert value.item() == 0


def test_nothing_predicted_where_nothing_is_true_is_no_error():
    assert soft_jaccard_loss(torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.long), from_logits=False) == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_works(loss, dtype):
    for draw in (draw_binary, draw_multiclass):
        logits, target = draw(255)
        logits = logits.to(dtype).requires_grad_()
        value = loss(logits, target, ignore_index=255)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.item() == pytest.approx(loss(logits.detach().double(), target, ignore_index=255).item(), rel=1e-5)
        value.backward()
        assert logits.grad.dtype == dtype


@pytest.mark.parametrize("loss", LOSSES)
def test_a_nan_score_of_a_valid_pixel_is_not_hidden(loss):
    for draw in (draw_binary, draw_multiclass):
        logits, target = draw(None)
        logits.view(-1)[7] = math.nan
        assert loss(logits, target).isnan()
    logits[:] = math.nan
    assert soft_jaccard_loss(logits, target, classes=[4]).isnan()  # class 4 has no true pixel


@pytest.mark.parametrize("loss", LOSSES)
def test_a_void_label_beyond_the_dtype_of_the_target_is_not_found_in_it(loss):
    target = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    with pytest.raises(ValueError, match="label 255"):
        loss(torch.zeros(1, 3), target, ignore_index=-1)  # as uint8, -1 is 255


def test_the_modules_are_the_functions():
    logits, target = draw_multiclass(255)
    assert HingeLoss(per_image=True, ignore_index=255)(logits, target) == hinge_loss(
        logits, target, per_image=True, ignore_index=255
    )
    arguments = {"from_logits": False, "classes": [1, 2], "per_image": True, "ignore_index": 255}
    probabilities = logits.softmax(1)
    module = SoftJaccardLoss(**arguments)
    assert module(probabilities, target) == soft_jaccard_loss(probabilities, target, **arguments)
    assert "classes=(1, 2)" in repr(module)
    assert "ignore_index=255" in repr(HingeLoss(ignore_index=255))


@pytest.mark.parametrize("module", [HingeLoss, SoftJaccardLoss])
def test_the_modules_refuse_what_has_no_meaning_before_any_data_are_loaded(module):
    with pytest.raises(TypeError, match="ignore_index must be an integer or None, got 'x'"):
        module(ignore_index="x")
    if module is SoftJaccardLoss:
        with pytest.raises(ValueError, match="'presnt'"):
            module(classes="presnt")


ZEROS = torch.zeros(2, 3, 3, dtype=torch.long)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("input", "target", "kind", "message"),
    [
        (torch.zeros(2, 4, 3, 3), ZEROS + 4, ValueError, "label 4, but there are 4 classes"),
        (torch.zeros(2, 3, 3), ZEROS + 2, ValueError, "label 2, but there are 2 classes"),
        (torch.zeros(2, 3, 3), ZEROS - 1, ValueError, "label -1"),
        (ZEROS, ZEROS, TypeError, "input must be floating-point"),
        (torch.zeros(2, 3, 3), ZEROS.float(), TypeError, r"target must hold integer labels.*target\.long\(\)"),
        (torch.zeros(2, 3, 3), ZEROS[:, :2], ValueError, r"target must have shape \(2, 3, 3\)"),
        (torch.zeros(2, 4, 3, 3), ZEROS[:, :2], ValueError, r"target must have shape \(2, 3, 3\)"),
        (torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3, dtype=torch.long), ValueError, "not one-hot"),
        (torch.zeros(2, 4, 3, 3), ZEROS.unsqueeze(1), ValueError, "drop the channel"),
        (torch.zeros(0, 3, 3), ZEROS[:0], ValueError, "input is empty"),
        (torch.tensor(1.0), torch.tensor(1), ValueError, "scalar"),
    ],
)
def test_bad_input_is_named(loss, input, target, kind, message):
    with pytest.raises(kind, match=message):
        loss(input, target)


def test_bad_arguments_are_named():
    input, target = torch.zeros(2, 4, 3, 3), ZEROS
    with pytest.raises(ValueError, match="promises probabilities"):
        soft_jaccard_loss(input - 1, target, from_logits=False)
    with pytest.raises(ValueError, match='"present", "all" or a list'):
        soft_jaccard_loss(input, target, classes="some")
    with pytest.raises(TypeError, match="one class, the foreground"):
        soft_jaccard_loss(input[:, 0], target, classes="all")
    with pytest.raises(ValueError, match="per_image=True needs images"):
        hinge_loss(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long), per_image=True)
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        hinge_loss(input, target, ignore_index=1.5)


def test_probabilities_in_half_precision_may_be_off_by_its_rounding() -> None:
    probabilities = torch.tensor([[1.001, 0.2]], dtype=torch.float16)  # the next number above 1
    assert 0 <= soft_jaccard_loss(probabilities, torch.tensor([[1, 0]]), from_logits=False) <= 1
