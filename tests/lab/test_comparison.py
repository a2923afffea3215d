"""A comparison is fair and survives a kill: one start, one order of data, finished runs kept, missing ones added."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file
from tests.lab.tiny import INFO, use_tiny_data

from lovasz.lab import comparison, training
from lovasz.lab.comparison import compare
from lovasz.lab.comparison_format import read_comparison
from lovasz.lab.config import ComparisonConfig, RunConfig, write_json
from lovasz.lab.errors import Diverged, LabError
from lovasz.lab.examples import largest_differences
from lovasz.lab.models import create_model, save_weights
from lovasz.lab.report import write_report

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = ("cross_entropy", "lovasz_softmax")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch) -> None:
    use_tiny_data(monkeypatch.setattr)


def config(tmp_path, *, run=None, **changes) -> ComparisonConfig:
    shared = RunConfig(**({"data": "tiny", "model": "unet", "epochs": 1, "batch_size": 4} | (run or {})))
    values = {"run": shared, "losses": LOSSES, "out": str(tmp_path / "out"), "examples": 2, "command": "lovasz compare"}
    return ComparisonConfig(**(values | changes))


def read(path) -> dict:
    return json.loads(path.read_text())


def test_a_start_that_lacks_classes_trains_with_new_outputs_and_says_which(tmp_path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(create_model("unet", 2), weights, model_name="unet", classes=("square", "sky"), palette=None)
    run = {"model": "unet", "weights": str(weights)}
    document = read(compare(config(tmp_path, run=run, losses=LOSSES[:1], examples=0), progress=False))
    assert document["start"] == {"kind": "weights", "detail": "w.safetensors; anew: ground, dot"}
    assert set(document["runs"][0]["scores"]["val"]["per_class_iou"]) == set(INFO.classes)
    with pytest.raises(LabError, match="holds 'unet' and not the weights of 'enet'"):
        compare(config(tmp_path, run=run | {"model": "enet"}, out=str(tmp_path / "other")), progress=False)
    assert not (tmp_path / "other").exists()


def test_the_result_is_what_the_report_reads(tmp_path) -> None:
    path = compare(config(tmp_path, run={"pretrain_epochs": 1}, seeds=(0, 1)), progress=False)
    document = read(path)
    read_comparison(path.parent)  # the reader's own check
    assert [(run["loss"], run["seed"]) for run in document["runs"]] == [(loss, s) for loss in LOSSES for s in (0, 1)]
    assert document["dataset"]["images"] == {"train": 10, "val": 4, "test": 3}
    assert document["start"] == {"kind": "pretraining", "detail": "1 epoch of cross-entropy"}
    assert document["initial"] == document["pretraining"][0]["scores"]
    assert document["parameters"] == sum(p.numel() for p in create_model("unet", 3).parameters())
    for run in document["runs"]:
        assert (path.parent / run["weights"]).is_file()
    assert str(tmp_path) not in path.read_text()

    differences = [example["difference"] for example in document["examples"]]
    assert len(differences) == 2
    assert differences == sorted(differences, reverse=True)
    for example in document["examples"]:
        pictures = [example["image"], example["truth"], *(p["image"] for p in example["predictions"].values())]
        assert len(set(pictures)) == 4
        for picture in pictures:
            with Image.open(path.parent / picture) as image:
                assert (image.mode, image.size) == ("RGB", (32, 32))
        colours = Image.open(path.parent / example["truth"]).getcolors()
        assert {colour for _, colour in colours} <= {*INFO.palette, (0, 0, 0)}


def test_all_losses_of_a_seed_start_from_the_same_weights_and_see_the_same_data(tmp_path, monkeypatch) -> None:
    starts, batches = {}, {}
    fit = training.fit

    def spy(run, model, loss, data, folder, **rest):
        key = run.loss, run.seed
        starts[key] = [tensor.clone() for tensor in model.state_dict().values()]
        batches[key] = []

        def note(module, arguments):
            if module.training:
                batches[key].append(arguments[0].clone())

        handle = model.register_forward_pre_hook(note)
        result = fit(run, model, loss, data, folder, **rest)
        handle.remove()
        return result

    monkeypatch.setattr(training, "fit", spy)
    compare(config(tmp_path, seeds=(0, 1)), progress=False)
    for seed in (0, 1):
        a, b = ((loss, seed) for loss in LOSSES)
        assert all(torch.equal(x, y) for x, y in zip(starts[a], starts[b], strict=True))
        assert all(torch.equal(x, y) for x, y in zip(batches[a], batches[b], strict=True))
        assert len(batches[a]) == 2
    assert not torch.equal(batches[LOSSES[0], 0][0], batches[LOSSES[0], 1][0])
    assert not all(torch.equal(x, y) for x, y in zip(starts[LOSSES[0], 0], starts[LOSSES[0], 1], strict=True))


def test_a_weights_file_is_the_start_and_is_scored_once(tmp_path, monkeypatch) -> None:
    weights = tmp_path / "start.safetensors"
    save_weights(create_model("unet", 3), weights, model_name="unet", classes=INFO.classes, palette=INFO.palette)
    scored = []
    evaluate = comparison.evaluate
    monkeypatch.setattr(comparison, "evaluate", lambda *a, **k: scored.append(k["description"]) or evaluate(*a, **k))
    run = {"weights": str(weights), "learning_rate": 1e-12, "weight_decay": 0.0}
    path = compare(config(tmp_path, run=run, seeds=(3,)), progress=False)
    document = read(path)
    assert document["start"] == {"kind": "weights", "detail": "start.safetensors"}
    assert scored == ["start: val", "start: test"]
    begin, end = load_file(weights), load_file(path.parent / document["runs"][0]["weights"])
    trained = [name for name, tensor in begin.items() if tensor.is_floating_point() and "running" not in name]
    for name in trained:
        torch.testing.assert_close(end[name], begin[name], rtol=0, atol=1e-9)
    compare(config(tmp_path, run=run, seeds=(3,), resume=True), progress=False)
    assert len(scored) == 2


def start_weights(path, seed: int) -> dict:
    """A file of random weights; what a run from it is told."""
    torch.manual_seed(seed)
    save_weights(create_model("unet", 3), path, model_name="unet", classes=INFO.classes, palette=None)
    return {"model": "unet", "weights": str(path)}


def test_losses_are_not_added_to_a_comparison_whose_start_weights_have_changed(tmp_path) -> None:
    run = start_weights(tmp_path / "start.safetensors", 0)
    first = compare(config(tmp_path, run=run, losses=LOSSES[:1], examples=0), progress=False)
    before = read(first.parent / "config.json")
    start_weights(tmp_path / "start.safetensors", 1)
    more = config(tmp_path, run=run, losses=LOSSES, examples=0, resume=True)
    with pytest.raises(
        LabError, match=r"config\.json: cannot resume with other weights.*start\.safetensors has changed"
    ):
        compare(more, progress=False)
    assert read(first.parent / "config.json") == before
    start_weights(tmp_path / "start.safetensors", 0)
    assert len(read(compare(more, progress=False))["runs"]) == 2
    earlier = {name: value for name, value in before.items() if name != "weights"}  # versions that noted no hash
    (first.parent / "config.json").write_text(json.dumps(earlier))
    compare(more, progress=False)
    assert read(first.parent / "config.json")["weights"] == before["weights"]


def test_start_weights_that_change_between_two_runs_stop_the_second(tmp_path, monkeypatch) -> None:
    run = start_weights(tmp_path / "start.safetensors", 0)
    whole = comparison.run_once

    def then_changed(*arguments, **options):
        record = whole(*arguments, **options)
        start_weights(tmp_path / "start.safetensors", 1)
        return record

    monkeypatch.setattr(comparison, "run_once", then_changed)
    with pytest.raises(LabError, match=r"start\.safetensors: has changed since this command began"):
        compare(config(tmp_path, run=run, losses=LOSSES[:1], seeds=(0, 1), examples=0), progress=False)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_comparison_json_is_made_anew_from_the_records_of_its_runs(tmp_path, capsys, content) -> None:
    asked = config(tmp_path, run={"model": "unet"}, losses=LOSSES[:1], examples=0)
    path = compare(asked, progress=False)
    before = read(path)
    path.write_text(content)
    document = read(compare(replace(asked, resume=True)))
    assert document | {name: before[name] for name in ("created", "command")} == before
    assert "comparison.json: is damaged, and is made anew" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"history": 1}'])
def test_a_damaged_record_of_a_run_is_told_with_the_remedy(tmp_path, content) -> None:
    asked = config(tmp_path, run={"model": "unet", "pretrain_epochs": 1}, losses=LOSSES[:1], examples=0)
    path = compare(asked, progress=False)
    before = read(path)
    for record in path.parent.rglob("run.json"):
        whole = record.read_text()
        record.write_text(content)
        with pytest.raises(LabError, match=r"run\.json: .*Delete it, and the run is scored again from its checkpoint"):
            compare(replace(asked, resume=True), progress=False)
        record.write_text(whole)
    record.unlink()
    again = read(compare(replace(asked, resume=True), progress=False))
    assert again["runs"][0]["scores"] == before["runs"][0]["scores"]


def test_a_configuration_with_losses_that_are_no_texts_is_told(tmp_path) -> None:
    asked = config(tmp_path, run={"model": "unet"}, losses=LOSSES[:1], examples=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps(asked.to_json() | {"losses": [5]}))
    with pytest.raises(LabError, match=r"config\.json: not the configuration of a comparison"):
        compare(replace(asked, resume=True), progress=False)


class Stopped(Exception):
    """Stands for a kill between two runs or in the middle of one."""


def test_what_was_finished_is_kept_and_what_is_missing_is_made_up(tmp_path, monkeypatch) -> None:
    whole = read(compare(config(tmp_path, out=str(tmp_path / "whole"), run={"epochs": 2}), progress=False))

    step = training.fit.__globals__["SegmentationTask"].training_step
    steps = []

    def stopping(self, batch, index):
        steps.append(self.loss.spec)
        if len(steps) == 4 + 3:  # in the second epoch of the second loss
            raise Stopped
        return step(self, batch, index)

    monkeypatch.setattr(training.fit.__globals__["SegmentationTask"], "training_step", stopping)
    with pytest.raises(Stopped):
        compare(config(tmp_path, run={"epochs": 2}), progress=False)
    part = read(tmp_path / "out" / "comparison.json")
    assert [run["loss"] for run in part["runs"]] == ["cross_entropy"]

    steps.clear()
    document = read(compare(config(tmp_path, run={"epochs": 2}, resume=True), progress=False))
    assert len(steps) == 2  # the second epoch of the second loss and nothing else
    for run, expected in zip(document["runs"], whole["runs"], strict=True):
        assert run["scores"] == expected["scores"]
        assert run["history"] == expected["history"]
    assert document["created"] == part["created"]


def test_losses_and_seeds_can_be_added_to_a_finished_comparison(tmp_path, monkeypatch) -> None:
    first = read(compare(config(tmp_path), progress=False))
    started = []
    run_once = comparison.run_once
    monkeypatch.setattr(
        comparison, "run_once", lambda run, *a, **k: started.append((run.loss, run.seed)) or run_once(run, *a, **k)
    )
    path = compare(config(tmp_path, losses=("hinge",), seeds=(2,), resume=True), progress=False)
    assert started == [("hinge", 0), ("cross_entropy", 2), ("lovasz_softmax", 2), ("hinge", 2)]
    document = read(path)
    assert document["losses"] == [*LOSSES, "hinge"]
    assert [run for run in document["runs"] if (run["loss"], run["seed"]) in ((LOSSES[0], 0), (LOSSES[1], 0))] == first[
        "runs"
    ]


def test_a_resumed_comparison_says_which_runs_are_to_go(tmp_path, monkeypatch) -> None:
    compare(config(tmp_path, examples=0), progress=False)
    said = []
    monkeypatch.setattr(comparison, "say", lambda _, text: said.append(text))
    compare(config(tmp_path, losses=("hinge",), seeds=(0, 2), resume=True, examples=0), progress=False)
    runs = "hinge with seed 0, cross_entropy with seed 2, lovasz_softmax with seed 2, hinge with seed 2"
    told = f"2 finished runs are kept, 4 to go: {runs} (every loss of the folder gets every seed)."
    assert told in said


def test_losses_can_be_added_in_any_order_and_without_the_old_ones(tmp_path) -> None:
    """The command line sets run.loss to the first loss that is typed, which changes with what is typed."""
    for typed, losses in [
        (("cross_entropy",), ["cross_entropy"]),
        (("lovasz_softmax", "cross_entropy"), [*LOSSES]),
        (("hinge",), [*LOSSES, "hinge"]),
    ]:
        path = compare(
            config(tmp_path, run={"loss": typed[0]}, losses=typed, resume=len(losses) > 1, examples=0), progress=False
        )
        document = read(path)
        assert [run["loss"] for run in document["runs"]] == losses


@pytest.mark.parametrize(
    ("seeds", "words"), [((0,), "--seeds 2"), ((1, 4), "--seeds 0,1,4")], ids=["a count", "a list"]
)
def test_the_command_of_an_extended_comparison_repeats_all_of_it(tmp_path, seeds, words) -> None:
    before = ComparisonConfig(run=RunConfig(data="tiny"), losses=LOSSES, seeds=(0, 1), out=str(tmp_path))
    write_json(tmp_path / "config.json", before.to_json())
    line = "lovasz compare --data 'folder:my images' --losses=x --seeds 7, --losses hinge --resume --epochs 1"
    extended = comparison.with_earlier(
        config(tmp_path, out=str(tmp_path), losses=("hinge",), seeds=seeds, command=line, resume=True)
    )
    data = "lovasz compare --data 'folder:my images' --epochs 1"
    assert extended.command == f"{data} --losses cross_entropy,lovasz_softmax,hinge {words}"


def test_the_command_of_an_interrupted_comparison_repeats_it_without_resume(tmp_path) -> None:
    line = "lovasz compare --data tiny --resume"
    asked = config(tmp_path, losses=("hinge",), seeds=(7,), command=line, resume=True)
    path = compare(asked, progress=False)
    assert read(path)["command"] == "lovasz compare --data tiny --losses hinge --seeds 7,"
    other = config(tmp_path, losses=("hinge",), seeds=(7,), command="it's a notebook", resume=True)
    assert read(compare(other, progress=False))["command"] == "it's a notebook"


def test_an_existing_folder_and_another_configuration_are_refused(tmp_path) -> None:
    compare(config(tmp_path), progress=False)
    with pytest.raises(LabError, match=r"out: the output folder exists.*--resume"):
        compare(config(tmp_path), progress=False)
    with pytest.raises(LabError, match="cannot resume with another configuration, batch_size: 4 there, 5 now"):
        compare(config(tmp_path, run={"batch_size": 5}, resume=True), progress=False)


def test_wrong_input_leaves_no_folder_behind(tmp_path) -> None:
    wrong = [
        config(tmp_path, losses=("cross_entropy", "cross-entropy")),
        config(tmp_path, losses=("cross_entropy", " cross_entropy")),
        config(tmp_path, run={"weights": str(tmp_path / "none.safetensors")}),
        config(tmp_path, run={"model": "resnet"}),
        config(tmp_path, run={"device": "cuda:99"}),
        config(tmp_path, run={"device": "cpu", "precision": "16-mixed"}),
        config(tmp_path, run={"freeze_batch_norm": True}),
        config(tmp_path, run={"batch_size": 10}, losses=("cross_entropy>hinge",)),
    ]
    words = ["cross_entropy", "stands twice", "none.safetensors", "resnet", "cuda:99"]
    words += ["16-mixed", "freeze_batch_norm", "none is left for hinge"]
    for one, word in zip(wrong, words, strict=True):
        with pytest.raises(LabError, match=word):
            compare(one, progress=False)
    assert not (tmp_path / "out").exists()


def test_batch_normalisation_may_be_frozen_after_a_first_phase(tmp_path) -> None:
    run = {"model": "unet", "freeze_batch_norm": True, "pretrain_epochs": 1}
    document = read(compare(config(tmp_path, run=run, losses=LOSSES[:1], examples=0), progress=False))
    assert document["config"]["freeze_batch_norm"] is True


def test_a_loss_that_diverges_takes_no_other_its_turn_and_is_told_in_the_end(tmp_path) -> None:
    asked = config(tmp_path, losses=("1e39*hinge", *LOSSES))
    message = r"^seed 0, loss 1e39\*hinge: inf at step 1 of .*--learning-rate\)\.$"
    with pytest.raises(Diverged, match=message):
        compare(asked, progress=False)
    document = read_comparison(tmp_path / "out")
    assert [run["loss"] for run in document["runs"]] == list(LOSSES)
    assert all(set(example["predictions"]) == set(LOSSES) for example in document["examples"])
    assert len(document["examples"]) == 2
    assert "1e39*hinge" in write_report(tmp_path / "out").read_text()  # as missing
    with pytest.raises(Diverged, match=message):
        compare(replace(asked, resume=True), progress=False)
    assert read_comparison(tmp_path / "out")["runs"] == document["runs"]


def test_a_folder_is_of_a_comparison_or_of_a_run(tmp_path) -> None:
    compare(config(tmp_path), progress=False)
    run = RunConfig(data="tiny", model="unet", epochs=1, batch_size=4, loss=LOSSES[0], out=str(tmp_path / "out"))
    with pytest.raises(LabError, match=r"out: the folder of a comparison, in which lovasz compare goes on"):
        training.train(run, resume=True, progress=False)
    assert not (tmp_path / "out" / "run.json").exists()
    training.train(run.replace(out=str(tmp_path / "alone")), progress=False)
    with pytest.raises(LabError, match=r"alone: the folder of a single run, in which lovasz train goes on"):
        compare(config(tmp_path, out=str(tmp_path / "alone"), resume=True), progress=False)


def test_weights_that_are_gone_from_a_finished_run_are_told_and_come_back_by_the_remedy(tmp_path) -> None:
    asked = config(tmp_path)
    folder = compare(asked, progress=False).parent / LOSSES[0] / "seed-0"
    kept = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(LabError, match=r"model\.safetensors: is missing.*delete .*run\.json, and the run is scored"):
        compare(replace(asked, resume=True), progress=False)
    (folder / "run.json").unlink()
    compare(replace(asked, resume=True), progress=False)
    before, after = (load(content) for content in (kept, (folder / "model.safetensors").read_bytes()))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_images_with_the_largest_difference_come_first() -> None:
    images = {
        "a": {"x": 0.5, "y": 0.9, "z": 0.2, "void": None},
        "b": {"x": 0.6, "y": 0.2, "z": 0.3, "void": 0.4},
        "c": {"x": 0.1, "y": 0.3, "z": 0.3, "void": 0.1},
    }
    names = [(name, pytest.approx(d)) for name, d in [("y", 0.7), ("x", 0.5), ("z", 0.1)]]
    assert largest_differences(images, 5) == names
    assert largest_differences(images, 1) == names[:1]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"losses": ()}, "at least one loss"), ({"seeds": (1, 1)}, "stands twice"), ({"examples": -1}, "examples")],
)
def test_a_wrong_comparison_is_named(tmp_path, changes, word) -> None:
    with pytest.raises(LabError, match=word):
        config(tmp_path, **changes)
