"""On a device without float64, such as Apple's GPUs, metrics and losses have the values that they have on the CPU.

A stand-in for such a device: tensors that say they are on it, and refuse float64 as it does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lovasz import lovasz_extension, lovasz_hinge, lovasz_sigmoid, lovasz_softmax

DEVICE = torch.device("mps")


class OnDevice(Tensor):
    """A tensor of the CPU that says it is on DEVICE; so does what is computed from it."""

    device = property(lambda self: DEVICE)  # type: ignore[assignment]


class WithDevice(TorchFunctionMode):
    """Makes and moves tensors as if there were such a device, and lets none be float64 there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        named = [where for where in (*args, options.get("device")) if isinstance(where, torch.device | str)]
        if name == "cpu" or (name == "to" and torch.device("cpu") in named):
            return args[0].as_subclass(Tensor)
        if options.get("device") == DEVICE:
            options["device"] = torch.device("cpu")
        result = args[0] if name == "to" and DEVICE in named else func(*args, **options)
        if DEVICE in named and isinstance(result, Tensor):
            result = result.as_subclass(OnDevice)
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, OnDevice) and one.dtype == torch.float64:
                raise TypeError("the device has no float64")
        return result


@pytest.fixture
def there() -> Iterator[Callable[[Tensor], Tensor]]:
    """Moves a tensor to the device."""
    with WithDevice():
        yield lambda tensor: tensor.to(DEVICE)


def test_the_device_refuses_float64_and_hands_its_tensors_on(there) -> None:
    numbers = there(torch.arange(4))
    made = torch.zeros(4, device=DEVICE)
    for one in (numbers, numbers + made, made.sum(), numbers.float().clone()):
        assert one.device == DEVICE
        with pytest.raises(TypeError, match="no float64"):
            one.double()
    with pytest.raises(TypeError, match="no float64"):
        torch.ones(3, dtype=torch.float64, device=DEVICE)
    assert numbers.cpu().double().device == torch.device("cpu")


@pytest.mark.parametrize("absent", ["exclude", "one"])
@pytest.mark.parametrize("name", ["DatasetIoU", "ImageIoU"])
def test_a_metric_has_the_values_that_it_has_on_the_cpu(there, name: str, absent: str) -> None:
    pytest.importorskip("torchmetrics")
    from lovasz import metrics

    labels, target = torch.randint(0, 4, (2, 3, 8, 8))
    target[0] = 255
    values = []
    for place in (lambda tensor: tensor, there):
        metric = getattr(metrics, name)(5, ignore_index=255, absent=absent)
        if place is there:
            metric = metric.to(DEVICE)
        assert all(value.device == place(torch.zeros(1)).device for value in metric.metric_state.values())
        assert torch.isnan(metric(place(labels[:1]), place(target[:1])))
        metric.update(place(labels), place(target))
        found = [metric.compute(), metric.per_class()]
        values.append(torch.cat([value.cpu().flatten() for value in found]))
    assert values[0].dtype == torch.float64
    torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True)


def test_the_extension_of_a_set_function_is_that_of_the_cpu(there) -> None:
    errors, foreground = torch.rand(3, 50), torch.rand(3, 50) < 0.3
    for function in ("jaccard", "hamming", lambda missed, false_alarms, total: (missed + false_alarms).sqrt()):
        expected = lovasz_extension(errors, foreground, set_function=function)
        found = lovasz_extension(there(errors), there(foreground), set_function=function)
        assert found.device == DEVICE
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("loss", [lovasz_softmax, lovasz_hinge, lovasz_sigmoid])
def test_a_loss_has_the_value_and_gradient_that_it_has_on_the_cpu(there, loss: Any, method: str) -> None:
    scores = torch.randn(2, 3, 8, 8) if loss is lovasz_softmax else torch.randn(2, 8, 8)
    target = torch.randint(0, 3 if loss is lovasz_softmax else 2, (2, 8, 8))
    results = []
    for place in (lambda tensor: tensor, there):
        leaf = place(scores.clone()).requires_grad_()
        value = loss(leaf, place(target), method=method)
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append((value.cpu(), gradient.cpu()))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)
