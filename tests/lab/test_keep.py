"""`keep="best"`: which epoch's network a run leaves, also when it was interrupted. Apart from test_training.py, whose
runs all leave the last one."""

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file
from tests.lab.tiny import use_tiny_data

from lovasz.lab import fitting, training
from lovasz.lab.config import RunConfig
from lovasz.lab.errors import LabError

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
    values = {"data": "tiny", "epochs": len(SCORES), "batch_size": 4, "out": str(tmp_path / "run")}
    return RunConfig(**(values | changes))


def kept(path, networks) -> list[int]:
    """The epochs whose network equals the one that was written."""
    written = load_file(path.with_name("model.safetensors"))
    return [
        epoch
        for epoch, network in enumerate(networks, 1)
        if all(torch.equal(written[name], tensor) for name, tensor in network.items())
    ]


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 4)])
def test_the_epoch_that_is_asked_for_is_written_and_scored(tmp_path, networks, keep, epoch) -> None:
    path = training.train(run(tmp_path, keep=keep), progress=False)
    record = json.loads(path.read_text())
    assert record["epoch"] == epoch
    assert kept(path, networks) == [epoch]
    again = training.evaluate(
        training.load_weights("enet", path.with_name("model.safetensors"), ("ground", "square", "dot")),
        training.Data.open(run(tmp_path)).test,
        progress=False,
    )
    assert record["scores"]["test"] == again.to_json()


def test_the_best_epoch_survives_an_interruption_after_it(tmp_path, networks, monkeypatch) -> None:
    step = fitting.SegmentationTask.training_step

    def interrupted(self, batch, index):
        if self.global_step == 5:  # two steps an epoch: in the middle of the third
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as until:
        until.setattr(fitting.SegmentationTask, "training_step", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            training.train(run(tmp_path, keep="best"), progress=False)
    assert len(networks) == 2
    path = training.train(run(tmp_path, keep="best"), resume=True, progress=False)
    assert json.loads(path.read_text())["epoch"] == 2
    assert kept(path, networks) == [2]


def test_the_best_epoch_needs_validation(tmp_path) -> None:
    with pytest.raises(LabError, match=r"keep: 'best' chooses by validation.*--validate-every 0"):
        run(tmp_path, keep="best", validate_every=0)
    with pytest.raises(LabError, match="keep: got 'first', expected one of last, best"):
        run(tmp_path, keep="first")
