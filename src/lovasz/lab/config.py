"""What one run is and what one comparison is: two frozen dataclasses, checked when built, saved as JSON beside results.

Apart from the code that acts on them, so that a folder can be read, and a resumed run be compared, without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from lovasz.lab.errors import LabError

OPTIMIZERS = ("adam", "sgd")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LOGGERS = ("csv", "tensorboard", "none")
SAMPLERS = ("shuffle", "equibatch")
KEPT = ("last", "best", "average")
# Of a run kept as "average": the weights after each later step are averaged, and the learning rate stays as it is
# there, for with one that falls to 0 they would be all but the same. A later switch of losses is waited for.
AVERAGE_FROM = 0.4
MOST_SEED = 2**32 - 1  # as NumPy's and Lightning's generators take it
MAY_DIFFER = ("out", "num_workers", "logger")  # fields that leave the resulting weights alone


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of one training run.

    data: data set spec ("shapes", "camvid:PATH", "folder:PATH"); data_seed and data_options go to `open_dataset`.
    weights: start from this safetensors file; None: random, followed by `pretrain_epochs` of cross-entropy if any.
    loss: a loss spec, see `lovasz.lab.losses.LossSpec`.
    learning_rate: the base of the poly schedule (Eq. 16), base * (1 - step / steps) ** poly_power, set at each step.
    weight_decay: added to the gradient as an L2 term, as torch.optim.Adam and SGD do; momentum: SGD only.
    crop: (height, width) of the training crop, None for whole images; scale: range of random rescaling.
    size: (height, width) that images are resized to before the network is asked in validation, None for their own;
    resize_training: whether those of training and their masks are too, before `scale` and `crop`.
    color_jitter: how far brightness, contrast and saturation of training images are changed at random, as a part of
    themselves; 0 for not at all.
    sampler: "shuffle", each image once an epoch, or "equibatch", each class once in every |C| images (Section 3.1).
    freeze_batch_norm: batch normalisation keeps the running statistics that it starts with, and uses them in training
    too, as DeepLab-v2's networks are trained; its scale and shift still learn. For networks that are trained already.
    precision: "32-true", "bf16-mixed" or "16-mixed" (GPU only); device: "auto", "cpu", "cuda", "mps".
    threads: torch's CPU threads, None for torch's own choice; validate_every: epochs between validations, 0 for none
    before the final one. out: the folder that receives the run.
    keep: the weights that are written and scored, of the "last" epoch, or of the "best": the first of those with the
    largest validation mIoU, whose score on the validation images leans upwards for that, and on the test images not; or
    the "average" of those after each step from AVERAGE_FROM of the run on, see there.
    devices: processes, each with its device and its batch_size images of every step; threads are those of each.
    global_batch: the Lovász losses are those of the images of all processes together, not of each one's own.
    """

    data: str
    model: str = "enet"
    weights: str | None = None
    loss: str = "cross_entropy"
    epochs: int = 5
    batch_size: int = 10
    learning_rate: float = 5e-4
    optimizer: str = "adam"
    weight_decay: float = 2e-4
    momentum: float = 0.9
    poly_power: float = 0.9
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] | None = None
    resize_training: bool = False
    flip: bool = True
    color_jitter: float = 0.0
    sampler: str = "shuffle"
    freeze_batch_norm: bool = False
    precision: str = "32-true"
    seed: int = 0
    pretrain_epochs: int = 0
    validate_every: int = 1
    keep: str = "last"
    num_workers: int = 0
    device: str = "auto"
    threads: int | None = None
    devices: int = 1
    global_batch: bool = False
    logger: str = "csv"
    data_seed: int = 0
    data_options: Mapping[str, Any] = field(default_factory=dict)
    out: str = ""

    def __post_init__(self) -> None:
        _check_text("data", self.data)
        _check_text("model", self.model)
        _check_text("loss", self.loss)
        if not isinstance(self.data_options, Mapping):
            raise LabError(f"data_options: got {self.data_options!r}, expected options by name.")
        _check_int("epochs", self.epochs, 1)
        _check_int("batch_size", self.batch_size, 1)
        _check_int("seed", self.seed, 0, MOST_SEED)
        _check_int("data_seed", self.data_seed, 0)
        _check_int("pretrain_epochs", self.pretrain_epochs, 0)
        _check_int("validate_every", self.validate_every, 0)
        _check_int("num_workers", self.num_workers, 0)
        _check_int("devices", self.devices, 1)
        for name in ("global_batch", "freeze_batch_norm", "resize_training"):
            if not isinstance(getattr(self, name), bool):
                raise LabError(f"{name}: got {getattr(self, name)!r}, expected True or False.")
        if self.global_batch and self.devices == 1:
            raise LabError(
                "global_batch: one process has the whole batch already; leave --global-batch out, or share the batch "
                "between processes with --devices."
            )
        if self.threads is not None:
            _check_int("threads", self.threads, 1)
        _check_number("learning_rate", self.learning_rate, above=0.0)
        _check_number("weight_decay", self.weight_decay, least=0.0)
        _check_number("momentum", self.momentum, least=0.0)
        if self.momentum >= 1:
            raise LabError(f"momentum: got {self.momentum!r}, expected less than 1.")
        _check_number("poly_power", self.poly_power, least=0.0)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("sampler", self.sampler, SAMPLERS)
        _check_choice("keep", self.keep, KEPT)
        if self.keep == "best" and not self.validate_every:
            raise LabError("keep: 'best' chooses by validation; leave --validate-every 0 out, or keep the 'last'.")
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("logger", self.logger, LOGGERS)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise LabError(f"device: got {self.device!r}, expected 'auto', 'cpu', 'cuda', 'cuda:NUMBER' or 'mps'.")
        if self.weights is not None and self.pretrain_epochs:
            raise LabError(
                f"weights and pretrain_epochs: got both ({self.weights!r} and {self.pretrain_epochs}). The start is "
                "either a weights file or a first phase of cross-entropy; leave one out."
            )
        for name in ("crop", "size"):
            if getattr(self, name) is not None:
                sides = _pair(name, getattr(self, name), "(height, width) in pixels")
                for side in sides:
                    _check_int(name, side, 1)
                object.__setattr__(self, name, sides)
        if self.resize_training and self.size is None:
            raise LabError("resize_training: needs the size that images are resized to; give a size (--size).")
        low, high = _pair("scale", self.scale, "(smallest, largest)")
        _check_number("scale", low, above=0.0)
        _check_number("scale", high, least=low)
        object.__setattr__(self, "scale", (float(low), float(high)))
        _check_number("color_jitter", self.color_jitter, least=0.0)
        if self.color_jitter > 1:
            raise LabError(f"color_jitter: got {self.color_jitter!r}, expected 0 (colours as they are) to at most 1.")

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict that JSON can hold."""
        values = asdict(self)
        for name in ("crop", "size"):
            sides = getattr(self, name)
            values[name] = None if sides is None else list(sides)
        values["scale"] = list(self.scale)
        values["data_options"] = dict(self.data_options)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises LabError on an unknown or missing field."""
        _check_fields("run", values, {f.name for f in fields(cls)}, {"data"})
        return cls(**values)

    def difference(self, other: RunConfig, moved: Collection[str] = ()) -> str | None:
        """The first field that differs and changes the weights, "name: mine there, theirs now"; None if none does.

        moved: of "data" and "weights" those that may lie elsewhere, as what is in them is compared by other means.
        """
        mine, theirs = self.to_json(), other.to_json()
        for name in mine:
            elsewhere = name in moved and _without_place(name, mine[name]) == _without_place(name, theirs[name])
            if name not in MAY_DIFFER and mine[name] != theirs[name] and not elsewhere:
                return f"{name}: {mine[name]!r} there, {theirs[name]!r} now"
        return None

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed, checked again."""
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Several losses, several seeds, one start, one budget.

    run: what all runs share; its `loss`, `seed` and `out` are set anew for each run.
    losses: loss specs; seeds: one run per loss and seed; out: the folder of the whole comparison.
    resume: go on in an existing folder; examples: how many validation images the report shows.
    command: the command line as typed, shown in the report.
    """

    run: RunConfig
    losses: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    out: str
    resume: bool = False
    examples: int = 6
    command: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.losses, str) or isinstance(self.seeds, str | int):
            raise LabError(f"losses, seeds: expected sequences, got {self.losses!r} and {self.seeds!r}.")
        object.__setattr__(self, "losses", tuple(self.losses))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if not self.losses or not self.seeds:
            raise LabError("losses, seeds: a comparison needs at least one loss and one seed.")
        for loss in self.losses:
            _check_text("losses", loss)
        for seed in self.seeds:
            _check_int("seeds", seed, 0, MOST_SEED)
        if len(set(self.seeds)) != len(self.seeds):
            raise LabError(f"seeds: got {list(self.seeds)}, in which a seed stands twice; name each once.")
        _check_text("out", self.out)
        _check_int("examples", self.examples, 0)

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict that JSON can hold, without those that only say how to start the command."""
        return {
            "run": self.run.to_json(),
            "losses": list(self.losses),
            "seeds": list(self.seeds),
            "examples": self.examples,
        }


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a kill leaves either the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        temporary.write_text(text, encoding="utf-8")
    except OSError:  # a full disk; an output folder with this alone could be neither resumed nor begun
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read JSON; LabError naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # of a long number too; nested deep
        raise LabError(f"{path}: cannot be read as JSON ({error}).") from error


def hash_of(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none, which is for those to say who need it."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_place(name: str, value: str | None) -> object:
    """Of a data set its kind and options, of another file whether there is one."""
    if name != "data" or value is None:
        return value is None
    head, mark, query = value.rpartition("?")
    return (head if mark else value).partition(":")[0], sorted(filter(None, query.split("&"))) if mark else []


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise LabError(f"{name}: got {value!r}, expected a non-empty text.")


def _check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise LabError(f"{name}: got {value!r}, expected a whole number of at least {least}.")
    if most is not None and value > most:
        raise LabError(f"{name}: got {value!r}, expected at most {most}.")


def _check_number(name: str, value: object, *, above: float | None = None, least: float | None = None) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise LabError(f"{name}: got {value!r}, expected a finite number.")
    if above is not None and not value > above:
        raise LabError(f"{name}: got {value!r}, expected more than {above}.")
    if least is not None and not value >= least:
        raise LabError(f"{name}: got {value!r}, expected at least {least}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise LabError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")


def _check_fields(what: str, values: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    unknown, missing = sorted(set(values) - known), sorted(needed - set(values))
    if unknown:
        raise LabError(
            f"{what} configuration: unknown field {unknown[0]!r}; known fields are {', '.join(sorted(known))}."
        )
    if missing:
        raise LabError(f"{what} configuration: the field {missing[0]!r} is missing.")


def _pair(name: str, value: object, meaning: str) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise LabError(f"{name}: got {value!r}, expected two numbers, {meaning}.")
    return value[0], value[1]
