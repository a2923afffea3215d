"""Weights in files: what is written comes back, outputs follow the class names, and what cannot be used is refused by a
message that names the file, what it holds and what to do."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models import (
    MODELS,
    create_model,
    describe_weights,
    load_exported,
    load_weights,
    network_of,
    new_classes,
    other_classes,
    save_weights,
    trained_size,
)
from lovasz.lab.models.layouts import LAYOUTS, Layout

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["Sky", "Road", "Sign Symbol", "Unlabelled"]
PALETTE = [(1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 0, 0)]
PYTORCH_LAYOUT, TORCH7_LAYOUT = LAYOUTS[-2:]
LIGHT = [name for name in MODELS if name != "deeplab"]  # 44 million weights


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(3)))


def export(path: Path, name: str = "enet", **changes) -> nn.Module:
    model = create_model(name, len(CLASSES))
    arguments = {"model_name": name, "classes": CLASSES, "palette": PALETTE, "extra": {"loss": "lovasz_softmax"}}
    save_weights(model, path, **(arguments | changes))
    return model


def publish(path: Path, layout: Layout, classes: list[str] = CLASSES, **description) -> nn.Module:
    """A random network as a file of other people: their names, and a JSON of the kind that shared/weights has."""
    model = layout.build(len(classes))
    state = model.state_dict()
    save_file({theirs: state[ours].contiguous() for theirs, ours in layout.keys.items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"classes": classes} | description))
    return model


def refusal(path: Path, name: str = "enet", classes: list[str] = CLASSES) -> str:
    with pytest.raises(LabError) as error:
        load_weights(name, path, classes)
    assert path.name in str(error.value) or path.with_suffix(".json").name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("asked", LIGHT)
def test_an_export_comes_back_to_the_last_bit(tmp_path, name, asked):
    path = tmp_path / "new" / "model.safetensors"
    model = export(path, name)
    if name != asked and (name, asked) != ("enet_torch7", "enet"):
        assert f"it holds {name!r} and not the weights of {asked!r}; give a file of {asked!r}" in refusal(path, asked)
        return
    loaded = load_weights(asked, path, CLASSES)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_step_counters_of_normalisation_come_back(tmp_path):
    model = create_model("enet", 4).train()
    model(torch.rand(2, 3, 16, 16))
    save_weights(model, tmp_path / "m.safetensors", model_name="enet", classes=CLASSES, palette=None)
    assert load_weights("enet", tmp_path / "m.safetensors", CLASSES).initial.norm.num_batches_tracked == 1


def test_a_loaded_network_trains_and_leaves_its_file_alone(tmp_path):
    path = tmp_path / "m.safetensors"
    export(path)
    content = path.read_bytes()
    model = load_weights("enet", path, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model(torch.rand(2, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    assert path.read_bytes() == content


def test_description_holds_what_was_given(tmp_path):
    export(tmp_path / "m.safetensors")
    description = describe_weights(tmp_path / "m.safetensors")
    assert description["classes"] == CLASSES
    assert description["palette"] == [list(colour) for colour in PALETTE]
    assert (description["model_name"], description["num_outputs"]) == ("enet", 4)
    assert description["loss"] == "lovasz_softmax"


def test_published_files_load_without_a_data_set_and_without_void_outputs(tmp_path):
    path = tmp_path / "m.safetensors"
    model = publish(path, PYTORCH_LAYOUT, palette=PALETTE, licence="MIT")
    loaded, description = load_exported(path)
    assert description["classes"] == CLASSES[:3]
    assert description["palette"] == [list(colour) for colour in PALETTE[:3]]
    assert description["licence"] == "MIT"
    torch.testing.assert_close(logits(loaded), logits(model)[:, :3])


def test_the_folder_of_a_run_stands_for_its_weights_and_its_checkpoint_names_them(tmp_path):
    run = tmp_path / "grey"
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": {}}, checkpoint)
    for read in (describe_weights, load_exported, network_of):
        with pytest.raises(LabError, match=r"last\.ckpt: a checkpoint.*not written .*; finish it with --resume"):
            read(checkpoint)
        with pytest.raises(LabError, match=r"grey: is a folder; give a \.safetensors file"):
            read(run)
    path = run / "model.safetensors"
    model = export(path)
    loaded, description = load_exported(str(run))
    torch.testing.assert_close(logits(loaded), logits(model))
    with pytest.raises(LabError, match=r"grey: is a folder; give .*grey.model\.safetensors"):
        load_weights("enet", run, CLASSES)  # trainings note the file's hash and its JSON, and ask it
    assert (description["classes"], describe_weights(run)["classes"], network_of(run)) == (CLASSES, CLASSES, "enet")
    for read in (describe_weights, load_exported, network_of):
        with pytest.raises(LabError, match=r"last\.ckpt: a checkpoint.*: give .*grey.model\.safetensors\."):
            read(checkpoint)
        with pytest.raises(LabError, match=r"is a folder; give one of .*grey.model\.safetensors"):
            read(tmp_path)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if "deeplab" not in layout.names])
def test_the_tensors_tell_the_network_where_the_json_does_not(tmp_path, layout):
    path = tmp_path / "m.safetensors"
    model = publish(path, layout, CLASSES[:3])
    assert network_of(path) == ("enet" if "enet" in layout.names else layout.names[0])
    loaded, _ = load_exported(path)
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    path.with_suffix(".json").unlink()
    assert network_of(path) in layout.names


def test_an_export_keeps_every_output_that_was_trained_whatever_its_name(tmp_path):
    path = tmp_path / "m.safetensors"
    model = export(path, classes=["Unlabelled", "Road", "void", "ignore"])
    loaded, description = load_exported(path)
    assert (description["classes"][0], len(description["palette"])) == ("Unlabelled", 4)
    torch.testing.assert_close(logits(loaded), logits(model))


@pytest.mark.parametrize("layout", [PYTORCH_LAYOUT, TORCH7_LAYOUT], ids=["pytorch", "torch7"])
def test_outputs_follow_the_class_names(tmp_path, layout):
    publish(tmp_path / "file.safetensors", layout)
    everything = logits(load_weights("enet", tmp_path / "file.safetensors", CLASSES))
    some = logits(load_weights("enet", tmp_path / "file.safetensors", ["sign_symbol", "SKY"]))
    torch.testing.assert_close(some, everything[:, [2, 0]])


def test_torch7_dropout_factor_is_folded_once(tmp_path):
    model = publish(tmp_path / "file.safetensors", TORCH7_LAYOUT)
    loaded = load_weights("enet", tmp_path / "file.safetensors", CLASSES)
    save_weights(loaded, tmp_path / "own.safetensors", model_name="enet", classes=CLASSES, palette=None)
    again = load_weights("enet", tmp_path / "own.safetensors", CLASSES)
    before, after = model.state_dict(), again.state_dict()
    blocks = {"down1": 0.99, "stage1.3": 0.99, "down2": 0.9, "stage2.7": 0.9, "stage3.0": 0.9, "up4": 1, "stage5.0": 1}
    for block, factor in blocks.items():
        key = f"{block}.expand.norm.weight"
        torch.testing.assert_close(after[key], before[key] * factor)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(changed) == 5 + 9 + 8  # one weight in each bottleneck of stages 1 to 3; the shifts are zero here


def test_input_scaling_is_read_from_the_json(tmp_path):
    scaling = {"channels": "RGB", "mean": [0.1, 0.2, 0.3], "std": [0.5, 1, 2]}
    plain = publish(tmp_path / "file.safetensors", PYTORCH_LAYOUT, input=scaling)
    scaled = load_weights("enet", tmp_path / "file.safetensors", CLASSES)
    image = torch.rand(1, 3, 16, 16)
    mean, std = (torch.tensor(scaling[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(scaled.eval()(image), plain.eval()((image - mean) / std))


def test_without_a_json_outputs_are_taken_in_order(tmp_path):
    path = tmp_path / "m.safetensors"
    model = export(path)
    path.with_suffix(".json").unlink()
    torch.testing.assert_close(logits(load_weights("enet", path, ["a", "b", "c", "d"])), logits(model))
    message = refusal(path, classes=["a", "b", "c"])
    assert all(words in message for words in ("4 outputs for 3 classes (a, b, c)", "no m.json beside it"))
    with pytest.raises(LabError, match=r'm\.json: missing.* {"classes": \["road", \.\.\.\]}, one name for each'):
        load_exported(path)


def test_half_precision_files_load_as_float32(tmp_path):
    path = tmp_path / "m.safetensors"
    export(path)
    half = {key: value.half() if value.is_floating_point() else value for key, value in load_file(path).items()}
    save_file(half, path)
    assert {p.dtype for p in load_weights("enet", path, CLASSES).parameters()} == {torch.float32}


def test_loading_and_saving_draw_no_random_numbers(tmp_path):
    model = create_model("enet", 4)
    state = torch.get_rng_state()
    save_weights(model, tmp_path / "m.safetensors", model_name="enet", classes=CLASSES, palette=None)
    load_weights("enet", tmp_path / "m.safetensors", CLASSES)
    assert torch.equal(torch.get_rng_state(), state)


def test_missing_classes_are_listed_with_what_the_file_has(tmp_path):
    publish(tmp_path / "file.safetensors", PYTORCH_LAYOUT)
    message = refusal(tmp_path / "file.safetensors", classes=["Sky", "Boat", "Lake"])
    assert "no output for 2 of the 3 classes of the data: Boat, Lake" in message
    assert "Sky, Road, Sign Symbol, Unlabelled" in message
    assert 'rename the "classes" in file.json' in message


@pytest.mark.parametrize("name", LIGHT)
def test_training_keeps_the_outputs_that_there_are_and_draws_the_others_by_its_seed(tmp_path, name):
    path = tmp_path / "m.safetensors"
    before = logits(export(path, name))
    classes = ["Boat", "road", "Lake", "Sky"]
    found = logits(load_weights(name, path, classes, draw_missing=1))
    torch.testing.assert_close(found[:, [1, 3]], before[:, [1, 0]])
    assert new_classes(path, classes) == ["Boat", "Lake"]
    again, other = (logits(load_weights(name, path, classes, draw_missing=seed)) for seed in (1, 2))
    assert torch.equal(again, found)
    assert not torch.equal(other[:, 0], found[:, 0])
    wrong = "unet" if name != "unet" else "enet"
    with pytest.raises(LabError, match=f"not the weights of '{wrong}'"):
        load_weights(wrong, path, classes, draw_missing=1)


def test_outputs_beside_the_classes_are_all_but_a_published_void(tmp_path):
    publish(tmp_path / "theirs.safetensors", PYTORCH_LAYOUT)
    assert other_classes(tmp_path / "theirs.safetensors", ["ROAD"]) == ["Sky", "Sign Symbol"]
    export(tmp_path / "ours.safetensors")
    assert other_classes(tmp_path / "ours.safetensors", ["ROAD"]) == ["Sky", "Sign Symbol", "Unlabelled"]
    assert other_classes(tmp_path / "ours.safetensors", CLASSES) == []
    with pytest.raises(LabError, match="no output for 1 of the 2 classes of the data: Boat"):
        other_classes(tmp_path / "ours.safetensors", ["Sky", "Boat"])


@pytest.mark.parametrize("size", [[0, 4], [4], "4x4", [4.0, 4], [True, 4], [2**40, 2**40]])
def test_the_size_of_training_is_read_from_our_json_alone_and_a_wrong_one_is_named(tmp_path, size):
    path = tmp_path / "m.safetensors"
    export(path, extra={"size": (48, 64)})
    assert trained_size(path) == (48, 64)
    export(path, extra={"size": size})
    with pytest.raises(LabError, match=r'm\.json: "size" is .*expected \[height, width\]'):
        trained_size(path)
    publish(path, PYTORCH_LAYOUT, size=size)
    assert trained_size(path) is None
    path.with_suffix(".json").unlink()
    assert trained_size(path) is None


def test_names_that_differ_only_in_spelling_keep_their_outputs(tmp_path):
    names = ["cat", "Cat", "c_at", "dog"]
    model = export(tmp_path / "m.safetensors", classes=names)
    expected = logits(model)
    torch.testing.assert_close(logits(load_weights("enet", tmp_path / "m.safetensors", names)), expected)
    picked = logits(load_weights("enet", tmp_path / "m.safetensors", ["Cat", "dog"]))
    torch.testing.assert_close(picked, expected[:, [1, 3]])
    assert "'CAT' may be one of several outputs" in refusal(tmp_path / "m.safetensors", classes=["CAT"])


def test_wrong_network_names_the_first_missing_and_unexpected_tensors(tmp_path):
    path = tmp_path / "resnet.safetensors"
    save_file({"layer1.weight": torch.zeros(2), "layer2.weight": torch.zeros(2)}, path)
    message = refusal(path)
    assert "not the weights of 'enet'" in message
    assert "missing, first " in message
    assert "2 unexpected, first layer1.weight, layer2.weight" in message


def test_one_missing_tensor_is_named(tmp_path):
    path = tmp_path / "file.safetensors"
    publish(path, PYTORCH_LAYOUT)
    tensors = load_file(path)
    del tensors["regular4_2.out_prelu.weight"]
    save_file(tensors, path)
    message = refusal(path)
    assert "davidtvs/PyTorch-ENet" in message
    assert "1 missing, first regular4_2.out_prelu.weight" in message
    assert "unexpected" not in message


@pytest.mark.parametrize(
    "value", [torch.zeros(3), torch.zeros(16, 4, 3, 3, dtype=torch.int32), torch.zeros(1, 4, 3, 3)]
)
def test_a_tensor_of_another_kind_is_named(tmp_path, value):
    path = tmp_path / "m.safetensors"
    export(path)
    save_file(load_file(path) | {"classifier.weight": value}, path)
    message = refusal(path)
    assert f"classifier.weight is {value.dtype} of shape {tuple(value.shape)}" in message


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    export(path)
    tensors = load_file(path)
    tensors["stage2.2.middle.conv2.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, path)
    assert "stage2.2.middle.conv2.weight holds NaN" in refusal(path)


def test_files_that_are_no_whole_safetensors_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    export(path)
    content = path.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "not a whole safetensors file" in refusal(path)
    path.write_bytes(content + b"more")
    assert "not a whole safetensors file" in refusal(path)
    assert "there is no such weights file" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert "is a folder; give a .safetensors file" in refusal(tmp_path / "folder.safetensors")


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.write_text, (self.place, "ran")


def test_pickles_are_never_opened(tmp_path):
    trapped = {"weight": Trap(tmp_path / "ran")}
    pickle.loads(pickle.dumps(Trap(tmp_path / "works")))  # noqa: S301 - the trap must be one
    assert (tmp_path / "works").exists()
    torch.save(trapped, tmp_path / "zip.safetensors")
    torch.save(trapped, tmp_path / "bare.safetensors", _use_new_zipfile_serialization=False)
    for name in ("zip", "bare"):
        path = (tmp_path / f"{name}.safetensors").rename(tmp_path / f"{name}.pth")
        message = refusal(path)
        assert "a file of torch.save, which may run code and is not opened" in message
        assert f"save_file(torch.load('{name}.pth', weights_only=True), '{name}.safetensors')" in message
        for read in (describe_weights, load_exported, network_of):  # and before a JSON is missed
            with pytest.raises(LabError, match="may run code and is not opened"):
                read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("\udcff", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", '"classes" lists the class name of each output'),
        ('{"classes": "Sky"}', '"classes" lists the class name of each output'),
        ('{"classes": []}', '"classes" lists the class name of each output'),
        ('{"classes": [1, 2, 3, 4]}', '"classes" lists the class name of each output'),
        ('{"classes": ["a", "b", "c", "a"]}', "\"classes\" has 'a'; expected names that differ"),
        ('{"classes": ["a", "b", "c", "\\ud800"]}', "expected names that differ, of whole characters"),
        ('{"classes": ["a", "b", "c"]}', '"classes" names 3 outputs, but file.safetensors has 4'),
        ('{"classes": ["a", "b", "c", "d"], "palette": [[0, 0, 0]]}', '"palette" must hold one [red, green, blue]'),
        ('{"classes": ["a", "b", "c", "d"], "palette": [[0, 0, 256], [0], 3, ""]}', '"palette" must hold one'),
        ('{"classes": ["a", "b", "c", "d"], "input": {"channels": "BGR"}}', '"channels": "RGB"'),
        ('{"classes": ["a", "b", "c", "d"], "input": {"mean": [0, 0]}}', "mean [0, 0]; expected three numbers"),
        ('{"classes": ["a", "b", "c", "d"], "input": {"std": [1, 0, 1]}}', "std [1, 0, 1]; expected three numbers"),
    ],
)
def test_a_json_that_cannot_be_used_is_refused(tmp_path, text, words):
    path = tmp_path / "file.safetensors"
    publish(path, PYTORCH_LAYOUT)
    path.with_suffix(".json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert words in refusal(path, classes=["a", "b", "c", "d"])


def test_unknown_model_name_and_no_classes_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    export(path)
    with pytest.raises(
        LabError, match="'segnet' is unknown; choose one of: deeplab, enet, enet_torch7, espnetv2, unet"
    ):
        load_weights("segnet", path, CLASSES)
    assert "name at least one" in refusal(path, classes=[])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["a", "b", "c"], "palette": None}, "3 class names for 4 outputs"),
        ({"palette": PALETTE[:2]}, "palette"),
        ({"palette": [(0, 0, 300)] * 4}, "palette"),
        ({"extra": {"classes": []}}, "extra may not replace classes"),
        ({"model_name": "enet_torch7"}, "not the weights of 'enet_torch7'"),
    ],
)
def test_an_export_that_would_not_load_again_is_not_written(tmp_path, changes, words):
    path = tmp_path / "m.safetensors"
    with pytest.raises(LabError, match=words):
        export(path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_exports_go_to_safetensors_in_a_folder_that_can_be_written(tmp_path):
    with pytest.raises(LabError, match=r"model\.pt: weights are written as \.safetensors"):
        export(tmp_path / "model.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot be written"):
        export(tmp_path / "file" / "m.safetensors")


def test_published_files_load_by_class_name(shared):
    camvid = shared / "weights/enet_camvid_davidtvs.safetensors"
    classes = json.loads((shared / "data/camvid/classes.json").read_text())["classes"][:11]
    model = load_weights("enet", camvid, classes)
    expected = load_file(camvid)["transposed_conv.weight"][:, :11]  # the file has the data set's order
    assert torch.equal(model.classifier.weight, expected)
    loaded, description = load_exported(camvid)
    assert description["classes"] == classes
    assert torch.equal(loaded.classifier.weight, expected)
    torch7 = load_weights("enet", shared / "weights/enet_cityscapes_elab.safetensors", ["traffic light", "Car"])
    expected = load_file(shared / "weights/enet_cityscapes_elab.safetensors")
    assert torch.equal(torch7.classifier.weight, expected["classifier.weight"][:, [7, 14]])
    assert torch.equal(torch7.classifier.bias, expected["classifier.bias"][[7, 14]])


def test_a_published_network_that_nobody_names_is_found(shared):
    network, description = load_exported(shared / "weights/espnetv2_s2.0_voc2012.safetensors")
    assert type(network).__name__ == "ESPNetV2"
    assert len(description["classes"]) == 21


def test_another_published_network_is_refused(shared):
    message = refusal(shared / "weights/espnetv2_s2.0_voc2012.safetensors", classes=["background"])
    assert "not the weights of 'enet'" in message
