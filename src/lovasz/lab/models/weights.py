"""Weights in files: a .safetensors with the tensors and beside it a .json with the class names.

Nothing here unpickles. A file that cannot be used is a LabError that names the file, what it holds and what to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.files import check_file, read_tensors
from lovasz.lab.models.hub import ForeignNetwork, foreign_layout, is_foreign
from lovasz.lab.models.layouts import COUNTER, LAYOUTS, SCALING, Layout
from lovasz.lab.models.outputs import json_path, match_classes, pick_outputs, predicting_outputs, refuse_absent
from lovasz.lab.weights_file import weights_in

NAMED = 3  # this many missing or unexpected tensors are named in a message
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_weights(
    model_name: str, path: str | Path, classes: Sequence[str], *, draw_missing: int | None = None
) -> nn.Module:
    """The network in a .safetensors file, with one output for each of `classes`, in their order.

    Args:
        model_name: a name of `lovasz.lab.models.MODELS`. "enet" takes any file of an ENet and builds the variant whose
            tensors it holds; "enet_torch7" takes the Torch7 variant only. Of another library's network (hub:,
            torchvision:, smp:) the JSON says which one it is.
        path: a file of `save_weights` or a published one (see `layouts.py`), with its .json beside it.
        classes: names of the data set's classes. They are looked up in the JSON's "classes", where case, spaces,
            hyphens and underscores do not count; outputs for other classes are dropped. Without a JSON the file must
            have exactly as many outputs as there are classes, and they are taken to be in this order.
        draw_missing: a seed by which the outputs of classes that the file lacks are drawn; None refuses such a file.

    Raises LabError: no such file, not a (whole) safetensors file, another network, a class without an output,
    values that are not finite, an unusable JSON.
    """
    path = Path(path)
    tensors = read_tensors(path)
    description = describe_weights(path) if json_path(path).exists() else None
    layout = _recognise(model_name, path, tensors, description)
    state = {ours: tensors[theirs] for theirs, ours in layout.keys.items()}
    num_outputs = _check_tensors(path, layout, state)
    channels = match_classes(path, num_outputs, description, classes)
    if draw_missing is None:
        refuse_absent(path, description, classes, channels)
    model = layout.skeleton(len(channels), draw_missing)
    drawn = model.state_dict()
    for key, dimension in layout.outputs:
        if key in state:
            state[key] = pick_outputs(state[key], drawn[key], dimension, channels)
    if not layout.holds_scaling:
        state |= _input_scaling(path, description or {})
    state = layout.finish(state)
    for key in drawn:
        if key.endswith(COUNTER):
            state[key] = tensors.get(layout.rename(key), torch.tensor(0))
    model.load_state_dict(state, strict=True)  # copies, in float32
    return model


def load_exported(path: str | Path, model_name: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a file and its description, without a data set: the JSON beside the file names the classes.

    path: of the file, or of a run's folder, for the weights in it. The network is in evaluation mode; without
    `model_name` it is that of `network_of`. Which outputs it has is for `describe_export` to say. Raises LabError as
    `load_weights` does, and where there is no JSON.
    """
    path = weights_in(Path(path))
    description = describe_export(path)
    return load_weights(model_name or network_of(path), path, description["classes"]).eval(), description


def network_of(path: str | Path) -> str:
    """The network that a file holds: as its JSON says, else the one that has its tensors, "enet" where none has."""
    path = weights_in(Path(path))
    description = describe_weights(path) if json_path(path).is_file() else {}
    name = str(description.get("model_name"))
    if is_foreign(name) or any(name in layout.names for layout in LAYOUTS):  # others say what they like
        return name
    held = _layout_of(read_tensors(path))
    return "enet" if held is None or "enet" in held.names else held.names[0]  # the tensors tell which ENet


def describe_export(path: str | Path) -> dict[str, Any]:
    """`describe_weights`, with the classes and colours of the outputs that predict (see `predicting_outputs`)."""
    description = describe_weights(path)
    kept = predicting_outputs(description)
    for key in ("classes", "palette"):
        if description.get(key) is not None:
            description[key] = [description[key][i] for i in kept]
    return description


def trained_size(path: str | Path) -> tuple[int, int] | None:
    """(height, width) to which images were resized in training, as the JSON of `save_weights` says; None for their own.

    Raises LabError where it says no such thing.
    """
    path = Path(path)
    description = describe_weights(path) if json_path(path).is_file() else {}
    size = description.get("size") if "model_name" in description else None  # published files mean what they like
    if size is None:
        return None
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and 0 < side < 1 << 16 for side in size)
    ):
        raise LabError(
            f'{json_path(path)}: "size" is {size!r}; expected [height, width] in pixels, at most 65535, or null.'
        )
    return size[0], size[1]


def new_classes(path: str | Path, classes: Sequence[str]) -> list[str]:
    """Those of `classes` for which the weights have no output, so that `load_weights` would draw it."""
    path = Path(path)
    if not json_path(path).is_file():
        return []
    description = describe_weights(path)
    channels = match_classes(path, len(description["classes"]), description, classes)
    return [name for name, channel in zip(classes, channels, strict=True) if channel is None]


def other_classes(path: str | Path, classes: Sequence[str]) -> list[str]:
    """The classes of the outputs that predict, beside those for `classes`. Raises LabError as `load_weights` does."""
    path = Path(path)
    if not json_path(path).is_file():
        return []
    description = describe_weights(path)
    names = description["classes"]
    channels = match_classes(path, len(names), description, classes)
    refuse_absent(path, description, classes, channels)
    return [names[i] for i in predicting_outputs(description) if i not in channels]


def save_weights(
    model: nn.Module,
    path: str | Path,
    *,
    model_name: str,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the tensors to `path` (.safetensors) and their description to the .json beside it.

    Args:
        classes: one name for each output of the network, in order.
        palette: one (r, g, b) in 0..255 for each class, or None.
        extra: more entries for the JSON, beside "model_name", "num_outputs", "classes", "palette" and "input".

    Files are replaced whole: an interruption leaves the former ones. Raises LabError when the path does not end in
    .safetensors, the network is not one of `MODELS`, the numbers do not fit, or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise LabError(f"{path}: weights are written as .safetensors; give a path that ends so.")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    architecture = {"architecture": model.architecture} if isinstance(model, ForeignNetwork) else {}
    key, dimension = _recognise(model_name, path, state, architecture).outputs[0]
    num_outputs = state[key].shape[dimension]
    description: dict[str, Any] = {
        "model_name": model_name,
        **architecture,
        "num_outputs": num_outputs,
        "classes": [str(name) for name in classes],
        "palette": None if palette is None else [[int(part) for part in colour] for colour in palette],
        "input": {"channels": "RGB", "range": "[0,1] (x/255)", "scaling": "inside the network"},
    }
    clash = description.keys() & (extra or {}).keys()
    if clash:
        raise LabError(f"{path}: extra may not replace {', '.join(sorted(clash))} of the description; rename it.")
    place = json_path(path)
    _check_description(place, description | dict(extra or {}))
    if len(description["classes"]) != num_outputs:
        raise LabError(f"{path}: {len(description['classes'])} class names for {num_outputs} outputs; give one each.")
    text = json.dumps(description | dict(extra or {}), indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, partial_json = (file.with_name(file.name + ".partial") for file in (path, place))
        save_file(state, partial, metadata={"format": "pt"})
        partial_json.write_text(text, encoding="utf-8")
        partial.replace(path)
        partial_json.replace(place)
    except (OSError, SafetensorError) as error:
        raise LabError(f"{path}: cannot be written ({error}); choose another folder.") from error


def describe_weights(path: str | Path) -> dict[str, Any]:
    """The JSON beside a weights file; "classes" is there and is a list of names.

    Raises LabError when the weights file or its JSON is missing or the JSON cannot be used.
    """
    path = weights_in(Path(path))
    check_file(path)
    place = json_path(path)
    if not place.is_file():
        raise LabError(
            f'{place}: missing beside the weights; expected {{"classes": ["road", ...]}}, one name for each output, in '
            "their order. Write it, or put the one that belongs to them there."
        )
    try:
        description = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(
            f"{place}: cannot be read as JSON ({error}); replace it by the one that was made with the weights."
        ) from error
    return _check_description(place, description)


def _check_description(place: Path, description: Any) -> dict[str, Any]:
    classes = description.get("classes") if isinstance(description, dict) else None
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise LabError(f'{place}: expected an object whose "classes" lists the class name of each output.')
    for name in classes:
        if classes.count(name) > 1 or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise LabError(f'{place}: "classes" has {name!r}; expected names that differ, of whole characters.')
    palette = description.get("palette")
    if palette is not None and not (
        isinstance(palette, list)
        and len(palette) == len(classes)
        and all(isinstance(colour, list) and len(colour) == 3 for colour in palette)
        and all(isinstance(part, int) and 0 <= part <= 255 for colour in palette for part in colour)
    ):
        raise LabError(
            f'{place}: "palette" must hold one [red, green, blue] in 0..255 for each of {len(classes)} classes.'
        )
    return description


def _recognise(
    model_name: str, path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any] | None
) -> Layout:
    names = {key for key in tensors if not key.endswith(COUNTER)}
    candidates = _candidates(model_name, path, description or {})
    if not candidates:
        known = sorted({name for layout in LAYOUTS for name in layout.names})
        raise LabError(f"model {model_name!r} is unknown; choose one of: {', '.join(known)}.")
    nearest = min(candidates, key=lambda layout: len(names - layout.unused ^ layout.keys.keys()))
    names -= nearest.unused
    if names == nearest.keys.keys():
        return nearest
    other = _layout_of(tensors)
    if other is not None:
        raise _other_network(path, other.names[0], model_name)
    problems = [
        f"{len(keys)} {what}, first {', '.join(keys[:NAMED])}"
        for what, keys in (
            ("missing", [key for key in nearest.keys if key not in names]),
            ("unexpected", [key for key in tensors if key in names and key not in nearest.keys]),
        )
        if keys
    ]
    raise LabError(
        f"{path}: not the weights of {model_name!r} (compared with the layout of {nearest.title}: "
        f"tensors {'; '.join(problems)}); give a file of this network."
    )


def _other_network(path: Path, held: str, asked: str) -> LabError:
    remedy = f"give a file of {asked!r}, or, where the command has it, --model {held}"
    return LabError(f"{path}: it holds {held!r} and not the weights of {asked!r}; {remedy}.")


def _layout_of(tensors: Mapping[str, Tensor]) -> Layout | None:
    names = {key for key in tensors if not key.endswith(COUNTER)}
    return next((layout for layout in LAYOUTS if names - layout.unused == layout.keys.keys()), None)


def _candidates(model_name: str, path: Path, description: Mapping[str, Any]) -> list[Layout]:
    """The layouts that a model's name may mean; of another library's network the JSON has the architecture."""
    saved, architecture = description.get("model_name"), description.get("architecture")
    if not is_foreign(model_name):
        if isinstance(saved, str) and is_foreign(saved):
            raise _other_network(path, saved, model_name)
        return [layout for layout in LAYOUTS if model_name in layout.names]
    if architecture is None:
        raise LabError(
            f'{path}: not the weights of {model_name!r}: no {json_path(path).name} with an "architecture" is beside '
            "it. Give a file that the lab saved of such a model, with its JSON; a folder of transformers is given as "
            "--model hub:FOLDER, without --weights."
        )
    moved = isinstance(saved, str) and saved.startswith("hub:") and model_name.startswith("hub:")  # perhaps
    if isinstance(saved, str) and not moved and saved.casefold() != model_name.casefold():
        raise _other_network(path, saved, model_name)
    try:
        return [foreign_layout(model_name, architecture)]
    except LabError as error:
        raise LabError(f"{json_path(path)}: {error}") from error


def _check_tensors(path: Path, layout: Layout, state: Mapping[str, Tensor]) -> int:
    """The number of outputs, after a look at every shape and value."""
    key, dimension = layout.outputs[0]
    weight = state[key]
    num_outputs = weight.shape[dimension] if weight.ndim == 4 and weight.numel() else 1
    theirs = {ours: key for key, ours in layout.keys.items()}
    for key, expected in layout.shapes(num_outputs).items():
        if key not in state:
            continue
        tensor = state[key]
        kinds = FLOATING if expected.is_floating_point() else (expected.dtype,)
        if tensor.shape != expected.shape or tensor.dtype not in kinds:
            kind = "floating" if expected.is_floating_point() else str(expected.dtype)
            raise LabError(
                f"{path}: tensor {theirs[key]} is {tensor.dtype} of shape {tuple(tensor.shape)}; {layout.names[0]!r} "
                f"needs {kind} {tuple(expected.shape)}. Give a file of this network."
            )
        if not tensor.float().isfinite().all():
            raise LabError(f"{path}: tensor {theirs[key]} holds NaN or infinite values; the network cannot be used.")
    return num_outputs


def _input_scaling(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Mean and standard deviation of the input from the JSON of a published file; 0 and 1 where it says nothing."""
    given = description.get("input", {})
    if not isinstance(given, dict) or given.get("channels", "RGB") != "RGB":
        raise LabError(f'{json_path(path)}: "input" must be an object with "channels": "RGB"; came {given!r}.')
    scaling = {}
    for key, name, default in zip(SCALING, ("mean", "std"), (0.0, 1.0), strict=True):
        values = given.get(name, [default] * 3)
        numbers = isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)
        if not numbers or not all(math.isfinite(v) and (v > 0 or name == "mean") for v in values):
            raise LabError(f'{json_path(path)}: "input" has {name} {values!r}; expected three numbers, std above 0.')
        scaling[key] = torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
    return scaling
