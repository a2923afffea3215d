"""The training loop through Lightning: poly schedule, checkpoints, resume, logs, times. Knows no files but its folder.

All randomness is a function of (seed, epoch, image) for data and of (seed, step) for dropout, so a run that was killed
and resumed goes through the same numbers as one that was not.
"""

from __future__ import annotations

import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lovasz.lab import averaging
from lovasz.lab.budget import budget
from lovasz.lab.checkpoints import DirectCheckpoints, LastCheckpoint
from lovasz.lab.config import RunConfig
from lovasz.lab.data import TrainingView
from lovasz.lab.epoch_order import EpochOrder
from lovasz.lab.errors import Diverged, LabError, as_raised
from lovasz.lab.evaluation import Scores
from lovasz.lab.interrupts import Interrupts, leave_to_the_main_process
from lovasz.lab.losses import TrainingLoss
from lovasz.lab.processes import ALONE, Team
from lovasz.lab.progress import say, tracked
from lovasz.lab.task import STEP, SegmentationTask, State, Validate, mix


@dataclass
class FitResult:
    """What a run leaves besides its weights: see "runs" of comparison.json. Times are medians, in seconds."""

    history: list[dict[str, Any]]
    steps: int
    batch_size: int  # images of a step, of each process; fewer than asked where there are no more
    seconds: float
    seconds_per_step: float | None  # where one step was measured: not the first, in which much is made ready
    loss_seconds_per_step: float | None
    epoch: int  # whose weights the network has now
    final_scores: Scores | None  # of those weights, when this process did it


def fit(
    config: RunConfig,
    model: nn.Module,
    loss: TrainingLoss,
    data: TrainingView,
    folder: Path,
    *,
    device: torch.device,
    validate: Validate,
    image_classes: Sequence[Sequence[int]] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    description: str = "training",
    team: Team = ALONE,
) -> FitResult:
    """Train `model` in place and return the history; all processes of `team` together, through Lightning's DDP.

    The weights are those of the epoch that `config.keep` says, or the mean of those of the later steps.
    The sampler "equibatch" needs the classes of each image.

    Writes folder/checkpoints/last.ckpt after each epoch, whole or not at all, and folder/logs. With `resume`, goes on
    from that checkpoint if it is there; the epoch that was interrupted is repeated from its beginning.
    Raises Diverged when the loss is not finite, or in the end the network; LabError when images of a batch differ in
    size or are too small for the network, and for a damaged checkpoint.
    """
    order = EpochOrder(len(data), config.seed, data, team, image_classes if config.sampler == "equibatch" else None)
    batch_size = budget(config, len(data)).batch_size
    loader = DataLoader(
        data,
        batch_size=batch_size,
        sampler=order,
        drop_last=True,
        num_workers=config.num_workers,
        worker_init_fn=leave_to_the_main_process,
        collate_fn=_stack,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(config.seed),
    )
    interrupts = Interrupts()
    lines = ProgressLines(progress, description, interrupts)
    task = SegmentationTask(config, model, loss, len(loader) * config.epochs, validate, lines.epoch_done, team)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    start = checkpoint if resume and checkpoint.is_file() else None
    if start is not None:
        # Lightning makes the first iterator, and its workers, before it tells the sampler the epoch.
        order.set_epoch(_finished_epochs(start, task))
    with _quiet():
        trainer = L.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            **_placement(device, team),
            precision=config.precision,  # type: ignore[arg-type]
            max_epochs=config.epochs,
            logger=_logger(config, folder),
            callbacks=[lines, LastCheckpoint(checkpoint)],
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        model.train()
        try:
            with interrupts.heard():
                trainer.fit(task, loader, ckpt_path=start, weights_only=True)
        except SIGTERMException:  # asked to stop by the system: the same to the caller as Ctrl-C
            raise KeyboardInterrupt from None
        except LabError as error:
            raise as_raised(error) from None
        except ValueError as error:
            if start is not None and "parameter group" in str(error):  # of DeepLab-v2, before it had several
                raise LabError(
                    f"{checkpoint}: from a version that trained this network with other learning rates ({error}). "
                    "Delete it to start the run anew."
                ) from error
            if "more than 1 value per channel" not in str(error):
                raise
            raise LabError(
                f"crop and batch_size: with steps of {batch_size} of these images a batch normalisation gets one value "
                f"per channel, which has no variance ({error}). Give a larger --crop or --batch-size, or "
                "--freeze-batch-norm with trained --weights."
            ) from error
    epoch = config.epochs
    if task.state.best is not None:
        epoch = task.state.best_epoch
        model.load_state_dict(task.state.best)
    if task.state.mean is not None:
        model.load_state_dict(task.state.mean, strict=False)  # weights alone
        if not config.freeze_batch_norm:
            order.set_epoch(config.epochs)  # crops and flips that no step has seen
            torch.manual_seed(mix(config.seed, STEP, task.total_steps))
            with closing(tracked(loader, len(loader), f"{description}: batch normalisation", progress)) as batches:
                averaging.measure_batch_norm(model, batches, device, team)
    broken = _not_finite(model)
    if any(team.collect(broken is not None)):
        raise Diverged(
            f"loss {loss.spec}: the trained network cannot be used, {broken or 'a tensor of it'} holds NaN or infinite "
            "values. Lower the learning rate (--learning-rate)."
        )
    return FitResult(
        history=task.state.history,
        steps=task.total_steps,
        batch_size=batch_size,
        seconds=task.state.seconds,
        seconds_per_step=_median(task.state.step_seconds),
        loss_seconds_per_step=_median(task.state.loss_seconds),
        epoch=epoch,
        final_scores=task.last_scores if epoch == config.epochs and task.state.mean is None else None,
    )


def _not_finite(model: nn.Module) -> str | None:
    """The first tensor that holds NaN or infinity: statistics of batch norms may while the loss does not show it."""
    tensors = model.state_dict().items()
    return next((name for name, one in tensors if one.is_floating_point() and not one.isfinite().all()), None)


def _placement(device: torch.device, team: Team) -> dict[str, Any]:
    """Lightning's words for the devices."""
    if team.size == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return {"devices": devices, "plugins": [DirectCheckpoints()]}
    return {
        "devices": team.local_size,
        "num_nodes": team.size // team.local_size,
        "strategy": "ddp",
        "plugins": [_Environment(team), DirectCheckpoints()],
    }


class _Environment(LightningEnvironment):
    """Tells Lightning that the processes are there, and which one this is."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.team.local_rank

    def node_rank(self) -> int:
        return self.team.rank // self.team.local_size

    def teardown(self) -> None:
        """Nothing: the processes go on to the next run."""


class ProgressLines(Callback):
    """A bar with loss, learning rate and validation mIoU; one line per epoch that stays."""

    def __init__(self, progress: Progress | None, description: str, interrupts: Interrupts) -> None:
        self.progress, self.description, self.interrupts = progress, description, interrupts
        self.bar: Any = None
        self.note = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        """Opens the bar."""
        if self.progress is not None:
            done = trainer.global_step
            self.bar = self.progress.add_task(self.description, total=pl_module.total_steps, completed=done, note="")

    def on_train_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: SegmentationTask,
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Moves the bar; stops where Ctrl-C came and was lost."""
        self.interrupts.check()
        if self.progress is not None:
            note = f"loss {float(outputs['loss']):.4f} lr {pl_module.learning_rate:.1e}{self.note}"
            self.progress.update(self.bar, completed=trainer.global_step, note=note)

    def on_train_end(self, trainer: L.Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]  # noqa: ARG002
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Closes the bar, also when the run is interrupted."""
        self._close()

    def epoch_done(self, entry: dict[str, Any], epochs: int, seconds: float) -> None:
        """The line of a finished epoch."""
        val = entry["val"]
        self.note = "" if val is None else f" val mIoU {100 * val['dataset_miou']:.2f} %"
        line = f"{self.description}: epoch {entry['epoch']}/{epochs}, loss {entry['train_loss']:.4f}"
        say(self.progress, f"{line}{',' if self.note else ''}{self.note}, {seconds:.0f} s")

    def _close(self) -> None:
        if self.progress is not None and self.bar is not None:
            self.progress.remove_task(self.bar)
            self.bar = None


def _stack(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    sizes = {tuple(target.shape) for _, target in items}
    if len(sizes) > 1:
        a, b = sorted(sizes)[:2]
        raise LabError(
            f"training images of {a[0]}x{a[1]} and {b[0]}x{b[1]} pixels (height x width) cannot share a batch. "
            "Give --crop HEIGHTxWIDTH, or --batch-size 1."
        )
    return torch.stack([image for image, _ in items]), torch.stack([target for _, target in items])


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _logger(config: RunConfig, folder: Path) -> Logger | bool:
    if config.logger == "csv":
        return CSVLogger(folder, name="logs")  # each start its own version_N: nothing is overwritten
    if config.logger == "tensorboard":
        return TensorBoardLogger(folder, name="logs")
    return False


def _finished_epochs(path: Path, task: SegmentationTask) -> int:
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        kept = dict(whole["lovasz"])
        steps, finished = kept.pop("total_steps"), len(State(**kept).history)
        there, expected = (
            {name: tensor.shape for name, tensor in tensors.items()}
            for tensors in (whole["state_dict"], task.state_dict())
        )
        if there != expected or "pytorch-lightning_version" not in whole:
            raise ValueError("its tensors are of another network, or it is not one of Lightning")
    except Exception as error:  # torch raises many kinds for a damaged file
        raise LabError(
            f"{path}: not a checkpoint of this program ({error}). Delete it to start the run anew."
        ) from error
    if steps != task.total_steps:
        raise LabError(
            f"{path}: from a run of {steps} steps, this one has {task.total_steps}; the data or budget changed."
        )
    return finished


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on workers and its notices about devices, which this lab's own options answer."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
            warnings.filterwarnings(
                "ignore", message=r".*LeafSpec.*is deprecated", category=FutureWarning
            )  # its own use
            # What is logged is the same in all processes.
            warnings.filterwarnings("ignore", message=r".*recommended to use `self.log\(.*sync_dist=True.*")
            yield
    finally:
        log.setLevel(level)
