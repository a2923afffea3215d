"""The modules keep their arguments and equal the functions; weights move with the module."""

import copy
import functools
import inspect
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import distributed
from torch._subclasses import FakeTensorMode
from torch.optim.swa_utils import AveragedModel

from lovasz import (
    LovaszCrossEntropyLoss,
    LovaszHingeLoss,
    LovaszSigmoidLoss,
    LovaszSoftmaxLoss,
    functional,
    lovasz_cross_entropy,
    lovasz_hinge,
    lovasz_sigmoid,
    lovasz_softmax,
)

PAIRS = [
    (LovaszSoftmaxLoss, lovasz_softmax),
    (LovaszCrossEntropyLoss, lovasz_cross_entropy),
    (LovaszHingeLoss, lovasz_hinge),
    (LovaszSigmoidLoss, lovasz_sigmoid),
]
OTHER = {
    "from_logits": False,
    "classes": "all",
    "per_image": True,
    "ignore_index": 1,
    "weight": [1.0, 2.0, 4.0],
    "method": "exact",
    "impl": "torch",
    "activation": "elu",
    "multilabel": True,
    "lovasz_weight": 0.25,
    "cross_entropy_weight": 3.0,
    "label_smoothing": 0.2,
}


@pytest.fixture
def alone() -> Iterator[distributed.ProcessGroup | None]:
    """A process group of this process only."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_signatures_are_the_functions(module, function) -> None:
    options = {n: p.default for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {n: p.default for n, p in inspect.signature(module).parameters.items()} == options


def test_a_module_can_be_built_where_tensors_have_no_values() -> None:
    with FakeTensorMode():
        assert tuple(LovaszSoftmaxLoss(weight=[1.0, 2.0]).weight.shape) == (2,)
    with torch.device("meta"):
        assert LovaszSoftmaxLoss(weight=[1.0, 2.0]).weight.is_meta


@pytest.mark.parametrize("options", [{}, {"method": "exact"}, {"impl": "torch"}, {"from_logits": False}], ids=str)
def test_a_loss_without_values_has_the_shape_and_dtype_of_a_loss(options: dict) -> None:
    with FakeTensorMode():
        scores = torch.rand(2, 3, 80, 80, dtype=torch.float16, requires_grad=True)
        loss = LovaszSoftmaxLoss(weight=[1.0, 2.0, 3.0], **options)(scores, torch.randint(0, 3, (2, 80, 80)))
        loss.backward()
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert scores.grad is not None
    assert (scores.grad.shape, scores.grad.dtype) == (scores.shape, torch.float16)


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_call_hands_every_option_to_the_function(module, function, alone, monkeypatch) -> None:
    heard = {}
    monkeypatch.setattr(functional, function.__name__, lambda input, target, **options: heard.update(options))
    for name in inspect.signature(module).parameters:
        # Those that go with a group, and with classes or weights, too.
        options = {"per_image": name == "per_image", name: (OTHER | {"group": alone})[name]}
        if "multilabel" in inspect.signature(module).parameters:
            options["multilabel"] = True
        module(**options)(torch.zeros(1), torch.zeros(1))
        got = heard[name].tolist() if name == "weight" else heard[name]
        assert got == options[name], name
        assert heard.keys() == inspect.signature(module).parameters.keys()


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_group_that_no_call_could_use_is_refused_at_once(module, function, alone) -> None:
    with pytest.raises(TypeError, match=r"process group, got str"):
        module(per_image=False, group="world")
    with pytest.raises(ValueError, match=r"per_image=True with group"):
        module(per_image=True, group=alone)
    with pytest.raises(ValueError, match=r"method='exact' with group"):
        module(per_image=False, method="exact", group=alone)


def test_options_of_several_labels_are_refused_at_once_by_a_loss_of_one() -> None:
    for options in ({"classes": "all"}, {"weight": [1.0, 2.0]}):
        with pytest.raises(TypeError, match="belong to multilabel=True"):
            LovaszSigmoidLoss(**options)


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_every_argument_is_honoured(module, function, alone) -> None:
    names = [n for n in inspect.signature(module).parameters if n not in ("weight", "multilabel")]
    for name in [None, *names]:
        options = {} if name is None else {name: (OTHER | {"group": alone})[name]}
        if name == "group":
            options["per_image"] = False
        if function is lovasz_sigmoid:
            options["multilabel"] = True
        shape = (2, 6, 6) if function in (lovasz_softmax, lovasz_cross_entropy) else (2, 3, 6, 6)
        scores = torch.rand(2, 3, 6, 6)
        target = torch.randint(0, 2, shape)
        if function is lovasz_hinge:
            scores, target = scores[:, 0] * 4 - 2, target[:, 0]
        torch.testing.assert_close(module(**options)(scores, target), function(scores, target, **options))


def test_class_weights_are_a_buffer() -> None:
    module = LovaszSoftmaxLoss(weight=[1.0, 2.0, 4.0])
    assert torch.equal(module.state_dict()["weight"], torch.tensor([1.0, 2.0, 4.0]))
    assert module.double().weight is not None
    assert module.double().weight.dtype == torch.float64
    logits, target = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    torch.testing.assert_close(
        LovaszSoftmaxLoss(weight=[1.0, 2.0, 4.0])(logits, target),
        lovasz_softmax(logits, target, weight=torch.tensor([1.0, 2.0, 4.0])),
    )


@pytest.mark.parametrize(("module", "function"), PAIRS)
@pytest.mark.parametrize("grouped", [True, False])
def test_a_copy_shares_the_group_and_nothing_else(module, function, grouped, alone) -> None:
    criterion = module(per_image=False, ignore_index=7, group=alone if grouped else None)
    criterion.register_buffer("weight", torch.ones(3))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), criterion).eval()
    for copied in (copy.deepcopy(network)[1], AveragedModel(network).module[1]):
        assert type(copied) is module
        assert copied.group is criterion.group
        assert (copied.ignore_index, copied.training, repr(copied)) == (7, False, repr(criterion))
        assert copied.weight.tolist() == [1, 1, 1]
        assert copied.weight.data_ptr() != criterion.weight.data_ptr()


def test_weights_given_as_a_tensor_keep_its_digits() -> None:
    numbers = [0.1, 0.7, 1 / 3]
    logits, target = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randint(0, 3, (2, 6, 6))
    weight = torch.tensor(numbers, dtype=torch.float64)
    module = LovaszSoftmaxLoss(weight=weight)
    assert module.weight is not None
    assert module.weight.dtype == torch.float64
    assert module(logits, target) == lovasz_softmax(logits, target, weight=weight)
    half = LovaszSoftmaxLoss(weight=torch.tensor(numbers, dtype=torch.bfloat16)).weight
    assert half is not None
    assert half.dtype == torch.bfloat16


def test_numbers_and_arrays_as_weights_become_torchs_default_dtype() -> None:
    for numbers in ([1, 2, 4], [1.0, 2.0, 4.0], torch.tensor([1, 2, 4]), np.array([1.0, 2.0, 4.0])):
        weight = LovaszSoftmaxLoss(weight=numbers).weight
        assert weight is not None
        assert weight.dtype == torch.get_default_dtype()


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_flag_that_is_no_bool_is_refused_by_the_constructor(module, function) -> None:
    flags = {"from_logits", "per_image", "multilabel"} & set(inspect.signature(module).parameters)
    assert "per_image" in flags
    for name in flags:
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no'"):
            module(**{name: "no"})
        assert getattr(module(**{name: np.bool_(True)}), name) is True


def test_settings_that_no_call_would_take_are_refused_by_the_constructor() -> None:
    for options in ({"lovasz_weight": -1.0}, {"cross_entropy_weight": float("nan")}, {"label_smoothing": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LovaszCrossEntropyLoss(**options)
    several_labels = functools.partial(LovaszSigmoidLoss, multilabel=True)
    for module in (LovaszSoftmaxLoss, LovaszCrossEntropyLoss, several_labels):
        with pytest.raises(ValueError, match="weight must be finite and not negative"):
            module(weight=[1.0, -1.0])


@pytest.mark.parametrize(("module", "function"), PAIRS)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("classes", "presnt", ValueError),
        ("classes", [1, 1], ValueError),
        ("method", "fast", ValueError),
        ("impl", "cuda", ValueError),
        ("ignore_index", "255", TypeError),
        ("activation", "gelu", ValueError),
    ],
)
def test_options_that_no_call_would_take_are_refused_by_the_constructor(module, function, name, value, error) -> None:
    if name in inspect.signature(module).parameters:
        with pytest.raises(error, match=name):
            module(**{name: value})


def test_classes_and_void_label_of_numpy_become_plain_integers() -> None:
    criterion = LovaszSoftmaxLoss(classes=np.array([1, 2]), ignore_index=np.int64(255))
    assert criterion.classes == (1, 2)
    assert type(criterion.ignore_index) is int
    scores, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    assert compiled(scores, target) == LovaszSoftmaxLoss(classes=[1, 2], ignore_index=255)(scores, target)


def test_the_representation_tells_the_arguments() -> None:
    assert "ignore_index=255" in repr(LovaszSoftmaxLoss(ignore_index=255))
    assert "activation='elu'" in repr(LovaszHingeLoss(activation="elu"))
    assert "multilabel=True" in repr(LovaszSigmoidLoss(multilabel=True))


def test_training_through_autocast_lowers_the_loss() -> None:
    model = torch.nn.Conv2d(3, 4, 1)
    criterion = LovaszSoftmaxLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=5.0)
    image = torch.randn(2, 3, 16, 16)
    target = image.argmax(1) + 1
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16):
            loss = criterion(model(image), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
