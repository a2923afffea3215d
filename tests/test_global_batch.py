"""``group=``: the loss of a batch spread over two processes is that of the joined batch in one, and so is training."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from benchmarks.distributions import binary
from losses import Case
from ranks import RankError, Ranks, alone, bytes_sent, copies, losses_of_parts, network, train_with_ddp
from torch import Tensor

import lovasz
from lovasz.kernels import bins, numba_problem, portable

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
)

IMPLS = [
    "torch",
    pytest.param(
        "numba",
        marks=[
            pytest.mark.skipif(bool(numba_problem()), reason=numba_problem() or "numba is here"),
        ],
    ),
]
CASES = [
    Case("softmax", "softmax", 5, {"ignore_index": 255}),
    Case("softmax", "softmax", 5, {"classes": "all", "weight": [1.0, 2.0, 0.0, 4.0, 5.0], "ignore_index": -1}),
    Case("softmax", "probability", 5, {"from_logits": False, "classes": [3, 1]}),
    Case("hinge", "hinge", 1, {"per_image": False, "ignore_index": 255}),
    Case("hinge", "elu", 1, {"activation": "elu", "per_image": False}),
    Case("sigmoid", "sigmoid", 1, {"ignore_index": 7}),
    Case("sigmoid", "probability", 1, {"from_logits": False}),
    Case("sigmoid", "sigmoid", 4, {"multilabel": True, "weight": [3.0, 1.0, 0.5, 1.0], "ignore_index": 9}),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two processes, shared by the tests of this file: to start them takes longer than any of their jobs."""
    processes = Ranks(tmp_path_factory.mktemp("ranks"))
    yield processes
    processes.close()


def flat(case: Case, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) as (P, C) or (P,), so that images of different sizes can be joined."""
    scores = scores.movedim(1, -1).flatten(0, -2)
    if not case.labelled:
        target = target.movedim(1, -1).flatten(0, -2)
        if case.channels == 1:
            scores, target = scores[:, 0], target[:, 0]
    return scores.float(), target.flatten() if case.labelled else target


def parts_of(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Two ranks' parts: images of different number and size, a class that only one of them has."""
    first, second = case.draw(1, size=(40, 44), images=3), case.draw(2, size=(30, 28), images=2)
    if case.labelled:
        second[1][second[1] == 1] = 2
    return [flat(case, *first), flat(case, *second)]


def run(ranks: Ranks, case: Case, parts: list[tuple[Tensor, Tensor]], impl: str, **same: Any) -> list[dict[str, Any]]:
    arguments = [{"scores": scores.numpy(), "target": target.numpy()} for scores, target in parts]
    return ranks(losses_of_parts, arguments, case=case, impl=impl, **same)


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    scores, target = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return scores, target


def averaged(results: list[dict[str, Any]]) -> Tensor:
    """The gradient at the joined logits, as DistributedDataParallel's averaging leaves it."""
    return torch.cat([torch.from_numpy(result["gradient"]) for result in results]) / len(results)


def exact(case: Case, scores: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """By the definition: one process, one sort, float64."""
    leaf = scores.double().requires_grad_()
    value = case.package(leaf, target, method="exact")
    return value.item(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient_are_those_of_the_joined_batch(ranks: Ranks, case: Case, impl: str) -> None:
    parts = parts_of(case)
    results = run(ranks, case, parts, impl)
    assert results[0]["value"] == results[1]["value"]
    assert [result["evaluated"] for result in results] == [result["value"] for result in results]
    scores, target = joined(parts)

    value, gradient = exact(case, scores, target)
    assert abs(results[0]["value"] - value) <= 1e-4 * abs(value)
    assert oracle.relative(averaged(results), gradient) <= 1e-3

    # With the same bins only float32 rounding is left.
    whole = ranks(alone, case=case, scores=scores.numpy(), target=target.numpy(), impl=impl)[0]
    np.testing.assert_allclose(results[0]["value"], whole["value"], rtol=1e-6)
    np.testing.assert_allclose(averaged(results), whole["gradient"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", ["trained", "untrained", "confident", "rare class, 30 px"])
def test_bins_dealt_from_samples_of_both_serve_large_batches(ranks: Ranks, kind: str, impl: str) -> None:
    case = Case("sigmoid", "sigmoid", 1)
    scores, target = binary(kind, 200_000)
    cut = 150_001  # more and fewer pixels than are looked at when the bins are dealt out
    parts = [(scores[0, :cut], target[0, :cut]), (scores[0, cut:], target[0, cut:])]
    results = run(ranks, case, parts, impl)
    value, gradient = exact(case, *joined(parts))
    assert abs(results[0]["value"] - value) <= 5e-4 * abs(value)
    assert oracle.relative(averaged(results), gradient) <= 5e-3


@pytest.mark.parametrize("impl", IMPLS)
def test_a_rank_without_a_valid_pixel_adds_nothing_and_has_no_gradient(ranks: Ranks, impl: str) -> None:
    case = CASES[0]
    parts = parts_of(case)
    parts[1][1].fill_(255)
    results = run(ranks, case, parts, impl)
    value, gradient = exact(case, *parts[0])
    for result in results:
        assert abs(result["value"] - value) <= 1e-4 * value
    assert not results[1]["gradient"].any()
    assert oracle.relative(torch.from_numpy(results[0]["gradient"]) / 2, gradient) <= 1e-3


@pytest.mark.parametrize("impl", IMPLS)
def test_no_valid_pixel_anywhere_is_a_zero_that_can_be_differentiated(ranks: Ranks, impl: str) -> None:
    parts = parts_of(CASES[0])
    for _, target in parts:
        target.fill_(255)
    for result in run(ranks, CASES[0], parts, impl):
        assert result["value"] == 0
        assert not result["gradient"].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_in_one_process_is_nan_in_all(ranks: Ranks, impl: str) -> None:
    parts = parts_of(CASES[0])
    parts[1][0][(parts[1][1] != 255).nonzero()[0]] = torch.nan
    results = run(ranks, CASES[0], parts, impl)
    assert all(np.isnan(result["value"]) for result in results)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_every_float_type_is_shared(ranks: Ranks, dtype: str, impl: str) -> None:
    parts = [(scores.to(getattr(torch, dtype)).float(), target) for scores, target in parts_of(CASES[0])]
    results = run(ranks, CASES[0], parts, impl, dtype=dtype)
    value, gradient = exact(CASES[0], *joined(parts))
    assert results[0]["value"] == results[1]["value"]
    assert abs(results[0]["value"] - value) <= 1e-4 * value
    assert oracle.relative(averaged(results), gradient) <= {"float64": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}[dtype]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_group_of_some_processes_is_for_those_alone(ranks: Ranks, impl: str) -> None:
    scores, target = parts_of(CASES[0])[0]
    for result in ranks(alone, case=CASES[0], scores=scores.numpy(), target=target.numpy(), impl=impl):
        assert "this process is not in it" in result["stranger"]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_label_out_of_range_is_named_in_each_process(ranks: Ranks, impl: str) -> None:
    parts = parts_of(CASES[0])
    for _, target in parts:
        target[0] = 5
    with pytest.raises(RankError, match=r"ValueError: .*5"):
        run(ranks, CASES[0], parts, impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("accumulated", [1, 2])
def test_ten_steps_of_ddp_end_with_the_parameters_of_one_process(ranks: Ranks, impl: str, accumulated: int) -> None:
    images = [torch.randn(2, 3, 40, 36), torch.randn(2, 3, 28, 30)]
    labels = [torch.randint(0, 4, (2, 40, 36)), torch.randint(0, 3, (2, 28, 30))]
    labels[0][0, :3] = 255
    arguments = [{"images": i.numpy(), "target": t.numpy()} for i, t in zip(images, labels, strict=True)]
    results = ranks(train_with_ddp, arguments, impl=impl, steps=10, parts=accumulated)

    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for _ in range(10):
        for i in range(accumulated):
            logits = torch.cat([model(x.chunk(accumulated)[i]).movedim(1, -1).flatten(0, -2) for x in images])
            target = torch.cat([y.chunk(accumulated)[i].flatten() for y in labels])
            loss = lovasz.lovasz_softmax(logits, target, ignore_index=255, method="exact")
            (loss / accumulated).backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()

    assert results[0]["losses"] == results[1]["losses"]
    np.testing.assert_allclose(results[0]["losses"], losses, rtol=1e-4)
    for name, value in model.state_dict().items():
        trained = [torch.from_numpy(result["parameters"][name]) for result in results]
        assert torch.equal(*trained)
        moved = (value - before[name]).norm()
        assert (trained[0] - value).norm() <= 1e-3 * moved, name


@pytest.mark.parametrize("impl", IMPLS)
def test_the_bytes_sent_do_not_depend_on_the_size_of_the_images(ranks: Ranks, impl: str) -> None:
    for sent in ranks(bytes_sent, sizes=[8, 32, 200], classes=21, impl=impl):
        assert len(set(sent)) == 1
        assert 0 < sent[0] < 21 * 32 * bins.SHARED_BINS * 1.1  # counts and sums of both kinds; and a sample


def test_arguments_that_do_not_go_with_a_group_are_refused() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        group = torch.distributed.group.WORLD
        with pytest.raises(ValueError, match=r"method='exact' with group.*use method='binned'"):
            lovasz.lovasz_softmax(logits, target, method="exact", group=group)
        with pytest.raises(ValueError, match=r"per_image=True with group.*leave group out"):
            lovasz.lovasz_softmax(logits, target, per_image=True, group=group)
        with pytest.raises(ValueError, match=r"per_image=True with group"):
            lovasz.lovasz_hinge(logits[:, 0], target > 0, group=group)
        with pytest.raises(TypeError, match=r"process group, got str.*group\.WORLD"):
            lovasz.lovasz_softmax(logits, target, group="world")  # type: ignore[arg-type]
        inside = lovasz.LovaszSoftmaxLoss(group=group, impl="torch")(logits, target)
        torch.testing.assert_close(inside, lovasz.lovasz_softmax(logits, target), rtol=1e-4, atol=0)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("impl", IMPLS)
def test_two_billion_pixels_may_share_a_bin(ranks: Ranks, impl: str) -> None:
    # 2^16 processes with the same batch have the loss of one of them; all its errors lie at the floor of the bins.
    scores, target = torch.full((30_000,), -40.0), torch.zeros(30_000, dtype=torch.long)
    scores[:2], target[0] = torch.tensor([1.0, -0.5]), 1  # no ties above the floor
    case = Case("sigmoid", "sigmoid", 1)
    results = ranks(copies, scores=scores.numpy(), target=target.numpy(), case=case, impl=impl, times=1 << 15)
    value, gradient = exact(case, scores, target)
    assert abs(results[0]["value"] - value) <= 1e-4 * value
    assert oracle.relative(torch.from_numpy(results[0]["gradient"]), gradient) <= 1e-3


@pytest.mark.parametrize("impl", IMPLS)
def test_the_cross_entropy_of_a_group_keeps_its_digits(impl: str) -> None:
    logits, target = torch.randn(2, 5, 80, 80, dtype=torch.float64), torch.randint(0, 5, (2, 80, 80))
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        group = torch.distributed.group.WORLD
        value = lovasz.lovasz_cross_entropy(logits, target, lovasz_weight=0, impl=impl, group=group)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, target), rtol=1e-12, atol=0)


def test_inputs_too_large_to_pack_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.randn(2, 5, 9, 9), torch.randint(0, 5, (2, 9, 9))
    packed = lovasz.lovasz_softmax(scores, target, impl="torch")
    monkeypatch.setattr(portable, "_PACKED", 1)
    assert lovasz.lovasz_softmax(scores, target, impl="torch") == packed
