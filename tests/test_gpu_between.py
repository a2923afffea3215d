"""What lies between the two GPU passes: its kernels against the same arithmetic in torch operations, and its launches.

The torch operations are those of bins.py, which the portable kernel uses too. Without a GPU all runs once more, in
Triton's interpreter.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from interpreter import passes_in_the_interpreter
from losses import CASES, Case
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lovasz import sharing
from lovasz.kernels import bins, interpreted, triton_problem
from lovasz.problem import Problem

pytest.importorskip("triton", reason="triton comes with the extra gpu")
from lovasz.kernels.gpu import between, elements, passes, softmax, tables

DEVICE = "cpu" if interpreted() or not torch.cuda.is_available() else "cuda"
TAIL = 31  # the entry of a cell in the tail: first bin 0, all bits dropped
runs = pytest.mark.skipif(bool(triton_problem()), reason=triton_problem() or "it runs")
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


class Dealt(NamedTuple):
    entries: Tensor  # (C, cells), as bins.deal has them
    tail: Tensor  # (C, 1) the first cell above it
    tail_error: Tensor  # (C,)


def error_at(place: Tensor, mirrored: bool) -> Tensor:
    def float_of(bits: Tensor) -> Tensor:
        return bits.clamp(bins.FLOOR - 1, 0x7F7FFFFF).int().view(torch.float32).double()

    if not mirrored:
        return float_of(place + bins.FLOOR)
    high = 1 - float_of(bins.FLOOR + 2 * bins.HALF_RANGE - 1 - place)
    return torch.where(place < bins.HALF_RANGE, float_of(place + bins.FLOOR), high)


def deal(
    sample: Tensor, foreground: Tensor, active: Tensor, step: Any, finer: float, most: int, mirrored: bool, tailed: bool
) -> Dealt:
    """The bins from ``sample`` (C, 2, cells) counts times ``step``; of classes that do not count all is tail."""
    cells = sample.shape[-1]
    background, seen = sample[:, 0], sample[:, 1]
    cell = torch.arange(cells, device=sample.device)
    bounds = error_at(torch.arange(cells + 1, device=sample.device) << bins.CELL_BITS, mirrored)
    middle = (bounds[1:] + bounds[:-1]) / 2  # (cells,)
    tail = torch.ones_like(foreground)
    if tailed:
        total = seen.sum(1, keepdim=True)
        scaled = seen.double() * foreground.unsqueeze(1) / total.clamp(min=1)
        scaled[:, 0] += torch.where(total[:, 0] > 0, 0, foreground)
        mean, _ = bins.weights(background.double(), scaled)  # (C, 2, cells)
        faded = middle * (1 - middle if mirrored else 1 / middle.clamp(min=1))
        loss = (faded * (mean[:, 0] * background + mean[:, 1] * scaled)).sum(1)  # (C,)
        tail = (bounds[1:] < 2.0**-13 * loss.unsqueeze(1)).sum(1).clamp(min=1)
    below = cell < tail.unsqueeze(1)  # (C, cells)
    both = (background + seen) * below
    lowest = bounds.gather(0, tail) / 2
    tail_error = torch.where(both.any(1), (both * middle).sum(1) / both.sum(1).clamp(min=1), lowest)
    tail = torch.where(active, tail, cells).unsqueeze(1)
    entries = torch.full_like(background, TAIL)
    for c, first in enumerate(tail[:, 0].tolist()):
        if first < cells:  # the cells above the tail share all bins but the first
            above = background[c : c + 1, first:], seen[c : c + 1, first:]
            one = bins.deal(*above, foreground[c : c + 1], step, finer, most - 1, 0)
            entries[c, first:] = one[0] + (1 << 5)
    return Dealt(entries, tail, tail_error)


def weigh(
    counts: Tensor, fractions: Tensor, rest: Tensor, entries: Tensor, tail_error: Tensor, mirrored: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses (G,), offset and rise of each bin's weights (G, 2, bins), and those of the tail (G, 2)."""
    groups, _, size = counts.shape
    classes, cells = entries.shape
    mean, fall = bins.weights(*(torch.cat([rest[:, i : i + 1], counts[:, i]], 1) for i in range(2)))
    flat, mean, fall = mean[..., 0], mean[..., 1:], fall[..., 1:]
    offset, rise = bins.lines(mean, fall, counts, fractions)
    first = (entries >> 5).contiguous()
    number = torch.arange(size, dtype=torch.int32, device=counts.device).expand(classes, size).contiguous()
    cell = torch.searchsorted(first, number, right=True) - 1  # (C, bins)
    dropped = entries.gather(1, cell).long() & 31
    begin = (cell << bins.CELL_BITS) + ((number - first.gather(1, cell)).long() << dropped)
    end = (begin + (1 << dropped)).clamp(max=cells << bins.CELL_BITS)
    low, high = (error_at(place, mirrored).view(1, classes, 1, size) for place in (begin, end))
    inner, count, sums, weight = (t.view(groups // classes, classes, 2, size) for t in (rise, counts, fractions, mean))
    position = (sums + 0.5 * count) / (1 << bins.FRACTION_BITS)
    middle = (position / count.clamp(min=1)).clamp(0, 1)
    spread = inner * (count - 1).clamp(min=0) * (middle * (1 - middle)).clamp(max=1 / 12)
    losses = (weight * (count * low + position * (high - low)) + spread * (high - low)).sum((2, 3)).view(groups)
    tail_error = tail_error.expand(groups // classes, classes).reshape(groups, 1)
    return losses + (flat * rest * tail_error).sum(1), offset, rise / (1 << bins.FRACTION_BITS), flat


class Spy:
    """Stands for the operators: notes what those between the passes were given, and gave."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given, self.operators = given, passes._PLAIN

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            before = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
            result = getattr(self.operators, name)(*arguments)
            self.given[name] = before, result
            return result

        return call


class Two:
    """A group of two processes."""

    def size(self) -> int:
        return 2


WAYS = [
    (way, next(case for case in CASES if str(case).startswith(name)))
    for way, names in {
        "as drawn": (
            "softmax", "softmax-classes=all", "softmax-classes=[3,1]", "softmax-per_image=True-classes=all",
            "softmax-ignore_index=2", "probability-from_logits=False-per_image", "hinge", "elu",
            "sigmoid-per_image", "sigmoid-multilabel=True-classes=all", "sigmoid-multilabel=True-weight",
        ),
        "sampled": ("softmax", "hinge", "elu"),
        "two processes": ("softmax-classes=[3,1]", "softmax-ignore_index=2", "sigmoid-multilabel=True-weight"),
        "confident": ("softmax", "sigmoid"),
        "all void": ("softmax-ignore_index=2", "sigmoid-multilabel=True-weight"),
        "many classes": ("softmax-classes=[3,1]",),
    }.items()
    for name in names
]  # fmt: skip


@pytest.mark.skipif(not triton_problem(), reason="the tests below run in this process")
def test_it_is_right_in_the_interpreter() -> None:
    passes_in_the_interpreter(__file__)


@runs
@pytest.mark.parametrize(("way", "case"), WAYS, ids=lambda part: str(part))
def test_what_lies_between_the_passes_equals_the_torch_operations(
    way: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(passes, "_PLAIN", Spy(given))
    how: dict[str, Any] = {"impl": "triton"}
    if way == "sampled":
        monkeypatch.setattr(bins, "SAMPLE", 300)
    if way == "two processes":  # with the same images: each sum over the processes is twice one's own
        monkeypatch.setattr(sharing, "require_member", lambda group: None)
        monkeypatch.setattr(passes, "sum_over", lambda group, tensor: 2 * tensor)
        how["group"] = Two()
    if way == "many classes":  # more than the bits of one word
        case = Case("softmax", "softmax", 34, {"classes": [33, 3, 31, 32], "ignore_index": 255, "weight": [*range(34)]})
    if interpreted():  # a table of two parts, where it is not of very many classes
        monkeypatch.setattr(bins, "MOST_BINS", 1 << (14 if way == "many classes" else 15))
    scores, target = case.draw(seed=5, size=(16, 24))
    if way == "all void":
        target[:] = case.options["ignore_index"]
    if way == "confident":
        scores = 20 * scores
    value = case.package(scores.float().to(DEVICE).requires_grad_(), target.to(DEVICE), **how)

    # The bins.
    (sample, totals, spacing, weight, _, only_present, labelled, mirrored, tailed, step, pixels, size), dealt = given[
        "deal"
    ]
    entries, tail_error = dealt
    classes = case.options.get("classes")
    chosen = tuple(classes) if isinstance(classes, list) else None
    problem = Problem(case.kind, labelled, False, None, only_present, chosen)
    finer = 1.0
    if spacing is None:
        sample = (sample >> 38).sum(0) * step
        finer = float(np.float32(bins.fineness(pixels)))
    assert (step > 1) == (way == "sampled")
    number, active = sample[:, 1].sum(-1), torch.ones(sample.shape[0], dtype=torch.bool, device=sample.device)
    if labelled:
        totals = totals[:, : case.channels]
        number, active = totals.sum(0), (problem.shares(totals, weight) > 0).any(0)
    expected = deal(sample, number, active, step if spacing is None else spacing, finer, size, mirrored, tailed)
    cell = torch.arange(sample.shape[-1], device=sample.device)
    in_tail = cell < expected.tail
    assert torch.equal(entries == TAIL, in_tail)
    assert torch.equal(entries, expected.entries.int())
    torch.testing.assert_close(tail_error, expected.tail_error, rtol=1e-12, atol=0)

    # Weights and losses.
    (hist, present, status, *_, processes), (losses, table) = given["weigh"]
    assert not status.any()
    counts, fractions = hist if processes else ((hist >> 38).sum(0), (hist & ((1 << 38) - 1)).sum(0))
    if labelled:
        foreground = present[:, : case.channels]
        valid = foreground.sum(1, keepdim=True).expand_as(foreground)
    else:
        background, foreground = present[:, 0] & 0xFFFFFFFF, present[:, 0] >> 32
        planes = present if processes else torch.stack([background + foreground, foreground], 1)
        valid, foreground = planes.T.reshape(2, -1, case.channels)
    shares = problem.shares(foreground, weight).flatten()
    rest = torch.stack([valid - foreground, foreground], -1).view(-1, 2) - counts.sum(-1)
    assert bool((rest >= 0).all())
    expected_losses, offset, rise, flat = weigh(counts, fractions, rest, expected.entries.int(), tail_error, mirrored)
    expected_losses = torch.where(shares > 0, expected_losses * shares, 0)
    torch.testing.assert_close(losses.sum(1), expected_losses, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(value.detach().double(), expected_losses.sum(), rtol=1e-6, atol=1e-14)
    scale = (shares * max(processes, 1)).view(-1, 1, 1)
    low, high = table.view(torch.float32).view(*table.shape, 2).unbind(-1)
    for actual, wanted in ((low, offset * scale), (high, rise * scale)):
        used = counts > 0
        assert not bool(used[..., 0].any())  # where the tail's weight is
        largest = float(wanted.abs().max())
        torch.testing.assert_close(actual[used], wanted[used].float(), rtol=1e-5, atol=1e-9 * largest)
    torch.testing.assert_close(low[..., 0], (flat * scale[..., 0]).float(), rtol=1e-5, atol=0)
    assert not high[..., 0].any()


class Launches(TorchDispatchMode):
    """Counts the torch operations that start something on a device."""

    FREE = (
        "view",
        "expand",
        "slice",
        "select",
        "squeeze",
        "detach",
        "alias",
        "unbind",
        "permute",
        "empty",
        "as_strided",
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not any(free in name for free in self.FREE):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@runs
@pytest.mark.parametrize(("foreground", "background"), [(126, 2), (128, 2), (254, 255)])
def test_more_elements_of_one_class_than_half_an_integer_holds(foreground: int, background: int) -> None:
    """What a first pass leaves of so many times 2^24 equal errors of each kind: 2^31 elements and more."""
    cells, many = bins.MIRRORED_CELLS, 1 << 24
    hist = torch.zeros(foreground + background, 1, 2, 2 * cells, dtype=torch.int64)
    hist[:foreground, 0, 1, 300] = many << tables.COUNT_BITS
    hist[foreground:, 0, 0, 600] = many << tables.COUNT_BITS
    both = (foreground * many << 32) + background * many
    seen = torch.tensor([[both - (1 << 64) if both >= 1 << 63 else both, 0]])
    entries = tables.one_bin_per_cell(1, cells, torch.device("cpu"))
    counted = None, None, False, False, True
    given = hist, seen, torch.zeros(1, dtype=torch.int32), entries, torch.zeros(1, dtype=torch.float64), *counted, 0
    losses, _ = tables.weigh(*(x.to(DEVICE) if isinstance(x, Tensor) else x for x in given))
    # The background's errors are larger, and take the union from n to n + b; the rest of the way is the foreground's.
    low, high = error_at(torch.tensor([300, 600]) << bins.CELL_BITS, True).tolist()
    share = background / (foreground + background)
    assert float(losses.sum()) == pytest.approx(share * high + (1 - share) * low, rel=1e-4)


def test_tables_made_where_tensors_have_no_values_are_not_kept() -> None:
    tables.one_bin_per_cell(3, 11, torch.device(DEVICE))
    with FakeTensorMode():
        assert isinstance(tables.one_bin_per_cell(3, 11, torch.device(DEVICE)), FakeTensor)
        assert isinstance(tables.one_bin_per_cell(3, 12, torch.device(DEVICE)), FakeTensor)
    for cells in (11, 12):
        assert not isinstance(tables.one_bin_per_cell(3, cells, torch.device(DEVICE)), FakeTensor)


@pytest.mark.skipif(interpreted(), reason="it runs in the process that the others are started from")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_forward_pass_starts_few_things_on_the_device(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels: list[str] = []
    for module, name in (
        (softmax, "count_labels"), (softmax, "count_softmax"), (elements, "count_elements"),
        (between, "deal_bins"), (between, "weigh_bins"),
    ):  # fmt: skip

        class Nothing:
            def __getitem__(self, grid: Any, name: str = name) -> Any:
                return lambda *a, **named: kernels.append(name)

        monkeypatch.setattr(module, name, Nothing())
    monkeypatch.setattr("lovasz.validation.check_labels", lambda *_: None)  # the GPU's own count finds wrong ones
    images, classes, pixels = 3, case.channels, 3000
    shape = (images, pixels) if case.labelled else (images, classes, pixels)
    chosen = case.options.get("classes")
    problem = Problem(
        case.kind, case.labelled, case.options.get("per_image", False), case.options.get("ignore_index"), True,
        tuple(chosen) if isinstance(chosen, list) else None,
    )  # fmt: skip
    weight = torch.ones(classes) if "weight" in case.options else None
    scores, target = torch.zeros(images, classes, pixels), torch.zeros(shape, dtype=torch.long)
    with Launches() as launches:
        passes.loss(scores, target, problem, weight)
    assert len(kernels) == 4 + case.labelled
    assert len(launches.names) <= 20, launches.names
