"""Networks of transformers, torchvision and smp in the lab: against their own libraries, saved, read again, refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import INFO, TinyDataset
from typer.testing import CliRunner

from lovasz.lab import commands, splits
from lovasz.lab.comparison import compare
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, load_exported, load_weights, save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

transformers = pytest.importorskip("transformers")

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
SMALL = {
    "segformer": {
        "depths": [1] * 4,
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1] * 4,
        "decoder_hidden_size": 16,
    },
    "beit": {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 64,
        "out_indices": [1, 2, 3, 4],
        "pool_scales": [1, 2],
    },
    "dpt": {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 64,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
    },
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {
        "hidden_sizes": [12, 16, 20],
        "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16],
        "num_attention_heads": 2,
    },
}


def tiny(kind: str = "segformer", classes: int = 3):
    """A network of transformers itself, with statistics and biases at which no two channels could be exchanged."""
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind], num_labels=classes)
    network = transformers.AutoModelForSemanticSegmentation.from_config(config).eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.rand_like(tensor) * (1.0 if "var" in name else 0.5))
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "segformer"
    tiny().save_pretrained(place)
    preprocessor = {"image_mean": MEAN, "image_std": STD, "do_normalize": True}
    (place / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return place


@torch.no_grad()
def logits(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model.eval()(image)


@torch.no_grad()
def theirs(folder: Path, image: torch.Tensor, mean: list[float] = MEAN, std: list[float] = STD) -> torch.Tensor:
    """What transformers says of an image with sides that need no padding, at the image's size."""
    network = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    scaled = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    coarse = network(pixel_values=scaled).logits
    return F.interpolate(coarse, image.shape[2:], mode="bilinear", align_corners=False)


def test_a_folder_gives_the_logits_of_transformers_at_the_size_of_the_image(folder) -> None:
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(logits(create_model(f"hub:{folder}", 3), image), theirs(folder, image))


@pytest.mark.parametrize("kind", list(SMALL))
def test_every_kind_takes_any_size_and_comes_back_from_its_file(tmp_path, kind) -> None:
    tiny(kind).save_pretrained(tmp_path / kind)
    model = create_model(f"hub:{tmp_path / kind}", 3)
    image = torch.rand(2, 3, 50, 70)
    before = logits(model, image)
    assert before.shape == (2, 3, 50, 70)
    path = tmp_path / "m.safetensors"
    save_weights(model, path, model_name=f"hub:{tmp_path / kind}", classes=["a", "b", "c"], palette=None)
    shutil.rmtree(tmp_path / kind)  # the file and its JSON are enough
    torch.testing.assert_close(logits(load_weights("hub:elsewhere", path, ["a", "b", "c"]), image), before)
    picked = load_weights("hub:elsewhere", path, ["C", "a"])
    torch.testing.assert_close(logits(picked, image), before[:, [2, 0]], rtol=1e-4, atol=1e-5)
    exported, description = load_exported(path)
    torch.testing.assert_close(logits(exported, image), before)
    assert description["architecture"]["config"]["model_type"] == kind


@pytest.mark.parametrize("kind", ["segformer", "mobilevit"])
def test_the_order_of_channels_of_the_preprocessor_is_kept(tmp_path, kind) -> None:
    tiny(kind).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_flip_channel_order": True}))
    image = torch.rand(1, 3, 64, 64)
    found = logits(create_model(f"hub:{tmp_path}", 3), image)
    torch.testing.assert_close(found, theirs(tmp_path, image.flip(1), [0.0] * 3, [1.0] * 3))


def test_for_another_number_of_classes_the_body_stays_and_the_last_layer_is_new(folder) -> None:
    same, more = (create_model(f"hub:{folder}", count).state_dict() for count in (3, 5))
    for key, tensor in same.items():
        if "decode_head.classifier" in key:
            assert more[key].shape[0] == 5
        else:
            assert torch.equal(more[key], tensor), key


def test_a_configuration_alone_or_an_architecture_by_name_starts_from_random_weights_of_the_seed(folder) -> None:
    (folder / "model.safetensors").unlink()
    for name in (f"hub:{folder}", "hub:mobilenet_v2"):
        first, second = (torch.manual_seed(7) and create_model(name, 2).state_dict() for _ in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_compare_evaluate_and_predict_take_it_as_any_other_network(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(splits, "open_dataset", lambda spec, split, **_: TinyDataset(split))
    monkeypatch.setattr(splits, "available_splits", lambda spec, **_: ("train", "val", "test"))
    run = RunConfig(data="tiny", model=f"hub:{folder}", epochs=1, batch_size=4)
    path = compare(
        ComparisonConfig(run=run, losses=("cross_entropy", "lovasz_softmax"), out=str(tmp_path / "out"), examples=1),
        progress=False,
    )
    document = json.loads(path.read_text())
    assert document["start"] == {"kind": "weights", "detail": f"hub:{folder}"}
    assert document["initial"]["val"]["dataset_miou"] > 0
    assert document["parameters"] == sum(p.numel() for p in tiny().parameters())
    weights = path.parent / document["runs"][1]["weights"]
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    shutil.rmtree(folder)
    arguments = ["predict", tmp_path / "photo.png", "--weights", weights, "--out", tmp_path / "masks"]
    done = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    network = load_weights("hub:any", weights, INFO.classes)
    expected = logits(network, torch.from_numpy(image).permute(2, 0, 1)[None] / 255).argmax(1)[0]
    found = np.array(Image.open(tmp_path / "masks" / "masks" / "photo.png"))
    assert (torch.from_numpy(found).long() == expected).float().mean() > 0.99


def refused(name: str) -> str:
    with pytest.raises(LabError) as error:
        create_model(name, 3)
    return str(error.value)


def test_what_is_no_such_network_is_refused_with_what_to_do(folder, tmp_path) -> None:
    assert "one of: beit," in refused("hub:segfomer")
    assert "such as hub:segformer" in refused("hub:")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(f"hub:{tmp_path / 'empty'}")
    (tmp_path / "empty" / "config.json").write_text("{")
    assert "configuration cannot be used" in refused(f"hub:{tmp_path / 'empty'}")
    transformers.BertConfig().save_pretrained(tmp_path / "words")
    assert "Those that it can are beit," in refused(f"hub:{tmp_path / 'words'}")
    with pytest.raises(LabError, match="num_classes is 0"):
        create_model("hub:segformer", 0)


def test_weights_that_are_pickled_damaged_or_of_another_network_are_refused(folder) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in state.items() if "block.0.0" not in key}, folder / "model.safetensors")
    assert "tensors missing" in refused(f"hub:{folder}")
    wrong = {key: torch.zeros(3) if "block.0.0" in key else value for key, value in state.items()}
    save_file(wrong, folder / "model.safetensors")
    assert "of another shape" in refused(f"hub:{folder}")
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be read as safetensors" in refused(f"hub:{folder}")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "may run code and is not opened" in refused(f"hub:{folder}")


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("hub:segformer", "transformers", "transformers"),
        ("torchvision:fcn_resnet50", "torchvision", "torchvision"),
        ("smp:unet-resnet18", "segmentation_models_pytorch", "segmentation-models-pytorch"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_command(monkeypatch, name, module, package) -> None:
    for loaded in [found for found in sys.modules if found.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert f"pip install {package}" in refused(name)


def test_files_and_names_that_do_not_belong_together_are_refused(folder, tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(create_model(f"hub:{folder}", 3), path, model_name="hub:mine", classes=["a", "b", "c"], palette=None)
    with pytest.raises(LabError, match="it holds 'hub:mine' and not the weights of 'unet'; give a file of 'unet'"):
        load_weights("unet", path, ["a", "b", "c"])
    for other in ("torchvision:fcn_resnet50", "smp:unet-resnet18"):  # whatever it is, it is not this
        with pytest.raises(LabError, match=f"it holds 'hub:mine' and not the weights of '{other}'"):
            load_weights(other, path, ["a", "b", "c"])
    load_weights("hub:moved", path, ["a", "b", "c"])
    description = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description | {"model_name": "smp:unet-resnet18"}))
    with pytest.raises(LabError, match=r"it holds 'smp:unet-resnet18' .* --model smp:unet-resnet18\."):
        load_weights("smp:unet-resnet34", path, ["a", "b", "c"])
    for architecture, words in (
        ({"library": "evil"}, "expected a library out of transformers"),
        ([], "expected a library"),
        ({"library": "smp", "name": ["x"], "encoder": "resnet18"}, r"m\.json: .*its name is .* expected text"),
        ({"library": "smp", "name": "unet", "encoder": {"a": 1}}, "its encoder is .* expected text"),
        ({"library": "torchvision", "name": "fcn_resnet50", "config": "x"}, "its config is 'x', expected an object"),
        ({"library": "torchvision", "name": "fcn_resnet50", "input": [1, 2]}, "its input is .* expected an object"),
        (description["architecture"] | {"input": {"std": [0, 0, 0]}}, "standard deviation of the input: .* above 0"),
        (description["architecture"] | {"input": {"mean": [0.5, 0.5, 1e999]}}, "mean of the input: .* finite numbers"),
        (
            {
                "library": "transformers",
                "config": {**SMALL["beit"], "model_type": "beit"} | {"image_size": [64, 64, 64]},
            },
            r"image_size .* got \[64, 64, 64\], expected a whole number above 0, or two",
        ),
        ({"library": ["transformers"]}, "expected a library"),
        (
            {"library": "transformers", "config": {**description["architecture"]["config"], "hidden_sizes": "x"}},
            "no network for semantic segmentation",
        ),
        ({"library": "transformers", "config": {"model_type": "nothing"}}, "no network for semantic segmentation"),
        (
            {"library": "transformers", "config": {**description["architecture"]["config"], "depths": [2] * 4}},
            "missing",
        ),
    ):
        path.with_suffix(".json").write_text(json.dumps(description | {"architecture": architecture}))
        with pytest.raises(LabError, match=words):
            load_weights("hub:mine", path, ["a", "b", "c"])
    path.with_suffix(".json").unlink()
    with pytest.raises(LabError, match=r"no m\.json with an \"architecture\""):
        load_weights("hub:mine", path, ["a", "b", "c"])


def test_nothing_in_a_json_makes_transformers_fetch_code(folder, tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(create_model(f"hub:{folder}", 3), path, model_name="hub:mine", classes=["a", "b", "c"], palette=None)
    description = json.loads(path.with_suffix(".json").read_text())
    evil = {"auto_map": {"AutoConfig": "evil/code--x.Y"}, "attn_implementation": "evil/kernel"}
    description["architecture"]["config"] |= evil | {"_attn_implementation": "evil/kernel"}
    path.with_suffix(".json").write_text(json.dumps(description))
    config = load_weights("hub:mine", path, ["a", "b", "c"]).network.config
    assert not hasattr(config, "auto_map")
    assert config._attn_implementation in ("eager", "sdpa")


OTHERS = """
import sys, pathlib, torch
from benchmarks.libraries import make_torchvision_importable
make_torchvision_importable()
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, load_weights, save_weights
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
image = torch.rand(2, 3, 40, 70)
for name in ("torchvision:lraspp_mobilenet_v3_large", "smp:fpn-resnet18", "smp:unet-mobilenet_v2"):
    model, path = create_model(name, 3).eval(), folder / "m.safetensors"
    with torch.no_grad():
        before = model(image)
        padded = torch.nn.functional.pad(image, (0, 26, 0, 24), mode="replicate")
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
        own = model.network((padded - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    own = own["out"] if isinstance(own, dict) else own
    torch.testing.assert_close(before, own[..., :40, :70])
    save_weights(model, path, model_name=name, classes=["a", "b", "c"], palette=None)
    with torch.no_grad():
        torch.testing.assert_close(load_weights(name, path, ["a", "b", "c"]).eval()(image), before)
        again = load_weights(name, path, ["c", "b"]).eval()(image)
    torch.testing.assert_close(again, before[:, [2, 1]], rtol=1e-4, atol=1e-5)
for name in ("torchvision:resnet50", "smp:unet", "smp:hat-resnet18", "smp:unet-resnet19"):
    try:
        create_model(name, 3)
    except LabError as error:
        print(error)
"""


def test_networks_of_torchvision_and_smp_come_back_from_their_files(vision, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHERS, str(tmp_path)], env=vision, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    unknown, incomplete, no_such, no_encoder = done.stdout.splitlines()
    assert "fcn_resnet50" in unknown
    assert "expected ARCHITECTURE-ENCODER, such as smp:unet-resnet34" in incomplete
    assert "it has unet, unetplusplus" in no_such
    assert "Encoders are resnet18" in no_encoder
