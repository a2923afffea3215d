"""The CPU kernel's sort: as near to the definition as float32 scores allow, for every option, layout and tie."""

import functools

import numpy as np
import pytest
import torch
from losses import CASES, Case, assert_near_exact, value_and_gradient
from oracle import jaccard_loss, relative
from torch import Tensor

from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from lovasz.kernels import SORTED, SORTED_TOGETHER, choose, numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")
SORT = {"method": "exact", "impl": "numba"}
SOFTMAX = Case("softmax", "softmax", 5, {"ignore_index": 255})
near = functools.partial(assert_near_exact, value_tolerance=1e-6, gradient_tolerance=2e-5, **SORT)


@pytest.mark.parametrize("size", [(5, 6), (70, 90)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_exact_kernel_in_plain_torch(case: Case, size: tuple[int, int]) -> None:
    scores, target = case.draw(seed=3, size=size)
    near(case, scores.float(), target)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_is_the_integral_over_level_sets(case: Case) -> None:
    scores, target = case.draw()
    value, _ = value_and_gradient(case, scores.float(), target, **SORT)
    assert value.item() == pytest.approx(case.expected(scores.float().double(), target), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_the_gradient_of_its_rounded_scores(dtype: torch.dtype) -> None:
    """They tie: the plain sort takes one order of equal errors, whose gradient is another; here they share it."""
    for case in CASES:  # here, so that one process compiles a format
        scores, target = case.draw(seed=4, size=(40, 50))
        rounded = scores.to(dtype)
        value, gradient = value_and_gradient(case, rounded, target, **SORT)
        same, slope = value_and_gradient(case, rounded.float(), target, **SORT)
        expected, _ = value_and_gradient(case, rounded.double(), target, method="exact")
        assert gradient.dtype == dtype, case
        assert value.item() == pytest.approx(expected.item(), rel=1e-6), case
        assert value == same, case
        assert torch.equal(gradient, slope.to(dtype)), case


@pytest.mark.parametrize(
    "lie",
    [
        lambda z: z.contiguous(memory_format=torch.channels_last),
        lambda z: z.repeat_interleave(2, 3)[..., ::2],
        lambda z: z.transpose(2, 3).contiguous().transpose(2, 3),
        lambda z: torch.cat([z, z], 1)[:, : z.shape[1]],
    ],
    ids=["channels last", "every other column", "transposed", "some channels"],
)
@pytest.mark.parametrize("case", [SOFTMAX, CASES[4], CASES[18]], ids=str)
def test_scores_are_read_as_they_lie(case: Case, lie) -> None:
    scores, target = case.draw(seed=5, size=(40, 50))
    expected = value_and_gradient(case, scores.float(), target, **SORT)
    value, gradient = value_and_gradient(case, lie(scores.float()), target, **SORT)
    assert value == expected[0]
    torch.testing.assert_close(gradient, expected[1])


def test_flat_pixels_are_one_image() -> None:
    scores, target = SOFTMAX.draw(seed=6, size=(40, 50))
    flat = scores.float().movedim(1, -1).reshape(-1, 5).requires_grad_()
    value = lovasz_softmax(flat, target.flatten(), ignore_index=255, **SORT)
    (gradient,) = torch.autograd.grad(value, flat)
    expected = value_and_gradient(SOFTMAX, scores.float(), target, **SORT)
    assert value == expected[0]
    torch.testing.assert_close(gradient, expected[1].movedim(1, -1).reshape(-1, 5))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", [SOFTMAX, CASES[4], CASES[10]], ids=str)
def test_the_number_of_threads_changes_no_bit(case: Case, threads: int) -> None:
    scores, target = case.draw(seed=7, size=(150, 160))
    before = torch.get_num_threads()
    expected = value_and_gradient(case, scores.float(), target, **SORT)
    try:
        torch.set_num_threads(threads)
        value, gradient = value_and_gradient(case, scores.float(), target, **SORT)
    finally:
        torch.set_num_threads(before)
    assert value == expected[0]
    assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("name", ["hinge", "sigmoid"])
def test_without_foreground_the_largest_valid_error_counts_and_no_void_one(name: str) -> None:
    case = Case(name, name, 1, {"per_image": True, "ignore_index": 255})
    scores = torch.tensor([[[[9.0, -1.0, 0.5, 0.5, -3.0]]], [[[1.0, 2.0, 3.0, 9.0, 0.0]]]])
    target = torch.tensor([[[[255, 0, 0, 0, 0]]], [[[0, 1, 1, 255, 0]]]])
    value, gradient = value_and_gradient(case, scores, target, **SORT)
    assert value.item() == pytest.approx(case.expected(scores.double(), target), rel=1e-6)
    half = 1 / 4  # of one image's loss, for two errors that are equal
    slope = 1.0 if name == "hinge" else torch.tensor(0.5).sigmoid() * torch.tensor(-0.5).sigmoid()
    torch.testing.assert_close(gradient[0, 0, 0], half * slope * torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]))


STREAMS = {
    "random": lambda random, n: random.integers(-(2**31), 2**31, n),
    "few values": lambda random, n: random.integers(-2, 3, n),
    "low digits alone": lambda random, n: random.integers(0, 2000, n),
    "high digits alone": lambda random, n: random.integers(-500, 500, n) << 22,
    "both ends": lambda random, n: random.choice([-(2**31), 2**31 - 1], n),
    "all equal": lambda _, n: np.full(n, -7),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("n", [1, 2, 1000, 3000])
def test_keys_of_every_kind_are_put_in_order(name: str, n: int) -> None:
    from numba import njit

    from lovasz.kernels.cpu import radix
    from lovasz.kernels.cpu.arithmetic import INLINED

    @njit(**INLINED)
    def ordered(keys):
        packed, other = np.empty(len(keys), np.uint64), np.empty(len(keys), np.uint64)
        counts = np.full((radix.ROUNDS, 1 << radix.DIGIT), -1, np.int32)
        for i in range(len(keys)):
            packed[i] = radix.pack(keys[i], np.uint64(i))
        return radix.sort(packed, other, len(keys), counts)[0]

    keys = STREAMS[name](np.random.default_rng(n), n).astype(np.int32)
    got = ordered(keys)
    assert np.array_equal((got & np.uint64(0xFFFFFFFF)).astype(np.int64), np.argsort(keys, kind="stable"))


def weights_of(loss, scores: Tensor, target: Tensor) -> tuple[float, Tensor]:
    leaf = scores.clone().requires_grad_()
    value = loss(leaf, target, **SORT)
    return value.item(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("loss", [functools.partial(lovasz_hinge, per_image=False), lovasz_sigmoid])
def test_equal_errors_share_what_the_jaccard_loss_grows_by(loss, zero: float) -> None:
    """All errors equal, as of a network that begins at 0: the weights of one kind are alike, and all add up to 1."""
    target = (torch.rand(4, 20, 30, generator=torch.Generator().manual_seed(0)) < 0.3).long()
    value, gradient = weights_of(loss, torch.full((4, 20, 30), zero), target)
    error, slope = (0.5, 0.25) if loss is lovasz_sigmoid else (1.0, 1.0)
    assert value == pytest.approx(error)
    for kind in (0, 1):
        of_kind = gradient[target == kind]
        assert (of_kind == of_kind[0]).all()
    assert gradient.abs().sum().item() == pytest.approx(slope, rel=1e-5)


def test_a_level_of_ties_weighs_what_its_set_adds() -> None:
    """Three levels of scores: the weights of each add up to the growth of the Jaccard loss from one set to the next."""
    random = np.random.default_rng(1)
    levels, truth = random.integers(0, 3, 5000), random.random(5000) < 0.3
    scores = torch.from_numpy(np.where(truth, -1, 1) * (levels - 1.0)).float()  # errors of 0, 1 and 2
    _, gradient = weights_of(lovasz_hinge, scores, torch.from_numpy(truth).long())
    for level in (1, 2):
        growth = jaccard_loss(levels >= level, truth) - jaccard_loss(levels > level, truth)
        assert gradient[levels == level].abs().sum().item() == pytest.approx(growth, rel=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if "ignore_index" in c.options], ids=str)
def test_void_pixels_are_not_even_read(case: Case) -> None:
    scores, target = case.draw(seed=8, size=(40, 50))
    void = target == case.options["ignore_index"]
    expected = value_and_gradient(case, scores.float(), target, **SORT)
    poisoned = scores.float().masked_fill(void.unsqueeze(1) if case.labelled else void, torch.nan)
    value, gradient = value_and_gradient(case, poisoned, target, **SORT)
    assert value == expected[0]
    assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("case", [SOFTMAX, CASES[10], CASES[17]], ids=str)
def test_nan_at_a_valid_pixel_makes_the_loss_nan(case: Case) -> None:
    scores, target = case.draw(seed=9, size=(40, 50))
    target[0] = 1
    scores[0, :, 3, 4] = torch.nan
    assert value_and_gradient(case, scores.float(), target, **SORT)[0].isnan()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_second_derivative_is_that_of_plain_torch(case: Case) -> None:
    scores, target = case.draw(seed=10, size=(10, 12))
    direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for impl in ("numba", "torch"):
        leaf = scores.float().requires_grad_()
        value = 3 * case.package(leaf, target, method="exact", impl=impl)
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        assert gradient.requires_grad == (case.kind != "probability")  # of which the loss is piecewise linear
        second = torch.autograd.grad((gradient * direction).sum(), leaf) if gradient.requires_grad else ()
        found.append((gradient.detach(), *second))
    for one, other in zip(*found, strict=True):
        assert relative(one, other) <= 2e-5


def test_backward_can_be_called_again() -> None:
    scores, target = SOFTMAX.draw(seed=11, size=(40, 50))
    leaf = scores.float().requires_grad_()
    value = SOFTMAX.package(leaf, target, **SORT)
    first, second = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_small_groups_are_sorted_by_default_and_large_ones_are_not() -> None:
    cpu, most = torch.device("cpu"), SORTED_TOGETHER

    def chosen(pixels: int, classes: int = 5, **how) -> str:
        return choose("binned", "auto", cpu, pixels * classes, classes=classes, **how).kernel

    assert chosen(most) == "sorted"
    assert chosen(most + 1) == "cpu"
    assert chosen(8 * most, image=most) == "sorted"
    assert chosen(8 * most, image=most + 1) == "cpu"
    assert chosen(most, classes=SORTED // most + 1) == "cpu"
    # Of many small images a sort has less memory than bins for each.
    assert chosen(2000 * 17 * 17, classes=21, image=17 * 17) == "sorted"
    assert chosen(350 * 16 * 16, classes=150, image=16 * 16) == "sorted"
    assert chosen(300 * 128 * 128, image=128 * 128) == "sorted"
    assert chosen(300 * 129 * 129, image=129 * 129) == "cpu"
    assert chosen(most, dtype=torch.float64) == "cpu"
    assert chosen(most, shared=True) == "cpu"
    assert choose("binned", "numba", cpu, most * 5, classes=5).kernel == "cpu"


def test_the_exact_method_takes_the_quick_sort_where_it_serves() -> None:
    cpu = torch.device("cpu")
    assert choose("exact", "auto", cpu, 10**7).kernel == "sorted"
    assert choose("exact", "auto", cpu, 100).kernel == "exact"
    assert choose("exact", "auto", cpu, 10**7, dtype=torch.float64).kernel == "exact"
    assert choose("exact", "auto", torch.device("cuda"), 10**7).kernel == "exact"
    assert choose("exact", "torch", cpu, 10**7).kernel == "exact"
    with pytest.raises(ValueError, match=r"sorts no float64.*got 10,000,000 of torch\.float64; use impl='torch'"):
        choose("exact", "numba", cpu, 10**7, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs tensors on the CPU, got cuda"):
        choose("exact", "numba", torch.device("cuda"), 10**7)
