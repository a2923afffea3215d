"""Networks of other libraries by name: `hub:` (transformers), `torchvision:` and `smp:` (segmentation_models_pytorch).

Apart from the lab's own, because nothing here knows their layers: a network is what its library builds from an
`architecture`, a dict that stands in the JSON beside saved weights, so that a file needs no folder to be read again.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.architecture import checked, input_scaling, one_size
from lovasz.lab.models.images import require_image
from lovasz.lab.models.layouts import Layout

MULTIPLE = 32  # most halve an image five times; its sides are padded to a multiple
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Of a configuration: class names, which stand elsewhere, and what makes transformers fetch code or weights.
LEFT_OUT = ("id2label", "label2id", "num_labels", "architectures", "transformers_version", "_name_or_path")
UNSAFE = ("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation", "quantization_config")


def is_foreign(name: str) -> bool:
    """Whether a model's name is one of another library's."""
    return name.partition(":")[0] in KINDS and ":" in name


def create_foreign(name: str, num_classes: int) -> ForeignNetwork:
    """The network of `hub:NAME_OR_FOLDER`, `torchvision:NAME` or `smp:ARCHITECTURE-ENCODER` with `num_classes` outputs.

    hub: a folder of `save_pretrained` (with config.json; its .safetensors are read if it has any), a name on the model
    hub with a slash (downloaded by transformers), or an architecture such as segformer, with random weights. Weights
    that were trained for as many classes keep their last layer; for another number the head is random.
    torchvision, smp: with random weights.
    Raises LabError: the library is missing, the name unknown, the folder no such model, its weights another network's.
    """
    kind, _, rest = name.partition(":")
    if num_classes < 1:
        raise LabError(f"num_classes is {num_classes}; a segmentation network needs at least 1 class.")
    if not rest:
        raise LabError(f"model {name!r}: a name is missing after the colon, such as {EXAMPLES[kind]}.")
    return KINDS[kind](name, rest, num_classes)


def brings_weights(name: str) -> bool:
    """Whether `create_foreign` reads trained weights, rather than drawing random ones alone."""
    kind, _, rest = name.partition(":")
    folder = Path(rest).expanduser()
    return kind == "hub" and (any(folder.glob("*.safetensors")) if folder.is_dir() else "/" in rest)


def build(architecture: Any, num_classes: int) -> ForeignNetwork:
    """The network of an `architecture`, randomly initialised. Raises LabError where nothing can be built from it."""
    architecture = checked(architecture, tuple(BUILDERS))
    return ForeignNetwork(BUILDERS[architecture["library"]](architecture, num_classes), architecture)


def foreign_layout(name: str, architecture: Any) -> Layout:
    """The names and shapes of an architecture's tensors, and which of them have a slice for each class."""
    layout = Layout(f"{name} by its architecture", (name,), functools.partial(build, architecture))
    two, three = layout.shapes(2), layout.shapes(3)
    outputs = [
        (key, dimension)
        for key, tensor in two.items()
        for dimension, (less, more) in enumerate(zip(tensor.shape, three[key].shape, strict=True))
        if (less, more) == (2, 3)
    ]
    outputs.sort(key=lambda output: two[output[0]].ndim, reverse=True)  # a convolution tells their number
    if not outputs:
        raise LabError(f"model {name!r}: no tensor of it has a slice for each class, so it cannot be saved or read.")
    return Layout(layout.title, layout.names, layout.build, outputs=tuple(outputs))


class ForeignNetwork(nn.Module):
    """A network of another library behind the lab's conventions.

    Shapes: image (N, 3, H, W) floating RGB in [0, 1], any H and W, to logits (N, C, H, W). Logits at a part of the
    resolution (a quarter with SegFormer) are made larger bilinearly.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, network: nn.Module, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.architecture = network, architecture
        mean, std = input_scaling(architecture)
        self.register_buffer("input_mean", torch.tensor(mean).reshape(3, 1, 1))
        self.register_buffer("input_std", torch.tensor(std).reshape(3, 1, 1))
        self.flipped = bool((architecture.get("input") or {}).get("bgr"))
        self.size = one_size(architecture)

    def forward(self, image: Tensor) -> Tensor:
        require_image(image)
        height, width = image.shape[2:]
        maps = (image - self.input_mean) / self.input_std
        if self.flipped:
            maps = maps.flip(1)
        if self.size is not None:
            maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False, antialias=True)
            return _resized(self._logits(maps), (height, width)).contiguous()
        maps = F.pad(maps, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        logits = _resized(self._logits(maps), (maps.shape[2], maps.shape[3]))
        return logits[..., :height, :width].contiguous()

    def _logits(self, maps: Tensor) -> Tensor:
        try:
            output = self.network(maps)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise LabError(
                f"this network normalises over the images of a step, and cannot learn from one: {error}. Give "
                "--batch-size 2 or more."
            ) from error
        if isinstance(output, Tensor):
            return output
        return output["out"] if "out" in output else output["logits"]


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(logits.shape[2:]) == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


# transformers


def _transformers(name: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise _missing(name, "transformers", error) from error


def _hub(name: str, rest: str, num_classes: int) -> ForeignNetwork:
    library = _transformers(name)
    names = library.models.auto.modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    folder = Path(rest).expanduser()
    known = (
        f"Give a folder with a config.json, a name of the model hub such as nvidia/mit-b0, or one of: {_list(names)}."
    )
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise LabError(f"model {name!r}: {folder} has no config.json. {known}")
        return _from_folder(library, name, folder, num_classes, local=True)
    if rest in names:
        config = _plain(json.loads(library.AutoConfig.for_model(rest).to_json_string(use_diff=False)))
        return build({"library": "transformers", "config": config}, num_classes)
    if rest.count("/") == 1 and not rest.startswith((".", "/", "~")):
        return _from_folder(library, name, rest, num_classes, local=False)
    raise LabError(f"model {name!r}: there is no such folder or architecture. {known}")


def _from_folder(library: Any, name: str, place: Path | str, num_classes: int, *, local: bool) -> ForeignNetwork:
    """With the weights that lie there; with random ones where a folder holds a configuration alone."""
    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        given = library.AutoConfig.from_pretrained(place, **options)
        scaling = _scaling(library, place, options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"model {name!r}: its configuration cannot be used ({_first(error)}).") from error
    architecture = {"library": "transformers", "config": _plain(json.loads(given.to_json_string(use_diff=False)))}
    architecture |= {"input": scaling} if scaling else {}
    result = build(architecture, num_classes)
    if isinstance(place, Path) and not any(place.glob("*.safetensors")):
        pickled = [path.name for pattern in PICKLED for path in sorted(place.glob(pattern))]
        if pickled:
            raise LabError(
                f"model {name!r}: {pickled[0]} may run code and is not opened; convert it to model.safetensors, or "
                "take it away to start from random weights."
            )
        return result
    try:
        network, found = library.AutoModelForSemanticSegmentation.from_pretrained(
            place,
            config=_config(library, architecture, num_classes),
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            **options,
        )
    except Exception as error:  # a damaged file, no net, no such model: each layer below has kinds of its own
        raise LabError(f"model {name!r}: its weights cannot be read as safetensors ({_first(error)}).") from error
    bodies = (f"{network.base_model_prefix}.", "backbone.")
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in found["mismatched_keys"]]
    absent = [key for key in (*found["missing_keys"], *mismatched) if key.startswith(bodies)]
    if absent:
        raise LabError(
            f"model {name!r}: its weights are not those of its configuration: {len(absent)} tensors missing or of "
            f"another shape, first {absent[0]}."
        )
    result.network.load_state_dict(network.state_dict())
    return result


def _config(library: Any, architecture: Mapping[str, Any], num_classes: int) -> Any:
    values = _plain(architecture["config"])
    config = library.AutoConfig.for_model(values.pop("model_type"), **values)
    config.num_labels = num_classes
    if hasattr(config, "use_auxiliary_head"):
        config.use_auxiliary_head = False  # its logits serve only the loss of the library's own
    if hasattr(config, "use_pretrained_backbone"):
        config.use_pretrained_backbone = False
    return config


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, and those of its parts, without what must not or need not be in it."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in LEFT_OUT and key not in UNSAFE
    }


def _scaling(library: Any, place: Path | str, options: dict[str, Any]) -> dict[str, Any] | None:
    """Mean, standard deviation and order of channels from preprocessor_config.json; None where there is none."""
    try:
        found = library.image_processing_base.ImageProcessingMixin.get_image_processor_dict(place, **options)[0]
    except OSError:
        return None
    scaled = found.get("do_normalize", True) and "image_mean" in found
    mean, std = (found["image_mean"], found["image_std"]) if scaled else ([0.0] * 3, [1.0] * 3)
    return {"mean": mean, "std": std, "bgr": bool(found.get("do_flip_channel_order"))}


def _build_transformers(architecture: Mapping[str, Any], num_classes: int) -> nn.Module:
    library = _transformers("hub:")
    try:
        config = _config(library, architecture, num_classes)
        return library.AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False).float()
    except Exception as error:  # a configuration may hold anything, and each network checks its own in its own way
        names = library.models.auto.modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
        raise LabError(
            f"transformers makes no network for semantic segmentation of this configuration ({_first(error)}). "
            f"Those that it can are {_list(names)}."
        ) from error


# torchvision


def _torchvision(name: str, rest: str, num_classes: int) -> ForeignNetwork:
    models = _torchvision_models(name)
    names = models.list_models(module=models.segmentation)
    if rest not in names:
        raise LabError(f"model {name!r} is unknown to torchvision; choose one of: {_list(names)}.")
    return build({"library": "torchvision", "name": rest}, num_classes)


def _torchvision_models(name: str) -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise _missing(name, "torchvision", error) from error


def _build_torchvision(architecture: Mapping[str, Any], num_classes: int) -> nn.Module:
    models = _torchvision_models("torchvision:")
    name = architecture.get("name")
    if name not in models.list_models(module=models.segmentation):
        raise LabError(f"torchvision has no network for segmentation called {name!r}.")
    return models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)


# segmentation_models_pytorch


def _smp(name: str, rest: str, num_classes: int) -> ForeignNetwork:
    kind, _, encoder = rest.partition("-")
    if not encoder:
        raise LabError(f"model {name!r}: expected ARCHITECTURE-ENCODER, such as {EXAMPLES['smp']}.")
    return build({"library": "smp", "name": kind.lower(), "encoder": encoder}, num_classes)


def _build_smp(architecture: Mapping[str, Any], num_classes: int) -> nn.Module:
    kind, encoder = architecture.get("name"), architecture.get("encoder")
    name = f"smp:{kind}-{encoder}"
    try:
        library = importlib.import_module("segmentation_models_pytorch")
    except (ImportError, RuntimeError) as error:
        raise _missing(name, "segmentation-models-pytorch", error) from error
    if kind not in library.MODEL_ARCHITECTURES_MAPPING:
        known = _list(library.MODEL_ARCHITECTURES_MAPPING)
        raise LabError(f"model {name!r}: segmentation_models_pytorch has no {kind!r}; it has {known}.")
    try:
        return library.create_model(kind, encoder, encoder_weights=None, in_channels=3, classes=num_classes)
    except (KeyError, ValueError, RuntimeError) as error:
        some = _list([known for known in library.encoders.get_encoder_names() if known.startswith("resnet")])
        raise LabError(
            f"model {name!r}: segmentation_models_pytorch cannot build it ({_first(error)}). Encoders are {some} and "
            "others, see its documentation."
        ) from error


def _missing(name: str, package: str, error: Exception) -> LabError:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").replace("_", "-") == package:
        return LabError(f"model {name!r} needs {package}, which is not installed. Run: pip install {package}")
    return LabError(
        f"model {name!r} needs {package}, which is installed but cannot be imported ({_first(error)}). Where it says "
        "torchvision: install torch and torchvision from the same index, so that they are builds for one another."
    )


def _first(error: Exception) -> str:
    """The first line of what another library says, which may be a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _list(names: Any) -> str:
    return ", ".join(names)


EXAMPLES = {"hub": "hub:segformer", "torchvision": "torchvision:fcn_resnet50", "smp": "smp:unet-resnet34"}
KINDS: dict[str, Callable[[str, str, int], ForeignNetwork]] = {"hub": _hub, "torchvision": _torchvision, "smp": _smp}
BUILDERS: dict[str, Callable[[Mapping[str, Any], int], nn.Module]] = {
    "transformers": _build_transformers,
    "torchvision": _build_torchvision,
    "smp": _build_smp,
}
