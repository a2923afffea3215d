"""`keep="best"` and "average": which network a run leaves, also when it was interrupted. Apart from test_training.py,
whose runs all leave the last one."""

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file
from tests.lab.tiny import use_tiny_data

from lovasz.lab import averaging, fitting, training
from lovasz.lab.config import RunConfig
from lovasz.lab.errors import LabError
from lovasz.lab.processes import ALONE, Team
from lovasz.lab.task import SHUFFLE

SCORES = (0.25, 0.75, 0.5, 0.75)  # of the validation after each epoch: the second is the first of the best


@pytest.fixture
def networks(monkeypatch) -> Iterator[list[dict[str, torch.Tensor]]]:
    """The network as each validation saw it; validation is made to say SCORES, whatever the network has learnt."""
    use_tiny_data(monkeypatch.setattr)
    seen: list[dict[str, torch.Tensor]] = []
    evaluate = training.evaluate

    def scripted(network, dataset, **options):
        scores = evaluate(network, dataset, **options)
        if dataset.split == "val" and len(seen) < len(SCORES):
            seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
            scores = dataclasses.replace(scores, dataset_miou=SCORES[len(seen) - 1])
        return scores

    monkeypatch.setattr(training, "evaluate", scripted)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield seen
    torch.set_num_threads(before)


def run(tmp_path, **changes) -> RunConfig:
    values = {"data": "tiny", "model": "unet", "epochs": len(SCORES), "batch_size": 4, "out": str(tmp_path / "run")}
    return RunConfig(**(values | changes))


def kept(path, networks) -> list[int]:
    """The epochs whose network equals the one that was written."""
    written = load_file(path.with_name("model.safetensors"))
    return [
        epoch
        for epoch, network in enumerate(networks, 1)
        if all(torch.equal(written[name], tensor) for name, tensor in network.items())
    ]


def interrupt(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the sixth of eight steps, in the middle of the third epoch."""
    step = fitting.SegmentationTask.training_step

    def interrupted(self, batch, index):
        if self.global_step == 5:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as until:
        until.setattr(fitting.SegmentationTask, "training_step", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            training.train(config, progress=False)


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 4)])
def test_the_epoch_that_is_asked_for_is_written_and_scored(tmp_path, networks, keep, epoch) -> None:
    path = training.train(run(tmp_path, keep=keep), progress=False)
    record = json.loads(path.read_text())
    assert record["epoch"] == epoch
    assert kept(path, networks) == [epoch]
    again = training.evaluate(
        training.load_weights("unet", path.with_name("model.safetensors"), ("ground", "square", "dot")),
        training.Data.open(run(tmp_path)).test,
        progress=False,
    )
    assert record["scores"]["test"] == again.to_json()


def test_the_best_epoch_survives_an_interruption_after_it(tmp_path, networks, monkeypatch) -> None:
    interrupt(run(tmp_path, keep="best"), monkeypatch)
    assert len(networks) == 2
    path = training.train(run(tmp_path, keep="best"), resume=True, progress=False)
    assert json.loads(path.read_text())["epoch"] == 2
    assert kept(path, networks) == [2]


def test_the_best_epoch_needs_validation(tmp_path) -> None:
    with pytest.raises(LabError, match=r"keep: 'best' chooses by validation.*--validate-every 0"):
        run(tmp_path, keep="best", validate_every=0)
    with pytest.raises(LabError, match="keep: got 'first', expected one of last, best, average"):
        run(tmp_path, keep="first")


def test_the_average_is_the_mean_of_the_weights_after_the_later_steps(tmp_path, networks, monkeypatch) -> None:
    steps: list[dict[str, torch.Tensor]] = []
    rates: list[float] = []
    ended = fitting.SegmentationTask.on_train_batch_end

    def noted(self, outputs, batch, index):
        ended(self, outputs, batch, index)
        steps.append({name: weight.detach().double() for name, weight in self.model.named_parameters()})
        rates.append(self.learning_rate)

    monkeypatch.setattr(fitting.SegmentationTask, "on_train_batch_end", noted)
    config = run(tmp_path, keep="average", optimizer="sgd", learning_rate=0.05)
    path = training.train(config, progress=False)
    written = load_file(path.with_name("model.safetensors"))
    assert len(steps) == 8
    for name in steps[0]:
        expected = torch.stack([step[name] for step in steps[3:]]).mean(0)  # after more than 40 % of eight
        torch.testing.assert_close(written[name].double(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(written["classifier.weight"], steps[-1]["classifier.weight"].float())
    poly = [0.05 * (1 - min(0.4, step / 8)) ** 0.9 for step in range(8)]
    assert rates == pytest.approx(poly)  # Eq. 16, until the weights are averaged
    record = json.loads(path.read_text())
    again = training.evaluate(
        training.load_weights("unet", path.with_name("model.safetensors"), ("ground", "square", "dot")),
        training.Data.open(run(tmp_path)).val,
        progress=False,
    )
    assert record["scores"]["val"] == again.to_json()  # not the score of the last epoch's weights
    assert record["scores"]["val"] != record["history"][-1]["val"]


def test_batch_normalisation_of_the_average_is_measured_anew_unless_it_is_frozen(tmp_path, networks) -> None:
    path = training.train(run(tmp_path, keep="average"), progress=False)
    network = training.load_weights("unet", path.with_name("model.safetensors"), ("ground", "square", "dot"))
    config = run(tmp_path)
    view = training.Data.open(config).training_view(config)
    view.set_epoch(config.epochs)
    torch.manual_seed(fitting.mix(config.seed, fitting.STEP, 8))
    order = torch.randperm(
        len(view), generator=torch.Generator().manual_seed(fitting.mix(config.seed, SHUFFLE, config.epochs))
    ).tolist()
    inputs = []
    first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    network.train()
    for start in (0, 4):
        network(torch.stack([view[i][0] for i in order[start : start + 4]]).float() / 255)
    written = load_file(path.with_name("model.safetensors"))
    name = next(name for name, layer in network.named_modules() if layer is first)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in inputs]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in inputs]).mean(0)
    torch.testing.assert_close(written[f"{name}.running_mean"], means)
    torch.testing.assert_close(written[f"{name}.running_var"], variances)


def test_an_average_survives_an_interruption_bit_for_bit(tmp_path, networks, monkeypatch) -> None:
    whole = training.train(run(tmp_path, keep="average", out=str(tmp_path / "whole")), progress=False)
    interrupt(run(tmp_path, keep="average"), monkeypatch)  # the mean has begun in the second epoch
    path = training.train(run(tmp_path, keep="average"), resume=True, progress=False)
    one, other = (load_file(file.with_name("model.safetensors")) for file in (whole, path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_only_weights_of_the_last_loss_are_averaged(tmp_path, networks, monkeypatch) -> None:
    counts = []
    add = averaging.add

    def noted(mean, count, network):
        counts.append(count)
        return add(mean, count, network)

    monkeypatch.setattr(averaging, "add", noted)
    loss = "cross_entropy>0.75>lovasz_softmax"
    training.train(run(tmp_path, keep="average", loss=loss, freeze_batch_norm=False), progress=False)
    assert counts == [0, 1]  # the last two of eight steps


def test_processes_share_what_they_measure_of_their_batches() -> None:
    def measured(batches, team=ALONE) -> torch.nn.Module:
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        averaging.measure_batch_norm(network, ((batch, None) for batch in batches), torch.device("cpu"), team)
        return network

    batches = [torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8) for _ in range(4)]
    norm = measured(batches[1::2])[1]
    other = iter((norm.running_mean, norm.running_var))

    class Both(Team):
        def collect(self, value):
            return [value, next(other)]

    shared, whole = measured(batches[::2], Both(0, 2)), measured(batches)
    torch.testing.assert_close(shared[1].running_mean, whole[1].running_mean)
    torch.testing.assert_close(shared[1].running_var, whole[1].running_var)
