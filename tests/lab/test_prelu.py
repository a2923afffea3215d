"""The networks' PReLU against torch's own in float64, in every layout that it serves and where it hands over."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lovasz.lab.models import prelu_loops
from lovasz.lab.models.prelu import PReLU

SHAPES = [(2, 5, 7, 9), (1, 16, 33, 40), (3, 1, 4, 4), (2, 64, 1, 1), (1, 3, 1, 200)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def gradients(module: PReLU, x: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    of_x, of_slopes = torch.autograd.grad(module(leaf), (leaf, module.weight), incoming)
    return of_x, of_slopes


def in_float64(slopes: Tensor, x: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
    leaf, weight = (t.detach().double().requires_grad_() for t in (x, slopes))
    of_x, of_slopes = torch.autograd.grad(F.prelu(leaf, weight), (leaf, weight), incoming.double())
    return of_x, of_slopes


def scene(shape: tuple[int, ...], layout: str, slopes: int) -> tuple[PReLU, Tensor, Tensor]:
    torch.manual_seed(0)
    x, incoming = (torch.randn(shape).to(memory_format=LAYOUTS[layout]) for _ in range(2))
    module = PReLU(slopes)
    torch.nn.init.uniform_(module.weight, -0.5, 1.5)
    return module, x, incoming


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("one_slope", [True, False], ids=["one slope", "a slope per channel"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_gradients_are_those_of_torch_in_float64(shape: tuple[int, ...], one_slope: bool, layout: str) -> None:
    module, x, incoming = scene(shape, layout, 1 if one_slope else shape[1])
    x[0, 0, 0, 0] = 0  # where the two sides meet
    of_x, of_slopes = gradients(module, x, incoming)
    expected_x, expected_slopes = in_float64(module.weight, x, incoming)
    torch.testing.assert_close(of_x.double(), expected_x, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(of_slopes.double(), expected_slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slopes", [1, 5])
def test_maps_of_both_layouts_are_served_by_the_loops(slopes: int, layout: str, monkeypatch) -> None:
    """Else the comparisons with torch here would be of torch with itself."""
    module, x, incoming = scene((2, 5, 7, 9), layout, slopes)
    served = []
    real = prelu_loops.backward
    monkeypatch.setattr(prelu_loops, "backward", lambda *given: served.append(given) or real(*given))
    gradients(module, x, incoming)
    assert len(served) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_input_s_order_of_memory_is_kept_whatever_the_gradient_s(layout: str) -> None:
    module, x, incoming = scene((2, 5, 7, 9), layout, 5)
    same, _ = gradients(module, x, incoming)
    for other in LAYOUTS.values():
        of_x, _ = gradients(module, x, incoming.contiguous(memory_format=other))
        assert of_x.stride() == x.stride()
        assert torch.equal(of_x, same)
    expanded, _ = gradients(module, x, incoming[:, :, :1, :1].expand_as(incoming))
    repeated, _ = gradients(module, x, incoming[:, :, :1, :1].repeat(1, 1, 7, 9))
    assert torch.equal(expanded, repeated)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slopes", [1, 16])
def test_gradients_do_not_depend_on_the_number_of_threads(slopes: int, layout: str) -> None:
    module, x, incoming = scene((3, 16, 40, 50), layout, slopes)
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(gradients(module, x, incoming))
    finally:
        torch.set_num_threads(before)
    for of_x, of_slopes in seen[1:]:
        assert torch.equal(of_x, seen[0][0])
        assert torch.equal(of_slopes, seen[0][1])


@pytest.mark.parametrize("slopes", [1, 5])
def test_second_derivatives_are_those_of_torch(slopes: int) -> None:
    module, x, incoming = scene((2, 5, 3, 4), "contiguous", slopes)
    found = []
    for function in (module, lambda leaf: F.prelu(leaf, module.weight)):
        leaf = x.clone().requires_grad_()
        outer = incoming.clone().requires_grad_()
        of_x, of_slopes = torch.autograd.grad(function(leaf), (leaf, module.weight), outer, create_graph=True)
        found.append(torch.autograd.grad(of_x.square().sum() + of_slopes.square().sum(), (leaf, module.weight, outer)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_the_loops_do_not_serve_is_torch_s() -> None:
    module, x, incoming = scene((2, 5, 6, 7), "contiguous", 5)
    strided = x[:, :, ::2]
    of_x, _ = gradients(module, strided, incoming[:, :, ::2])
    torch.testing.assert_close(of_x.double(), in_float64(module.weight, strided, incoming[:, :, ::2])[0])
    flat = torch.randn(4, 5)  # no image
    of_x, _ = gradients(module, flat, torch.ones(4, 5))
    torch.testing.assert_close(of_x.double(), in_float64(module.weight, flat, torch.ones(4, 5))[0])
    slope = PReLU().double()
    assert torch.autograd.gradcheck(slope, (x.double().requires_grad_(),))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x.bfloat16().requires_grad_()).dtype == torch.bfloat16
    per_image = torch.func.vmap(torch.func.grad(lambda image: module(image[None]).square().sum()))(x)
    torch.testing.assert_close(
        per_image, torch.autograd.grad(F.prelu(y := x.clone().requires_grad_(), module.weight).square().sum(), y)[0]
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_traced_network_can_be_saved(tmp_path: Path) -> None:
    module, x, _ = scene((2, 5, 6, 7), "contiguous", 5)
    torch.jit.save(torch.jit.trace(module, x), tmp_path / "traced.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "traced.pt")(x), F.prelu(x, module.weight))


def test_without_numba_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, incoming = scene((2, 5, 6, 7), "contiguous", 5)
    ours = gradients(module, x, incoming)
    monkeypatch.setattr("lovasz.lab.models.prelu.numba_problem", lambda: "numba is not installed")
    monkeypatch.setattr("lovasz.lab.models.prelu_loops.backward", None)
    for found, expected in zip(gradients(module, x, incoming), ours, strict=True):
        torch.testing.assert_close(found, expected)
