"""Losses by name: the text is read as documented, and each name computes its formula on class logits."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lovasz.functional import lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from lovasz.lab.errors import LabError
from lovasz.lab.losses import NAMES, LossSpec, class_weights

VOID = 255


def build(text: str, classes: int = 4, weights: torch.Tensor | None = None):
    return LossSpec.parse(text).build(classes, VOID, weights)


def batch(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, classes, 5, 6)
    target = torch.randint(0, classes, (2, 5, 6))
    target[0, :2] = VOID
    return logits, target


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" cross_entropy + 0.50 * lovasz_softmax ", "cross_entropy+0.5*lovasz_softmax"),
        ("1*hinge", "hinge"),
        ("cross_entropy > lovasz_softmax", "cross_entropy>lovasz_softmax"),
        ("cross_entropy>.80>lovasz_softmax", "cross_entropy>0.8>lovasz_softmax"),
        ("1000000*hinge", "1e06*hinge"),
        ("1e39*hinge+1e-7*cross_entropy", "1e39*hinge+1e-07*cross_entropy"),
        ("0.123456789*hinge", "0.123456789*hinge"),
        ("cross_entropy>0.33333333>hinge", "cross_entropy>0.33333333>hinge"),
    ],
)
def test_two_spellings_of_one_loss_are_one(text: str, canonical: str) -> None:
    spec = LossSpec.parse(text)
    assert str(spec) == canonical
    assert LossSpec.parse(str(spec)) == spec


def test_slugs_are_safe_file_names_and_differ() -> None:
    texts = [
        "hinge",
        "cross_entropy+hinge",
        "cross_entropy+0.5*hinge",
        "cross_entropy>hinge",
        "cross_entropy>0.5>hinge",
        "cross_entropy>0.8>hinge+soft_jaccard",
    ]
    slugs = {LossSpec.parse(text).slug for text in texts}
    assert len(slugs) == len(texts)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-") for slug in slugs)


def test_cross_entropy_is_torch_s_own() -> None:
    logits, target = batch()
    torch.testing.assert_close(
        build("cross_entropy")(logits, target), F.cross_entropy(logits, target, ignore_index=VOID)
    )


def test_weighted_cross_entropy_is_torch_s_own_with_enet_s_weights() -> None:
    logits, target = batch()
    frequencies = torch.tensor([0.7, 0.2, 0.1, 0.0])
    weights = class_weights(frequencies)
    assert weights[1].item() == pytest.approx(1 / math.log(1.22))
    expected = F.cross_entropy(logits, target, weight=weights, ignore_index=VOID)
    torch.testing.assert_close(build("weighted_cross_entropy", weights=weights)(logits, target), expected)


def test_weighted_lovasz_softmax_is_the_weighted_mean_over_the_classes_that_are_present() -> None:
    logits, target = batch()
    target[target == 2] = 0
    weights = class_weights(torch.tensor([0.7, 0.2, 0.0, 0.1]))
    alone = torch.stack([lovasz_softmax(logits, target, classes=[c], ignore_index=VOID) for c in (0, 1, 3)])
    there = weights[[0, 1, 3]]
    expected = (alone * there).sum() / there.sum()
    torch.testing.assert_close(build("weighted_lovasz_softmax", weights=weights)(logits, target), expected)


def test_a_sum_is_the_sum_with_its_factors() -> None:
    logits, target = batch()
    expected = 2 * F.cross_entropy(logits, target, ignore_index=VOID) + 0.5 * lovasz_softmax(
        logits, target, ignore_index=VOID
    )
    torch.testing.assert_close(build("2*cross_entropy+0.5*lovasz_softmax")(logits, target), expected)


@pytest.mark.parametrize(
    ("text", "switch"), [("cross_entropy>lovasz_softmax", 0.5), ("cross_entropy>0.8>lovasz_softmax", 0.8)]
)
def test_a_switch_happens_at_its_fraction(text: str, switch: float) -> None:
    logits, target = batch()
    loss = build(text)
    first, second = build("cross_entropy")(logits, target), build("lovasz_softmax")(logits, target)
    assert loss(logits, target, switch - 1e-6) == first
    assert loss(logits, target, switch) == second
    assert loss(logits, target, 1.0) == second


def test_three_phases_without_numbers_are_of_equal_length() -> None:
    assert LossSpec.parse("cross_entropy>hinge>lovasz_softmax").starts == pytest.approx((0, 1 / 3, 2 / 3))


def test_with_two_classes_binary_losses_see_the_difference_of_the_logits() -> None:
    logits, target = batch(2)
    scores = logits[:, 1] - logits[:, 0]
    signs = target * 2.0 - 1.0
    valid = target != VOID
    pairs = {
        "lovasz_hinge": lovasz_hinge(scores, target, per_image=False, ignore_index=VOID),
        "lovasz_sigmoid": lovasz_sigmoid(scores, target, ignore_index=VOID),
        "hinge": (1 - scores * signs).clamp(min=0)[valid].mean(),
    }
    for name, expected in pairs.items():
        torch.testing.assert_close(build(name, 2)(logits, target), expected, msg=name)


@pytest.mark.parametrize(("name", "function"), [("lovasz_hinge", lovasz_hinge), ("lovasz_sigmoid", lovasz_sigmoid)])
def test_with_more_classes_each_present_one_stands_against_the_rest(name: str, function) -> None:
    logits, target = batch(4)
    target[target == 2] = 0  # class 2 is absent and must not count
    one_by_one = []
    for c in (0, 1, 3):
        binary = torch.where(target == VOID, VOID, (target == c).long())
        one_by_one.append(function(logits[:, c], binary, per_image=False, ignore_index=VOID))
    torch.testing.assert_close(build(name, 4)(logits, target), torch.stack(one_by_one).mean())


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_void_pixels_get_no_gradient_and_others_do(name: str, classes: int) -> None:
    logits, target = batch(classes)
    logits.requires_grad_()
    loss = build(name, classes, torch.ones(classes))
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert gradient[0, :, :2].abs().sum() == 0
    assert gradient.abs().sum() > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_an_all_void_batch_is_zero_with_zero_gradient(name: str, classes: int) -> None:
    logits = torch.randn(1, classes, 3, 3, requires_grad=True)
    value = build(name, classes, torch.ones(classes))(logits, torch.full((1, 3, 3), VOID))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_right_prediction_costs_less_than_a_wrong_one(name: str) -> None:
    target = torch.randint(0, 3, (1, 6, 6))
    right = 8 * F.one_hot(target, 3).permute(0, 3, 1, 2).float() - 4
    loss = build(name, 3, torch.ones(3))
    assert loss(right, target) < 0.1 < loss(-right, target)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lovasz_softmx", ["lovasz_softmx", "Did you mean 'lovasz_softmax'", "soft_jaccard"]),
        ("lovasz", ["Did you mean 'lovasz_softmax'"]),
        ("hinge+CE", ["Did you mean 'cross_entropy'"]),
        ("jaccard", ["Did you mean 'soft_jaccard'"]),
        ("iou", ["Did you mean 'soft_jaccard'"]),
        ("dice", ["there is no loss 'dice'. Which to take where Dice is the score: docs/which-loss.md. Losses"]),
        ("hinge,soft_jaccard", ["A sum is written a+b; several losses are for compare --losses a,b"]),
        ("", ["there is no loss ''", "cross_entropy"]),
        ("cross_entropy+", ["there is no loss ''"]),
        ("-1*hinge", ["positive number"]),
        ("0*hinge", ["positive number"]),
        ("a*hinge", ["positive number"]),
        ("hinge>1.5>cross_entropy", ["between 0 and 1"]),
        ("cross_entropy+0.5*cross_entropy", ["'cross_entropy' stands twice", "sum of its factors"]),
        ("hinge>0.5", ["between two losses"]),
        ("0.5>hinge", ["between two losses"]),
        ("hinge>0.5>0.6>cross_entropy", ["between two losses"]),
        ("hinge>0.5>cross_entropy>soft_jaccard", ["every switch, or of none"]),
        ("hinge>0.5>cross_entropy>0.5>soft_jaccard", ["growing"]),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(text: str, words: list[str]) -> None:
    with pytest.raises(LabError) as error:
        LossSpec.parse(text)
    for word in words:
        assert word in str(error.value)


def test_the_page_on_losses_has_a_row_for_each_and_the_weights_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "which-loss.md").read_text(encoding="utf-8")
    section = page.partition("## Losses of the lab")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(NAMES)
    everywhere, nowhere = class_weights(torch.tensor([1.0, 0.0])).tolist()
    assert f"from {everywhere:.1f} for a class that is everywhere to {nowhere:.1f} for one" in section


def test_weights_that_are_missing_or_of_another_length_are_refused() -> None:
    for name in ("weighted_cross_entropy", "weighted_lovasz_softmax"):
        with pytest.raises(LabError, match="need class weights"):
            build(name)
    with pytest.raises(LabError, match=r"expected \(4,\)"):
        build("weighted_cross_entropy", 4, torch.ones(3))
    with pytest.raises(LabError, match="at least 2"):
        build("cross_entropy", 1)
