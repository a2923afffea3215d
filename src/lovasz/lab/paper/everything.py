"""`lovasz paper all`: every part one after another, each in its folder; what is finished is not done again.

Small settings are for two cores, each part under two hours (CamVid's grid excepted); the others take the paper's
lengths and the whole grids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from lovasz.lab.config import hash_of, read_json
from lovasz.lab.data import available_splits, open_dataset
from lovasz.lab.environment import use_machine
from lovasz.lab.errors import LabError
from lovasz.lab.paper import batches, binary, finetune, multiclass, networks, surfaces, synthetic
from lovasz.lab.paper.earlier import data_name
from lovasz.lab.paper.page import duration
from lovasz.lab.paper.result import RESULT, STATE, read_result, same_inputs
from lovasz.lab.progress import bar, say
from lovasz.lab.splits import contents_of

FIVE = ("bird", "bus", "cat", "dog", "person")  # of VOC's classes, small and large objects
ITERATIONS = 20_000  # of Section 4.3
SIZE = (384, 384)  # at which ESPNetv2's published weights are asked


@dataclass(frozen=True)
class Places:
    """Where data and weights are: data set specs, and files."""

    voc: str
    nuclei: str
    camvid: str
    espnet: Path
    enet: Path

    @classmethod
    def below(cls, shared: Path) -> Places:
        """The layout data/voc2012_mini, data/nuclei, data/camvid and weights/ of one folder; it need not be there."""
        data, weights = shared / "data", shared / "weights"
        return cls(
            f"voc:{data / 'voc2012_mini'}",
            f"folder:{data / 'nuclei'}",
            f"camvid:{data / 'camvid'}",
            weights / "espnetv2_s2.0_voc2012.safetensors",
            weights / "enet_camvid_davidtvs.safetensors",
        )


@dataclass(frozen=True)
class Part:
    """One experiment: the configuration that its result must have, and how it is run in a folder.

    inputs: what an experiment of this part keeps of its data and weights, to tell others apart.
    """

    config: Mapping[str, Any]
    run: Callable[[Path, bool, Progress | bool], Path]
    inputs: Callable[[], dict[str, Any]] = dict


Maker = Callable[[], Part]


def parts(places: Places, *, small: bool, device: str = "auto", threads: int | None = None) -> dict[str, Maker]:
    """What makes each part, by the name of its folder, in the order in which they run: the shortest first.

    A part is made when it is to run, for that reads its data; making it raises LabError where something is missing.
    """
    place = use_machine(device, threads)
    machine: dict[str, Any] = {"device": device, "threads": threads}
    draws = synthetic.Setting()

    def voc() -> binary.Setting:
        return binary.Setting(
            data=places.voc,
            weights=str(places.espnet),
            classes=FIVE if small else None,
            size=(224, 224) if small else None,
            crop=(160, 160) if small else (321, 321),
            scale=(0.75, 1.5) if small else (0.5, 1.5),
            freeze_batch_norm=True,  # of a trained network, as DeepLab-v2's is; its statistics do not bear small images
            epochs=3 if small else 10,
            learning_rates=(1e-5, 2e-5) if small else (2e-5, 5e-5, 1e-4),
        )

    def nuclei() -> binary.Setting:
        return binary.Setting(
            data=places.nuclei,
            classes=("nucleus",),
            model="unet",
            crop=(160, 160),
            epochs=3 if small else 30,
            pretrain_epochs=8 if small else 80,
            learning_rates=(5e-4, 2e-3),
        )

    def asked(module: Any, **how: Any) -> Part:
        val = open_dataset(places.voc, "val")
        config = {"data": val.info.name, "images": len(val), "weights": places.espnet.name}
        config |= {name: list(value) for name, value in how.items()}
        return Part(
            config,
            lambda f, r, p: module.run(f, places.voc, places.espnet, **how, device=place, resume=r, progress=p),
            _inputs(places.voc, places.espnet, "val"),
        )

    def many() -> Part:
        steps = max(1, len(open_dataset(places.voc, "train")) // 10)
        setting = multiclass.Setting(
            data=places.voc,
            weights=str(places.espnet),
            size=SIZE,
            crop=(256, 256) if small else (321, 321),
            scale=(0.6, 1.2) if small else (0.5, 1.5),
            epochs=3 if small else -(-ITERATIONS // steps),
            freeze_batch_norm=small,  # few images, and crops smaller than the weights were trained on
            learning_rates=(1e-4,) if small else (1e-4, 1e-3, 1e-2),
            images=80 if small else None,
            crf_search=0 if small else 100,
            batches=3 if small else 15,
            **machine,
        )
        config = setting.to_json(data_name(places.voc))
        inputs = _inputs(setting.data, setting.weights)
        return Part(config, lambda f, r, p: multiclass.run(f, setting, resume=r, progress=p), inputs)

    def tuned() -> Part:
        setting = finetune.Setting(
            data=places.camvid,
            weights=str(places.enet),
            epochs=1 if small else 5,
            learning_rates=(2e-4, 1e-3) if small else (2e-4, 5e-4, 1e-3),
            seeds=(0,) if small else (0, 1, 2),
            **machine,
        )
        config = setting.to_json(data_name(places.camvid))
        inputs = _inputs(setting.data, setting.weights)
        return Part(config, lambda f, r, p: finetune.run(f, setting, resume=r, progress=p), inputs)

    with_espnet, with_enet = _of_file(places.espnet), _of_file(places.enet)
    return {
        "surfaces": lambda: Part({"points": 31}, lambda f, r, _: surfaces.run(f, points=31, resume=r)),
        "synthetic": lambda: Part(draws.to_json(), lambda f, r, p: synthetic.run(f, draws, resume=r, progress=p)),
        "networks": with_espnet(lambda: asked(networks)),
        "batches": with_espnet(lambda: asked(batches, size=SIZE)),
        f"binary-{data_name(places.nuclei)}": lambda: _binary(nuclei(), place),
        "binary-voc": with_espnet(lambda: _binary(voc(), place)),
        "multiclass": with_espnet(many),
        "finetune": with_enet(tuned),
    }


def _of_file(weights: Path) -> Callable[[Maker], Maker]:
    """A part that needs this weights file."""

    def checked(maker: Maker) -> Maker:
        def make() -> Part:
            if not weights.is_file():
                raise LabError(f"{weights}: not there; --shared names the folder that has data/ and weights/.")
            return maker()

        return make

    return checked


def _binary(setting: binary.Setting, device: torch.device) -> Part:
    info = open_dataset(setting.data, "train").info
    config = setting.to_json(setting.classes or info.classes[1:], info.name)
    inputs = _inputs(setting.data, setting.weights)
    return Part(config, lambda f, r, p: binary.run(f, setting, device=device, resume=r, progress=p), inputs)


def finished(folder: Path, part: Part) -> bool:
    """Whether the folder holds the whole result of this part with these settings.

    Raises LabError where it is of other data or weights than are there now.
    """
    path = folder / RESULT
    if not path.is_file():
        return False
    result = read_result(path)
    same = all(result["config"].get(name) == value for name, value in part.config.items())
    if not same or not result["scores"].get("complete", True):
        return False
    state = folder / STATE
    if state.is_file():
        same_inputs(state, read_json(state), part.inputs(), part.config.get("weights"))
    return True


def _inputs(data: str, weights: str | Path | None, *splits: str) -> Callable[[], dict[str, Any]]:
    """Of these splits of a data set, or of all that it has."""

    def read() -> dict[str, Any]:
        contents = contents_of([open_dataset(data, name) for name in splits or available_splits(data)])
        return {"data": contents} | ({} if weights is None else {"weights": hash_of(Path(weights))})

    return read


def run_all(folder: Path, chosen: Mapping[str, Maker], progress: Progress) -> list[str]:
    """Run what is not finished, in order; returns the reasons of the parts that could not be run.

    A part that fails for its data, its folder, a result that cannot be read or a package that is missing does not keep
    the others from running.
    """
    failed = []
    with bar(len(chosen), "parts", progress) as done:
        for number, (name, make) in enumerate(chosen.items(), 1):
            done.note(name)
            place = folder / name
            try:
                part = make()
                if finished(place, part):
                    say(progress, f"{name}: finished before, with the same settings.")
                else:
                    begun = place.is_dir() and any(place.iterdir())
                    say(progress, f"{name}: part {number} of {len(chosen)}, {'goes on' if begun else 'begins'}.")
                    start = time.perf_counter()
                    part.run(place, begun, progress)
                    say(progress, f"{name}: finished, {duration(time.perf_counter() - start)}.")
            except LabError as error:
                failed.append(f"{name}: {error}")
                say(progress, failed[-1])
            done.advance()
    return failed
