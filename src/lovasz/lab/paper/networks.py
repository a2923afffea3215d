"""The networks of Sections 4.2 to 4.4 against their sources: score of a published file, parameters, output size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from lovasz.confusion import confusion_counts
from lovasz.lab.data import IGNORE_INDEX, open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, load_weights
from lovasz.lab.models.deeplab import DeepLabV2
from lovasz.lab.models.resized import AtSize
from lovasz.lab.paper.command_line import command_line
from lovasz.lab.paper.result import Experiment, Row, Section, data_options, data_words
from lovasz.lab.predict import predict_labels
from lovasz.lab.progress import display, tracked
from lovasz.lab.splits import contents_of

NAME = "networks"
SIZE = (384, 384)  # that ESPNetv2's published weights were trained and are evaluated at
CROP = 321  # of Section 4.3
KEPT_EVERY = 10  # images


def run(
    folder: Path,
    data: str,
    weights: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: Progress | bool = False,
) -> Path:
    """Evaluate ESPNetv2's published weights on the val split of `data`; count parameters; writes result.json.

    data: a data set with the 21 classes of VOC, such as "voc:PATH". A killed run goes on with `resume`.
    """
    dataset = open_dataset(data, "val")
    classes = dataset.info.classes
    network = AtSize(load_weights("espnetv2", weights, classes), SIZE).eval().to(device)
    config = {
        "data": dataset.info.name,
        **data_options(data),
        "split": dataset.split,
        "images": len(dataset),
        "weights": Path(weights).name,
        "size": list(SIZE),
    }
    experiment = Experiment.open(NAME, folder, config, resume=resume, data=contents_of([dataset]), weights=weights)
    done = int(experiment.state.get("done", 0))
    counts = torch.tensor(experiment.state.get("confusion") or [[0] * len(classes)] * len(classes))
    with display(progress) as shown:
        for index in tracked(range(done, len(dataset)), len(dataset), "ESPNetv2 on val", shown, completed=done):
            sample = dataset[index]
            labels = predict_labels(network, sample.image[None], device, len(classes))
            mask = sample.mask[None].long()
            counts += confusion_counts(labels, mask, len(classes), ignore_index=IGNORE_INDEX)
            if (index + 1) % KEPT_EVERY == 0 or index + 1 == len(dataset):
                experiment.state |= {"done": index + 1, "confusion": counts.tolist()}
                experiment.keep()
    scores = {"espnetv2": _scores(counts), "parameters": _parameters(), "deeplab_output": _side()}
    return experiment.finish(scores, {}, device=torch.device(device))


def _scores(counts: torch.Tensor) -> dict[str, float]:
    """Mean IoU over the classes that occur, and pixel accuracy."""
    right = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    if not counts.any():
        raise LabError("every pixel of the data is void, there is nothing to score.")
    return {"miou": float((right / union).nanmean()), "pixel_accuracy": float(right.sum() / counts.sum())}


def _parameters() -> dict[str, int]:
    """Parameters of each network at the number of classes of the published one, without making their content."""
    with torch.device("meta"):
        networks = {name: create_model(name, outputs) for name, outputs in (("enet_torch7", 20), ("deeplab", 21))}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def _side() -> int:
    """Pixels a side of DeepLab's logits for a crop of 321."""
    with torch.device("meta"):
        return DeepLabV2(21).eval().coarse(torch.empty(1, 3, CROP, CROP)).shape[-1]


def section(result: Mapping[str, Any]) -> Section:
    """The rows of the page."""
    scores, config = result["scores"], result["config"]
    espnet, parameters = scores["espnetv2"], scores["parameters"]
    return Section(
        title="Sections 4.2 to 4.4: the networks against their sources",
        command=command_line(
            NAME, {name: config[name] for name in ("data", "data_options", "weights") if name in config}
        ),
        setting=f"ESPNetv2 with the weights {config['weights']} of sacmehta/EdgeNets, images resized to "
        f"{config['size'][0]} x {config['size'][1]} and the answer back; {config['images']} images of "
        f"{data_words(config)}, {config['split']}. Parameters counted, output size computed.",
        rows=(
            Row(
                "ESPNetv2, mean IoU, %", "67.01 on all 1,449 val images", f"{100 * espnet['miou']:.2f}", _others(config)
            ),
            Row("ESPNetv2, pixel accuracy, %", "", f"{100 * espnet['pixel_accuracy']:.2f}", _accuracy(config)),
            Row("ENet, 20 outputs, parameters", "0.37 million (ENet's Table 3)", f"{parameters['enet_torch7']:,}"),
            Row("DeepLab-v2 ResNet-101, 21 outputs, parameters", "about 44 million", f"{parameters['deeplab']:,}"),
            Row(f"DeepLab-v2, logits of a crop of {CROP}, pixels a side", "41", str(scores["deeplab_output"])),
        ),
        comparable="67.01 is what EdgeNets reports on VOC's whole validation set; the note has an independent "
        "measurement of the same file on the same images as ours, where there is one.",
    )


def _others(config: Mapping[str, Any]) -> str:
    return "64.82 measured elsewhere on these 321 images" if config["images"] == 321 else ""


def _accuracy(config: Mapping[str, Any]) -> str:
    return "91.84 measured elsewhere on these 321 images" if config["images"] == 321 else ""
