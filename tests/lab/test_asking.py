"""Answers of a trained network: several scales, the CRF and the decision rule, each against a computation by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lovasz.lab import option_texts
from lovasz.lab.crf import CRF, WithCRF
from lovasz.lab.decision import decide, expected_iou
from lovasz.lab.errors import LabError
from lovasz.lab.models.resized import MultiScale, ask_as


class Channels(nn.Module):
    """The image's first two channels as logits, and what sizes it was asked at."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(tuple(image.shape[2:]))
        return 4 * image[:, :2] * len(self.sizes)  # each scale another confidence


def test_several_scales_average_probabilities_at_the_size_of_the_image():
    image = torch.rand(1, 3, 1, 1).expand(2, 3, 12, 20)  # the same everywhere, so that resizing changes nothing
    network = Channels()
    found = MultiScale(network)(image)
    assert network.sizes == [(12, 20), (9, 15), (6, 10)]
    expected = sum((4 * k * image[:, :2]).softmax(1) for k in (1, 2, 3)) / 3
    torch.testing.assert_close(found.softmax(1), expected)
    assert found.shape == (2, 2, 12, 20)


def test_one_scale_is_the_network_itself():
    image = torch.rand(1, 3, 7, 9)
    torch.testing.assert_close(MultiScale(Channels(), (1.0,))(image).softmax(1), Channels()(image).softmax(1))


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, 1.0), (-1.0,), (99.0,)])
def test_scales_that_cannot_be_are_refused(scales):
    with pytest.raises(LabError, match="scales: got"):
        MultiScale(Channels(), scales)


def test_the_options_of_evaluate_nest_in_the_order_that_is_documented():
    network = Channels()
    assert ask_as(network, size=None, scales=None, crf=False) is network
    asked = ask_as(network, size=option_texts.parse_size("16x24"), scales=option_texts.parse_scales("1,0.5"), crf=False)
    assert asked(torch.rand(1, 3, 40, 50)).shape == (1, 2, 40, 50)
    assert network.sizes == [(16, 24), (8, 12)]
    for read, text in ((option_texts.parse_size, "big"), (option_texts.parse_scales, "1;2")):
        with pytest.raises(LabError, match=f"--s.* '{text}'"):
            read(text)


# --- the CRF


def brute_force_mean_field(image: np.ndarray, probabilities: np.ndarray, crf: CRF) -> np.ndarray:
    """Krähenbühl and Koltun's updates with every pair of pixels written out; kernels normalised symmetrically."""
    classes, height, width = probabilities.shape
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns.ravel(), rows.ravel()], 1).astype(float)
    colours = image.reshape(-1, 3).astype(float)

    def kernel(features: np.ndarray) -> np.ndarray:
        matrix = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        scale = 1 / np.sqrt(matrix.sum(1) + 1e-20)
        return scale[:, None] * matrix * scale

    near = kernel(places / crf.smoothness_pixels)
    alike = kernel(np.hstack([places / crf.appearance_pixels, colours / crf.appearance_colours]))
    unary = -np.log(np.clip(probabilities, 1e-5, None)).reshape(classes, -1)
    q = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(crf.iterations):
        message = crf.smoothness_weight * q @ near + crf.appearance_weight * q @ alike
        q = np.exp(-unary + message)
        q /= q.sum(0)
    return q.reshape(classes, height, width)


def test_the_crf_follows_the_edges_of_the_image():
    pytest.importorskip("pydensecrf")
    rng = np.random.default_rng(0)
    truth = np.zeros((24, 32), int)
    truth[:, 16:] = 1
    image = np.where(truth[..., None] == 1, 200, 30).astype(np.uint8).repeat(3, 2)
    noisy = np.clip(0.5 + 0.25 * (2 * truth - 1) + 0.25 * rng.standard_normal(truth.shape), 0.05, 0.95)
    probabilities = np.stack([1 - noisy, noisy]).astype(np.float32)
    crf = CRF(iterations=3)
    found = crf.refine(image, probabilities)
    assert (probabilities.argmax(0) == truth).mean() < 0.95
    assert (found.argmax(0) == truth).all()
    expected = brute_force_mean_field(image, probabilities, crf)
    # pydensecrf filters on a lattice, which approximates the sums over all pairs.
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.99
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)


def test_a_network_with_a_crf_is_a_network():
    pytest.importorskip("pydensecrf")
    image = torch.rand(2, 3, 8, 12)
    found = WithCRF(Channels(), CRF(iterations=1))(image)
    assert found.shape == (2, 2, 8, 12)
    alone = CRF(iterations=1).refine(
        (image[1] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), Channels()(image)[1].softmax(0).numpy()
    )
    torch.testing.assert_close(found[1].exp(), torch.from_numpy(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [{"iterations": 0}, {"appearance_pixels": 0.0}])
def test_crf_parameters_that_cannot_be_are_refused(changes):
    with pytest.raises(LabError, match=next(iter(changes))):
        CRF(**changes)


# --- the decision rule


def by_hand(probabilities: np.ndarray, labels: tuple[int, ...]) -> float:
    ratios = []
    for c in range(probabilities.shape[1]):
        chosen = np.array(labels) == c
        intersection = probabilities[chosen, c].sum()
        union = probabilities[:, c].sum() + (1 - probabilities[chosen, c]).sum()
        ratios.append(intersection / union)
    return float(np.mean(ratios))


def test_the_expected_iou_is_the_formula_by_hand():
    probabilities = torch.rand(6, 3, dtype=torch.float64).softmax(1)
    for labels in [(0, 1, 2, 0, 1, 2), (0, 0, 0, 0, 0, 0)]:
        assert float(expected_iou(probabilities, torch.tensor(labels))) == pytest.approx(
            by_hand(probabilities.numpy(), labels)
        )


def test_the_rule_is_never_worse_than_arg_max_and_near_the_best_there_is():
    gaps, gains = [], []
    for seed in range(30):
        torch.manual_seed(seed)
        probabilities = (2 * torch.randn(7, 3, dtype=torch.float64)).softmax(1)
        best = max(by_hand(probabilities.numpy(), labels) for labels in itertools.product(range(3), repeat=7))
        value = float(expected_iou(probabilities, decide(probabilities)))
        plain = float(expected_iou(probabilities, probabilities.argmax(1)))
        assert value >= plain
        gaps.append(best - value)
        gains.append(value - plain)
    assert np.mean(gaps) < 0.01
    assert max(gains) > 0.01  # it does find better answers than arg max
    assert min(gaps) > -1e-12


def test_a_rare_class_is_answered_where_arg_max_never_would():
    """One class is likely nowhere, at 0.4 in a few places: its IoU is worth more than the others' loss."""
    probabilities = torch.full((100, 2), 0.0)
    probabilities[:, 1] = torch.cat([torch.full((5,), 0.4), torch.full((95,), 0.001)])
    probabilities[:, 0] = 1 - probabilities[:, 1]
    assert not probabilities.argmax(1).any()
    assert decide(probabilities).tolist() == [1] * 5 + [0] * 95


def test_where_moving_every_pixel_at_once_overshoots_some_are_moved():
    common = torch.tensor([3.0, 0, 0, -0.5, -1, -1.5])
    p = (torch.randn(400, 6, generator=torch.Generator().manual_seed(8)) + common).softmax(1).double()
    labels = p.argmax(1)
    chosen = torch.nn.functional.one_hot(labels, 6)
    union = (p + chosen - p * chosen).sum(0)
    every = ((p - (p * chosen).sum(0) / union * (1 - p)) / union).argmax(1)
    assert expected_iou(p, every) < expected_iou(p, labels)
    assert expected_iou(p, decide(p)) > 1.3 * expected_iou(p, labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.rand(3), r"shape \(3,\); expected floating \(P, C\)"),
        (torch.zeros(3, 2, dtype=torch.long), "torch.int64"),
        (torch.randn(30, 2) * 5, "Take the softmax first"),
    ],
)
def test_what_is_no_probability_is_refused(given, message):
    with pytest.raises(LabError, match=message):
        decide(given)
