"""ESPNetv2 against a formula on the published tensors' names; DeepLab-v2 against torchvision's layer list written out,
its own paper's output size and parameter count, and conversions of the authors' weights under their own names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from random_network import randomise, small_deeplab
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lovasz.lab.data import IGNORE_INDEX, open_dataset
from lovasz.lab.data.voc import VOC_INFO
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, load_weights, save_weights
from lovasz.lab.models.deeplab import CAFFE_MEAN, DeepLabV2, load_deeplab
from lovasz.lab.models.layouts import LAYOUTS
from lovasz.lab.models.resized import AtSize
from lovasz.lab.progress import display

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = "weights/espnetv2_s2.0_voc2012.safetensors"
EDGENETS = next(layout for layout in LAYOUTS if "EdgeNets" in layout.title)


class EdgeNetsFormula:
    """ESPNetv2 for segmentation in evaluation, on the names of its authors' file and the text of its paper."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.t = tensors

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (self.t[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    def conv(self, name: str, x: Tensor, **options) -> Tensor:
        weight = self.t[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, self.t.get(f"{name}.bias"), groups=groups, **options)

    def prelu(self, name: str, x: Tensor) -> Tensor:
        return F.prelu(x, self.t[f"{name}.weight"])

    def cbr(self, name: str, x: Tensor, parts: str = "conv bn act", **options) -> Tensor:
        conv, norm, *act = parts.split()
        x = self.norm(f"{name}.{norm}", self.conv(f"{name}.{conv}", x, **options))
        return self.prelu(f"{name}.{act[0]}", x) if act else x

    def eesp(self, name: str, x: Tensor, dilations: tuple[int, ...], stride: int = 1) -> Tensor:
        inner = self.cbr(f"{name}.proj_1x1", x)
        outs: list[Tensor] = []
        for i, d in enumerate(dilations):
            y = self.conv(f"{name}.spp_dw.{i}.conv", inner, stride=stride, padding=d, dilation=d)
            outs.append(y + outs[-1] if outs else y)
        y = self.prelu(f"{name}.br_after_cat.act", self.norm(f"{name}.br_after_cat.bn", torch.cat(outs, 1)))
        y = self.cbr(f"{name}.conv_1x1_exp", y, "conv bn")
        return y if stride == 2 else self.prelu(f"{name}.module_act", y + x)

    def down(self, name: str, x: Tensor, image: Tensor, dilations: tuple[int, ...]) -> Tensor:
        y = torch.cat((F.avg_pool2d(x, 3, 2, 1), self.eesp(f"{name}.eesp", x, dilations, 2)), 1)
        while image.shape[2] > y.shape[2]:
            image = F.avg_pool2d(image, 3, 2, 1)
        reinforced = self.cbr(f"{name}.inp_reinf.1", self.cbr(f"{name}.inp_reinf.0", image, padding=1), "conv bn")
        return self.prelu(f"{name}.act", y + reinforced)

    def pool(self, name: str, x: Tensor, last: bool) -> Tensor:
        x = self.cbr(f"{name}.projection_layer", x, "cbr.0 cbr.1 cbr.2")
        height, width = x.shape[2:]
        outs = []
        for i, scale in enumerate((2.0, 1.5, 1.0, 0.5, 0.1)):
            size = tuple(
                max(5, int(torch.tensor(side * scale, dtype=torch.float64).ceil())) for side in (height, width)
            )
            grown = F.interpolate(x, size, mode="bilinear", align_corners=True) if scale > 1 else x
            shrunk = F.adaptive_avg_pool2d(x, size) if scale < 1 else grown
            y = self.conv(f"{name}.stages.{i}", shrunk, padding=1)
            if scale > 1:
                y = F.adaptive_avg_pool2d(y, (height, width))
            elif scale < 1:
                y = F.interpolate(y, (height, width), mode="bilinear", align_corners=True)
            outs.append(y)
        y = self.prelu(f"{name}.merge_layer.0.br.1", self.norm(f"{name}.merge_layer.0.br.0", torch.cat(outs, 1)))
        count = y.shape[1] // 5
        y = y[:, [branch * count + channel for channel in range(count) for branch in range(5)]]  # the shuffle
        y = self.cbr(f"{name}.merge_layer.2", y, "cbr.0 cbr.1 cbr.2", padding=1)
        y = self.conv(f"{name}.merge_layer.3", y)
        return y if last else self.prelu(f"{name}.br.br.1", self.norm(f"{name}.br.br.0", y))

    def skip(self, name: str, x: Tensor) -> Tensor:
        gate = self.conv(f"{name}.wt_layer.1", x.mean((2, 3), keepdim=True)).sigmoid()
        return self.cbr(f"{name}.expansion_layer", x, "cbr.0 cbr.1 cbr.2", padding=1) * gate

    def __call__(self, image: Tensor) -> Tensor:
        wide, narrow = (1, 2, 3, 4), (1, 1, 2, 3)
        x1 = self.cbr("base_net.level1", image, stride=2, padding=1)
        x2 = self.down("base_net.level2_0", x1, image, wide)
        x3 = self.down("base_net.level3_0", x2, image, wide)
        for i in range(3):
            x3 = self.eesp(f"base_net.level3.{i}", x3, wide)
        x4 = self.down("base_net.level4_0", x3, image, wide)
        for i in range(7):
            x4 = self.eesp(f"base_net.level4.{i}", x4, narrow)
        y = self.pool("bu_dec_l1", x4, False)
        for level, x in ((2, x3), (3, x2), (4, x1)):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
            y = y + self.skip(f"merge_enc_dec_l{level}", x)
            y = self.prelu(f"bu_br_l{level}.1", self.norm(f"bu_br_l{level}.0", y))
            y = self.pool(f"bu_dec_l{level}", y, level == 4)
        return F.interpolate(y, image.shape[2:], mode="bilinear", align_corners=True)


def test_espnetv2_is_the_formula_of_the_published_tensors():
    model = randomise(create_model("espnetv2", 5)).double()
    state = model.state_dict()
    tensors = {theirs: state[ours] for theirs, ours in EDGENETS.keys.items()}
    image = torch.rand(2, 3, 48, 80, dtype=torch.float64)
    expected = EdgeNetsFormula(tensors)((image - model.input_mean) / model.input_std)
    torch.testing.assert_close(model(image), expected, rtol=1e-9, atol=1e-9)


def test_espnetv2_takes_the_published_file_whole_and_chosen_classes_of_it(shared):
    path = shared / WEIGHTS
    model = load_weights("espnetv2", path, VOC_INFO.classes).eval()
    tensors = load_file(path)
    image = torch.rand(1, 3, 64, 64)
    expected = EdgeNetsFormula(tensors)((image - model.input_mean) / model.input_std)
    torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
    some = load_weights("espnetv2", path, ("tv monitor", "background")).eval()
    torch.testing.assert_close(some(image), expected[:, [20, 0]], rtol=1e-4, atol=1e-4)
    parameters = sum(value.numel() for name, value in tensors.items() if not re.search("running|num_batches", name))
    unread = sum(tensors[name].numel() for name in EDGENETS.unused)
    assert sum(p.numel() for p in model.parameters()) == parameters - unread


def test_espnetv2_finds_the_objects_of_real_photographs(shared):
    """The score over all 321 validation images is in docs/paper.md; here a few, which a wrong network fails at once."""
    network = AtSize(load_weights("espnetv2", shared / WEIGHTS, VOC_INFO.classes).eval(), (384, 384))
    dataset = open_dataset(f"voc:{shared / 'data' / 'voc2012_mini'}", "val")
    right = total = 0
    for index in (0, 100, 200):
        sample = dataset[index]
        with torch.inference_mode():
            labels = network(sample.image[None].float() / 255).argmax(1)[0]
        valid = sample.mask != IGNORE_INDEX
        right, total = right + int((labels == sample.mask)[valid].sum()), total + int(valid.sum())
    assert right / total > 0.85


def test_a_network_at_one_size_gives_logits_of_the_image_size():
    seen = []

    class Spy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(tuple(image.shape))
            return image[:, :2]

    image = torch.rand(2, 3, 30, 50)
    assert AtSize(Spy(), (16, 32))(image).shape == (2, 2, 30, 50)
    assert seen == [(2, 3, 16, 32)]
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    torch.testing.assert_close(AtSize(Spy(), (64, 64))(ramp), ramp[:, :2])


# --- DeepLab-v2


FULL = (64, 128, 256, 512), (3, 4, 23, 3)
SMALL = (4, 8, 12, 16), (2, 2, 2, 2)


@pytest.fixture
def small() -> Iterator[DeepLabV2]:
    with small_deeplab(*SMALL):
        yield randomise(DeepLabV2(21))


def torchvision_resnet(widths: tuple[int, ...], blocks_of: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnets of bottlenecks, from their published structure."""
    last = 4 * widths[-1]
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, last), "fc.bias": (1000,)}

    def norm(name: str, channels: int) -> None:
        found.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    inputs = 64
    for layer, (width, blocks) in enumerate(zip(widths, blocks_of, strict=True), 1):
        for block in range(blocks):
            place = f"layer{layer}.{block}"
            shapes = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for number, shape in enumerate(shapes, 1):
                found[f"{place}.conv{number}.weight"] = shape
                norm(f"{place}.bn{number}", shape[0])
            if block == 0:
                found[f"{place}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                norm(f"{place}.downsample.1", 4 * width)
            inputs = 4 * width
    return found


def test_deeplab_has_the_tensors_of_resnet101_and_four_classifiers():
    with torch.device("meta"):
        network = DeepLabV2(21)
    expected = {name: shape for name, shape in torchvision_resnet(*FULL).items() if not name.startswith("fc")}
    for branch in range(4):
        expected |= {f"classifier.{branch}.weight": (21, 2048, 3, 3), f"classifier.{branch}.bias": (21,)}
    state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {name: shape for name, shape in state.items() if not name.startswith(("input_", "stride_"))} == expected
    # He et al.: 44.5 million with ImageNet's classifier of 2.05 million; the four branches have 1.55 million.
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 44_549_160 - 2_049_000 + 4 * (21 * 2048 * 9 + 21)
    assert count == pytest.approx(44e6, rel=0.005)


@torch.inference_mode()
def test_deeplab_gives_logits_at_an_eighth_of_the_size_as_the_original(small):
    """41 for crops of 321, as the authors' label maps have it; rounding up at the pooling."""
    sizes = {}
    for side in (33, 65, 97):
        sizes[side] = tuple(small.coarse(torch.rand(1, 3, side, side)).shape)
        assert small(torch.rand(1, 3, side, 40)).shape == (1, 21, side, 40)
    assert sizes == {33: (1, 21, 5, 5), 65: (1, 21, 9, 9), 97: (1, 21, 13, 13)}
    assert small.coarse(torch.rand(1, 3, 321, 321)).shape == (1, 21, 41, 41)


@torch.inference_mode()
def test_deeplab_sums_four_branches_of_their_own_dilation(small):
    maps = torch.rand(1, 64, 5, 5)
    rates = (6, 12, 18, 24)
    found = [
        F.conv2d(maps, b.weight, b.bias, padding=r, dilation=r) for b, r in zip(small.classifier, rates, strict=True)
    ]
    assert [branch.dilation for branch in small.classifier] == [(rate, rate) for rate in rates]
    assert [small.layer3[1].conv2.dilation, small.layer4[1].conv2.dilation] == [(2, 2), (4, 4)]
    small.layer4.register_forward_hook(lambda *_: maps)
    torch.testing.assert_close(small.coarse(torch.rand(1, 3, 33, 33)), sum(found))


def kazuto(name: str) -> str:
    """The name that kazuto1011/deeplab-pytorch has for a tensor of isht7's."""
    name = re.sub(r"^layer5\.conv2d_list\.(\d)", r"aspp.c\1", name)
    if name.startswith(("conv1", "bn1")):
        return "base.layer1.conv1." + name.replace("conv1", "conv").replace("bn1", "bn")
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name)
    if match is None:
        return f"base.{name}"
    rest = match[3].replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.bn")
    for number, part in enumerate(("reduce", "conv3x3", "increase"), 1):
        rest = rest.replace(f"conv{number}.", f"{part}.conv.").replace(f"bn{number}.", f"{part}.bn.")
    return f"base.layer{int(match[1]) + 1}.block{int(match[2]) + 1}.{rest}"


def test_conversions_of_the_authors_weights_load_and_read_rgb(small, tmp_path):
    """A file under either naming gives the network that sees BGR minus Caffe's mean, as the authors' does."""
    plain = {k: v for k, v in small.state_dict().items() if not k.startswith(("input_", "stride_"))}
    isht7 = {k.replace("classifier.", "layer5.conv2d_list."): v.contiguous() for k, v in plain.items()}
    image = torch.rand(1, 3, 33, 33)
    mean = torch.tensor(CAFFE_MEAN).view(3, 1, 1)
    caffe = DeepLabV2(21).eval()
    caffe.load_state_dict(small.state_dict())
    caffe.input_mean.zero_()
    caffe.input_std.fill_(1)
    with torch.inference_mode():
        expected = caffe(image.flip(1) * 255 - mean)
    for number, names in enumerate((lambda k: f"Scale.{k}", kazuto)):
        path = tmp_path / f"{number}.pth"
        torch.save({names(key): value for key, value in isht7.items()}, path)
        with torch.inference_mode():
            found = load_deeplab(path, 21).eval()(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        path.unlink()


def test_torchvisions_weights_give_a_backbone_with_its_strides_and_no_other_network(tmp_path, small):
    state = {name: torch.rand(shape) for name, shape in torchvision_resnet(*SMALL).items() if len(shape) != 0}
    path = tmp_path / "resnet101.safetensors"
    save_file(state, path)
    model = load_deeplab(path, 2)
    assert torch.equal(model.layer3[1].conv3.weight, state["layer3.1.conv3.weight"])
    assert model.layer2[0].conv2.stride == (2, 2)
    assert small.layer2[0].conv1.stride == (2, 2)
    # The two forms have the same shapes; a saved one comes back as the form it is.
    save_weights(model, tmp_path / "m.safetensors", model_name="deeplab", classes=["a", "b"], palette=None)
    again = load_weights("deeplab", tmp_path / "m.safetensors", ["b", "a"])
    assert again.layer2[0].conv2.stride == (2, 2)
    assert torch.equal(again.classifier[3].weight, model.classifier[3].weight.flip(0))


@pytest.mark.parametrize("kind", ["absent", "of whole images", "of another number", "of torchvision"])
@pytest.mark.parametrize("names", [lambda key: f"Scale.{key}", kazuto], ids=["isht7", "kazuto1011"])
def test_a_backbone_is_taken_without_its_classifier_which_is_drawn_by_the_seed(small, tmp_path, kind, names, capsys):
    state = {k: v for k, v in small.state_dict().items() if not k.startswith(("input_", "stride_"))}
    state = {k.replace("classifier.", "layer5.conv2d_list."): v.contiguous() for k, v in state.items()}
    if kind != "of another number":
        state = {key: value for key, value in state.items() if not key.startswith("layer5")}
    prefix = names("fc.").removesuffix("fc.")
    state = {key if kind == "of torchvision" else names(key): value for key, value in state.items()}
    if kind.startswith("of w"):
        state |= {f"{prefix}fc.weight": torch.zeros(1000, 64), f"{prefix}fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "x.pth")
    found = []
    with display(True) as progress:
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            found.append(load_deeplab(tmp_path / "x.pth", 3, progress).state_dict())
    has = "has 21 classes, not 3" if kind == "of another number" else "has none"
    assert capsys.readouterr().err.count(f"the classifier is new and random, for the file {has}") == 3
    one, same, other = found
    assert one["classifier.0.weight"].shape[0] == 3
    for key, value in one.items():
        assert torch.equal(value, same[key]), key
        if key.startswith("classifier.") and key.endswith("weight"):
            assert not torch.equal(value, other[key]), key
    assert torch.equal(one["layer4.1.conv3.weight"], small.layer4[1].conv3.weight)


def test_a_classifier_of_which_a_part_is_missing_is_a_damaged_file(small, tmp_path):
    state = {f"Scale.{k}".replace("classifier.", "layer5.conv2d_list."): v for k, v in small.state_dict().items()}
    state = {key: value for key, value in state.items() if not key.startswith(("Scale.input_", "Scale.stride_"))}
    del state["Scale.layer5.conv2d_list.2.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(LabError, match=r"1 tensors missing .classifier\.2\.weight"):
        load_deeplab(tmp_path / "x.pth", 21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.1.conv2.weight"), "1 tensors missing .layer3.1.conv2.weight"),
        (lambda s: s.update({"head.weight": torch.zeros(1)}), "1 unexpected .head.weight"),
        (lambda s: s.update({"bn1.weight": torch.zeros(3)}), r"bn1.weight has shape \(3,\); expected \(64,\)"),
        (lambda s: s["bn1.weight"].fill_(torch.nan), "bn1.weight holds NaN"),
    ],
)
def test_another_network_is_refused_by_what_differs(tmp_path, change, message, small):
    state = {name: torch.zeros(shape) for name, shape in torchvision_resnet(*SMALL).items()}
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(LabError, match=message):
        load_deeplab(tmp_path / "x.pth", 3)


class Payload:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


def test_a_checkpoint_that_would_run_code_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"layer": Payload()}, "x.pth")
    Path("y.pth").write_bytes(b"nothing")
    torch.save([torch.zeros(1)], "z.pth")
    for name, message in (("x", "not a file of tensors"), ("y", "not a file of tensors"), ("z", "no state dict")):
        with pytest.raises(LabError, match=message):
            load_deeplab(f"{name}.pth", 3)
    with pytest.raises(LabError, match="no such weights file"):
        load_deeplab("gone.pth", 3)
    assert not Path("executed").exists()
