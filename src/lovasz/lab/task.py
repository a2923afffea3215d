"""One run as Lightning sees it: the step with its random numbers, the schedule, validation, and the times it took.

Apart from ``fitting.py``, which drives it and keeps checkpoints.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from lovasz.lab import averaging
from lovasz.lab.config import AVERAGE_FROM, RunConfig
from lovasz.lab.errors import Diverged
from lovasz.lab.evaluation import Scores
from lovasz.lab.losses import LossSpec, TrainingLoss
from lovasz.lab.processes import ALONE, Team

SHUFFLE, STEP = 1, 2  # streams of random numbers that must not coincide
PROBES = 12  # how often in a run the loss is timed alone

Validate = Callable[[nn.Module], Scores]


def mix(*numbers: int) -> int:
    """One seed from several numbers, without the collisions of a sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class State:
    """What a resumed run must know besides Lightning's own state; plain values and tensors, so that it
    loads with weights_only."""

    history: list[dict[str, Any]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    loss_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of the finished epochs, validation included
    best: dict[str, Tensor] | None = None  # the network as it was after the epoch that is kept, where that is chosen
    best_epoch: int = 0
    best_miou: float = -1.0
    mean: dict[str, Tensor] | None = None  # of the weights after the later steps, where that is kept
    mean_of: int = 0  # steps


class SegmentationTask(L.LightningModule):
    """The network, the loss and the optimiser of one run. Only the network's tensors are in the state dict."""

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        loss: TrainingLoss,
        total_steps: int,
        validate: Validate,
        epoch_done: Callable[[dict[str, Any], int, float], None],
        team: Team = ALONE,
    ) -> None:
        super().__init__()
        self.config, self.model, self.loss = config, model, loss
        self.total_steps, self.validate, self.epoch_done = total_steps, validate, epoch_done
        self.team = team
        self.state = State()
        self.last_scores: Scores | None = None
        self.learning_rate = config.learning_rate  # of the step that ran last
        self._average_from = 1.0  # of the run: never
        if config.keep == "average":
            last_switch = LossSpec.parse(config.loss).starts[-1]  # weights of one loss alone are averaged
            self._average_from = max(AVERAGE_FROM, last_switch)
        self._probe_every = max(1, total_steps // PROBES)
        self._losses: list[Tensor] = []
        self._epoch_start = self._step_end = time.perf_counter()
        self._probing = 0.0
        # Phases of the loss that have had a step here: in the first, kernels are compiled and memory is taken.
        self._begun: set[int] = set()
        self._warm = False

    def configure_optimizers(self) -> Any:
        """Adam (0.9, 0.999) or SGD, both with the plain L2 term, and Eq. 16 at each step (until weights are averaged).

        A network with `parameter_groups` (DeepLab-v2) has multiples of the learning rate for some of its parameters;
        Eq. 16 is on all of them.
        """
        c = self.config
        groups = getattr(self.model, "parameter_groups", None)
        parameters: Any = self.model.parameters() if groups is None else groups(c.learning_rate, c.weight_decay)
        if c.optimizer == "adam":
            optimizer: Any = torch.optim.Adam(parameters, lr=c.learning_rate, weight_decay=c.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay
            )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1.0 - min(self._average_from, step / self.total_steps)) ** c.poly_power
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Starts the clocks."""
        self._epoch_start = self._step_end = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Dropout of a step depends on the seed, the step and the process alone."""
        of_others = (self.team.rank,) if self.team.rank else ()
        torch.manual_seed(mix(self.config.seed, STEP, self.global_step, *of_others))
        if self.config.freeze_batch_norm:  # anew, for validation puts the whole network back into training mode
            for layer in self.model.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """images uint8 (N, 3, H, W), target int64 (N, H, W)."""
        images, target = batch
        logits = self.model(images.float() / 255)
        moment = self.global_step / self.total_steps
        loss = self.loss(logits, target, moment)
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if not math.isfinite(float(loss.detach())):
            precision = "" if self.config.precision == "32-true" else " or use --precision 32-true"
            raise Diverged(
                f"loss {self.loss.spec}: {float(loss.detach())} at step {self.global_step + 1} of {self.total_steps}. "
                f"Lower the learning rate (--learning-rate){precision}."
            )
        phase = self.loss.phase_at(moment)
        self._warm = phase in self._begun
        self._begun.add(phase)
        if self._warm and self.global_step % self._probe_every == min(1, self._probe_every - 1):
            self._probe(logits, target, moment)
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Time of the step with its data, without the probe; the weights enter their mean."""
        if self.global_step > self._average_from * self.total_steps:
            self.state.mean = averaging.add(self.state.mean, self.state.mean_of, self.model)
            self.state.mean_of += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._warm:
            self.state.step_seconds.append(now - self._step_end - self._probing)
        self._step_end, self._probing = now, 0.0
        self.log("train_loss", self._losses[-1])
        self.log("learning_rate", self.learning_rate)

    def on_train_epoch_end(self) -> None:
        """Validates, and writes the epoch into the history."""
        epoch, scores = self.current_epoch + 1, None
        every = self.config.validate_every
        if every and (epoch % every == 0 or epoch == self.config.epochs):
            scores = self.validate(self.model)
            self.log("val_dataset_miou", scores.dataset_miou)
            if self.config.keep == "best" and scores.dataset_miou > self.state.best_miou:
                self.state.best = {name: tensor.cpu().clone() for name, tensor in self.model.state_dict().items()}
                self.state.best_epoch, self.state.best_miou = epoch, scores.dataset_miou
        self.last_scores = scores
        entry = {
            "epoch": epoch,
            "train_loss": statistics.fmean(self.team.collect(float(torch.stack(self._losses).double().mean()))),
            "learning_rate": self.learning_rate,
            "val": None if scores is None else scores.to_json(),
        }
        now = time.perf_counter()
        self.state.history.append(entry)
        self.state.seconds += now - self._epoch_start
        self.epoch_done(entry, self.config.epochs, now - self._epoch_start)
        self._losses = []
        self._epoch_start = self._step_end = now

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the history and the times."""
        checkpoint["lovasz"] = vars(self.state) | {"total_steps": self.total_steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the history and the times back."""
        kept = dict(checkpoint["lovasz"])
        kept.pop("total_steps")
        self.state = State(**kept)

    def _probe(self, logits: Tensor, target: Tensor, moment: float) -> None:
        """Forward and backward of the loss alone, on logits cut from the network."""
        begin = time.perf_counter()
        alone = logits.detach().requires_grad_()
        if alone.device.type == "cuda":
            torch.cuda.synchronize(alone.device)
        start = time.perf_counter()
        torch.autograd.grad(self.loss(alone, target, moment), alone)
        if alone.device.type == "cuda":
            torch.cuda.synchronize(alone.device)
        end = time.perf_counter()
        self.state.loss_seconds.append(end - start)
        self._probing = end - begin
