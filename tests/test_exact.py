"""The exact kernel against the definition by level sets, and the properties that the paper states."""

import pytest
import torch
from losses import CASES, Case, value_and_gradient
from oracle import extension, slope

from lovasz import lovasz_extension, lovasz_softmax
from lovasz.kernels.exact import jaccard_weights


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_is_the_integral_over_level_sets(case: Case) -> None:
    scores, target = case.draw()
    value, _ = value_and_gradient(case, scores, target, method="exact")
    assert value.item() == pytest.approx(case.expected(scores, target), rel=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_is_the_slope_of_the_integral(case: Case) -> None:
    scores, target = case.draw(seed=1, size=(3, 4))
    _, gradient = value_and_gradient(case, scores, target, method="exact")
    for seed in range(3):
        direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if case.kind == "probability":
            direction *= 0.01  # stay inside [0, 1]
        expected = slope(lambda z: case.expected(z, target), scores, direction, step=1e-6)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck_passes(case: Case) -> None:
    scores, target = case.draw(seed=2, size=(2, 3))
    torch.autograd.gradcheck(lambda z: case.package(z, target, method="exact"), scores.requires_grad_())


@pytest.mark.parametrize("foreground", [0, 1, 7, 20])
def test_weights_of_a_class_sum_to_one_and_are_not_negative(foreground: int) -> None:
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[0, torch.randperm(20)[:foreground]] = True
    weights = jaccard_weights(mask, dtype=torch.float64)
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)
    assert (weights >= 0).all()


def test_extension_equals_the_set_function_at_its_corners() -> None:
    foreground = torch.tensor([True, True, False, False, True])
    for code in range(32):
        wrong = torch.tensor([bool(code >> i & 1) for i in range(5)])
        value = lovasz_extension(wrong.double(), foreground).item()
        prediction = foreground ^ wrong
        union = (prediction | foreground).sum().item()
        assert value == pytest.approx(1 - (prediction & foreground).sum().item() / union)


def test_extension_is_convex_and_homogeneous() -> None:
    foreground = torch.rand(30) < 0.4
    for _ in range(50):
        a, b, t = torch.rand(30, dtype=torch.float64), torch.rand(30, dtype=torch.float64), torch.rand(()).item()
        between = lovasz_extension(t * a + (1 - t) * b, foreground)
        assert between <= t * lovasz_extension(a, foreground) + (1 - t) * lovasz_extension(b, foreground) + 1e-12
        assert lovasz_extension(3 * a, foreground).item() == pytest.approx(3 * lovasz_extension(a, foreground).item())


def test_extension_takes_rows_and_any_sign() -> None:
    errors = torch.randn(2, 3, 8, dtype=torch.float64)
    foreground = torch.rand(2, 3, 8) < 0.5
    rows = lovasz_extension(errors, foreground)
    assert rows.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            # Δ(V) t is added by a shift of all errors by t, because the extension is the integral over levels.
            shift = 10.0
            whole = 1.0 if foreground[i, j].any() else float((~foreground[i, j]).any())
            expected = extension((errors[i, j] + shift).numpy(), foreground[i, j].numpy()) - shift * whole
            assert rows[i, j].item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("classes", ["present", "all", [0, 2]])
def test_compiles_to_one_graph(classes) -> None:
    def loss(logits, target):
        return lovasz_softmax(logits, target, classes=classes, ignore_index=255, method="exact")

    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    target = torch.randint(0, 3, (2, 6, 6))
    target[0, 0] = 255
    eager = loss(logits, target)
    (expected,) = torch.autograd.grad(eager, logits)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, target)
    (gradient,) = torch.autograd.grad(compiled, logits)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(gradient, expected)


def test_compiles_for_small_inputs_whose_size_changes() -> None:
    """From the second size on torch.compile takes sizes as symbols."""
    compiled = torch.compile(lambda logits, target: lovasz_softmax(logits, target), backend="eager", fullgraph=True)
    for size in (10, 12, 15):
        logits, target = torch.randn(1, 3, size, size), torch.randint(0, 3, (1, size, size))
        torch.testing.assert_close(compiled(logits, target), lovasz_softmax(logits, target, method="exact"))


def test_precision_does_not_fall_with_the_number_of_pixels() -> None:
    # The usual float32 cumulative sum and difference is off by per cents here.
    pixels = 2**20
    foreground = torch.rand(1, pixels) < 0.3
    weights = jaccard_weights(foreground, dtype=torch.float32)
    exact = jaccard_weights(foreground, dtype=torch.float64)
    assert ((weights - exact).abs() / exact.clamp(min=1e-300))[exact > 0].max() < 1e-6
