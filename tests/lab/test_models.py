"""ENet against two oracles that share no code with it: a formula on the tensors' published names, and the description
of the Torch7 network, read from its JSON and executed operation by operation."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from random_network import randomise
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models import MODELS, create_model, load_weights
from lovasz.lab.models.enet import unpool
from lovasz.lab.models.layouts import COUNTER, LAYOUTS, Layout

pytestmark = pytest.mark.usefixtures("one_thread")

CAMVID = "weights/enet_camvid_davidtvs.safetensors"
CITYSCAPES = "weights/enet_cityscapes_elab.safetensors"
PYTORCH_LAYOUT, TORCH7_LAYOUT = LAYOUTS[-2:]
LIGHT = [name for name in MODELS if name != "deeplab"]  # that one has 44 million weights, and a file of its own


def as_published(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    state = model.state_dict()
    return {theirs: state[ours].clone() for theirs, ours in layout.keys.items()}


def last_wins_unpool(maps: Tensor, places: Tensor) -> Tensor:
    """Unpooling in numpy, where of several values assigned to one index the last stays."""
    count, channels, height, width = maps.shape
    unpooled = np.zeros((count * channels, 4 * height * width))
    for plane, where, values in zip(unpooled, places.flatten(0, 1), maps.flatten(0, 1), strict=True):
        plane[where.flatten().numpy()] = values.flatten().numpy()
    return torch.from_numpy(unpooled).reshape(count, channels, 2 * height, 2 * width)


class PyTorchFormula:
    """davidtvs/PyTorch-ENet in evaluation, written from the notes of its JSON on the names of its file."""

    KINDS = "regular", "dilated", "asymmetric", "dilated", "regular", "dilated", "asymmetric", "dilated"
    DILATIONS = 1, 2, 1, 4, 1, 8, 1, 16

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, shift = (
            self.tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, shift, eps=1e-5)

    def prelu(self, name: str, x: Tensor) -> Tensor:
        return F.prelu(x, self.tensors[f"{name}.weight"])

    def conv(self, name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, self.tensors[f"{name}.weight"], **options)

    def step(self, block: str, first: int, x: Tensor) -> Tensor:
        """BatchNorm and PReLU with the numbers `first` and `first` + 1 in a Sequential."""
        return self.prelu(f"{block}.{first + 1}", self.norm(f"{block}.{first}", x))

    def extension(self, block: str, x: Tensor, kind: str = "regular", dilation: int = 1) -> Tensor:
        stride = 2 if block.startswith("down") else 1
        x = self.step(f"{block}.ext_conv1", 1, self.conv(f"{block}.ext_conv1.0", x, stride=stride))
        if kind == "asymmetric":
            x = self.step(f"{block}.ext_conv2", 1, self.conv(f"{block}.ext_conv2.0", x, padding=(2, 0)))
            x = self.step(f"{block}.ext_conv2", 4, self.conv(f"{block}.ext_conv2.3", x, padding=(0, 2)))
        elif kind == "up":
            weight = self.tensors[f"{block}.ext_conv2.0.weight"]
            x = F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
            x = self.step(f"{block}.ext_conv2", 1, x)
        else:
            x = self.conv(f"{block}.ext_conv2.0", x, padding=dilation, dilation=dilation)
            x = self.step(f"{block}.ext_conv2", 1, x)
        return self.step(f"{block}.ext_conv3", 1, self.conv(f"{block}.ext_conv3.0", x))

    def down(self, block: str, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        extension = self.extension(block, x)
        zeros = extension.new_zeros(len(x), extension.shape[1] - x.shape[1], *pooled.shape[2:])
        return self.prelu(f"{block}.out_prelu", torch.cat((pooled, zeros), 1) + extension), places

    def plain(self, block: str, x: Tensor, *kind: Any) -> Tensor:
        return self.prelu(f"{block}.out_prelu", x + self.extension(block, x, *kind))

    def up(self, block: str, x: Tensor, places: Tensor) -> Tensor:
        main = self.norm(f"{block}.main_conv1.1", self.conv(f"{block}.main_conv1.0", x))
        main = last_wins_unpool(main, places)
        return self.prelu(f"{block}.out_prelu", main + self.extension(block, x, "up"))

    def __call__(self, image: Tensor) -> Tensor:
        maps = self.conv("initial_block.main_branch", image, stride=2, padding=1), F.max_pool2d(image, 3, 2, 1)
        x = self.prelu("initial_block.out_prelu", self.norm("initial_block.batch_norm", torch.cat(maps, 1)))
        x, places1 = self.down("downsample1_0", x)
        for i in range(1, 5):
            x = self.plain(f"regular1_{i}", x)
        x, places2 = self.down("downsample2_0", x)
        for stage, first in ((2, 1), (3, 0)):
            for i, kind in enumerate(self.KINDS):
                x = self.plain(f"{kind}{stage}_{i + first}", x, kind, self.DILATIONS[i])
        x = self.up("upsample4_0", x, places2)
        x = self.plain("regular4_2", self.plain("regular4_1", x))
        x = self.plain("regular5_1", self.up("upsample5_0", x, places1))
        weight = self.tensors["transposed_conv.weight"]
        return F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)


def execute(architecture: list[dict[str, Any]], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The list of operations of enet_cityscapes_elab.json, in evaluation."""
    places: dict[str, Tensor] = {}

    def run(operations: list[dict[str, Any]], x: Tensor, block: str) -> Tensor:
        for op in operations:
            weight, bias = (tensors.get(f"{op.get('key')}.{part}") for part in ("weight", "bias"))
            match op["op"]:
                case "conv":
                    assert (bias is not None) == op["bias"]
                    x = F.conv2d(x, weight, bias, op["stride"], op["padding"], op.get("dilation", 1))
                case "conv_transpose":
                    assert (bias is not None) == op["bias"]
                    x = F.conv_transpose2d(x, weight, bias, op["stride"], op["padding"], op["output_padding"])
                case "batch_norm":
                    mean, var = tensors[f"{op['key']}.running_mean"], tensors[f"{op['key']}.running_var"]
                    x = F.batch_norm(x, mean, var, weight, bias, eps=op["eps"])
                case "prelu":
                    x = F.prelu(x, weight)
                case "max_pool":
                    x, places[block] = F.max_pool2d(x, op["kernel"], op["stride"], return_indices=True)
                case "max_unpool":
                    x = F.max_unpool2d(x, places[op["indices_from"]], op["kernel"], op["stride"])
                case "zero_pad_channels_at_end":
                    x = torch.cat((x, x.new_zeros(len(x), op["channels"], *x.shape[2:])), 1)
                case "torch7_spatial_dropout":
                    x = x * (1 - op["p"])
                case unknown:
                    raise AssertionError(unknown)
        return x

    for block in architecture:
        name = block["block"]
        if "branches" in block:
            x = torch.cat([run(branch, x, name) for branch in block["branches"]], 1)
        elif "extension" in block:
            x = run(block["main"], x, name) + run(block["extension"], x, name)
        x = run(block["post"], x, name)
    return x


def in_double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The places of maxima hang on single digits: only in float64 do two orders of summation agree on them."""
    return {key: tensor.double() for key, tensor in tensors.items()}


@torch.no_grad()
def test_pytorch_variant_equals_the_formula_on_random_tensors(tmp_path):
    tensors = as_published(randomise(create_model("enet", 4)), PYTORCH_LAYOUT)
    save_file(tensors, tmp_path / "file.safetensors")
    model = load_weights("enet", tmp_path / "file.safetensors", ["a", "b", "c", "d"]).double().eval()
    image = torch.rand(2, 3, 48, 64, dtype=torch.float64)
    torch.testing.assert_close(model(image), PyTorchFormula(in_double(tensors))(image), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_pytorch_variant_equals_the_formula_on_the_published_tensors(shared):
    classes = json.loads((shared / CAMVID).with_suffix(".json").read_text())["classes"]
    model = load_weights("enet", shared / CAMVID, classes).double().eval()
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    expected = PyTorchFormula(in_double(load_file(shared / CAMVID)))(image)
    torch.testing.assert_close(model(image), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_torch7_variant_equals_its_description_executed(shared):
    description = json.loads((shared / CITYSCAPES).with_suffix(".json").read_text())
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    expected = execute(description["architecture"], in_double(load_file(shared / CITYSCAPES)), image)
    model = load_weights("enet", shared / CITYSCAPES, description["classes"]).double().eval()
    torch.testing.assert_close(model(image), expected, rtol=1e-6, atol=1e-5)  # the factor 1 - p is folded in float32
    model.stage2[0].expand.norm.weight /= 0.9  # the oracle sees one forgotten dropout factor
    assert (model(image) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(("file", "layout"), [(CAMVID, PYTORCH_LAYOUT), (CITYSCAPES, TORCH7_LAYOUT)])
def test_every_tensor_of_a_published_file_has_its_place(shared, file, layout):
    description = json.loads((shared / file).with_suffix(".json").read_text())
    shapes = layout.skeleton(description["num_outputs"]).state_dict()
    ours = {theirs: list(shapes[key].shape) for theirs, key in layout.keys.items()}
    assert ours == {key: shape for key, (_, shape) in description["tensors"].items()}


def test_published_weights_reach_their_score_on_camvid_val(shared):
    """65.7 ± 0.2 % dataset-mIoU on the 101 validation images, void left out."""
    folder = shared / "data/camvid"
    classes = json.loads((folder / "classes.json").read_text())["classes"][:11]
    model = load_weights("enet", shared / CAMVID, classes).eval()
    confusion = np.zeros((11, 11), np.int64)
    for stem in (folder / "val.txt").read_text().split():
        pixels = np.array(Image.open(folder / "val" / f"{stem}.jpg"))
        truth = np.array(Image.open(folder / "valannot" / f"{stem}.png")).astype(np.int64)
        with torch.inference_mode():
            logits = model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        found, known = logits[0].argmax(0).numpy(), truth < 11
        confusion += np.bincount(truth[known] * 11 + found[known], minlength=121).reshape(11, 11)
    hits = confusion.diagonal()
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert 100 * iou.mean() == pytest.approx(65.7, abs=0.2)


def test_parameters_are_as_many_as_in_the_paper():
    """Table 3 of the paper: 0.37 million."""
    count = sum(parameter.numel() for parameter in create_model("enet_torch7", 20).parameters())
    assert count == pytest.approx(0.37e6, rel=0.02)


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("size", [(37, 53), (1, 1), (8, 8), (40, 17)])
def test_logits_have_the_size_of_any_image(name, size):
    model = create_model(name, 5).eval()
    image = torch.rand(2, 3, *size)
    logits = model(image)
    assert logits.shape == (2, 5, *size)
    assert logits.is_contiguous()
    divisor = 16 if name == "espnetv2" else 8
    padding = [(0, 0), (0, 0), (0, -size[0] % divisor), (0, -size[1] % divisor)]
    padded = torch.from_numpy(np.pad(image.numpy(), padding, mode="edge"))
    torch.testing.assert_close(logits, model(padded)[:, :, : size[0], : size[1]])


@pytest.mark.parametrize("name", LIGHT)
def test_an_image_does_not_see_its_neighbours_in_the_batch(name):
    model = randomise(create_model(name, 3)).double()
    images = torch.rand(3, 3, 24, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LIGHT)
def test_two_runs_on_two_threads_agree_to_the_last_bit(name):
    torch.set_num_threads(2)
    model = create_model(name, 3)
    images = torch.rand(2, 3, 96, 128)
    first, *others = (_logits_and_gradient(model, images) for _ in range(3))
    assert all(torch.equal(one, other) for run in others for one, other in zip(first, run, strict=True))


def _logits_and_gradient(model: nn.Module, images: Tensor) -> list[Tensor]:
    torch.manual_seed(0)  # of dropout
    model.zero_grad()
    logits = model(images)
    logits.square().mean().backward()
    return [logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def overlapping_places() -> Tensor:
    """Maxima of 3 x 3 windows with stride 2 on coarse values, so that many are shared."""
    source = torch.randint(0, 9, (2, 3, 8, 10)) + 0.01 * torch.rand(2, 3, 8, 10)
    return F.max_pool2d(source, 3, 2, 1, return_indices=True)[1]


def test_where_windows_share_a_place_the_last_wins():
    places, maps = overlapping_places(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert any(len(plane.unique()) < plane.numel() for plane in places.flatten(0, 1))
    assert torch.equal(unpool(maps, places, places_overlap=True), last_wins_unpool(maps, places))


def test_gradient_of_unpooling_is_that_of_its_values():
    places, maps = overlapping_places(), torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unpool(x, places, places_overlap=True), maps)


@pytest.mark.parametrize("name", LIGHT)
def test_gradients_reach_every_parameter(name):
    model = randomise(create_model(name, 5))
    # Weighted, because the sum of a normalised map could not tell its inputs apart.
    (model(torch.rand(2, 3, 64, 64)) * torch.randn(2, 5, 64, 64)).sum().backward()
    still = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", LIGHT)
def test_random_network_starts_near_a_uniform_guess_and_learns(name):
    model = create_model(name, 4)
    image = torch.rand(4, 3, 32, 32)
    target = (image.sum(1) * 4 / 3.01).long()  # brightness in four steps
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 2 * np.log(4)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("name", LIGHT)
def test_one_seed_gives_one_network(name):
    first, second = (torch.manual_seed(7) and create_model(name, 3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", LIGHT)
def test_bfloat16_autocast_runs_forward_and_backward(name):
    model = create_model(name, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.rand(2, 3, 32, 32))
    logits.float().square().mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["torch.uint8", "divide 8-bit values by 255"]),
        (torch.zeros(3, 8, 8), ["(3, 8, 8)", "(N, 3, H, W)"]),
        (torch.zeros(1, 4, 8, 8), ["(1, 4, 8, 8)", "RGB"]),
        (torch.zeros(1, 3, 0, 8), ["(1, 3, 0, 8)"]),
    ],
)
def test_an_image_of_another_kind_is_refused(image, words):
    with pytest.raises(LabError) as error:
        create_model("enet", 2)(image)
    assert all(word in str(error.value) for word in words)


def test_unknown_model_and_no_classes_are_refused():
    with pytest.raises(
        LabError, match="'segnet' is unknown; choose one of: enet, enet_torch7, unet, espnetv2, deeplab"
    ):
        create_model("segnet", 3)
    for name in MODELS:
        with pytest.raises(LabError, match="num_classes is 0"):
            create_model(name, 0)


def test_step_counters_are_in_every_network():
    """The layouts leave them out of the comparison of names; they must exist for that to mean anything."""
    for name in LIGHT:
        assert any(key.endswith(COUNTER) for key in create_model(name, 2).state_dict())
