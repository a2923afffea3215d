"""The checkpoint of a run: written whole or not at all, on the disk that it is for. Apart from the training loop."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint


class DirectCheckpoints(TorchCheckpointIO):
    """Writes where it is told to. Lightning's own writes into the system's folder for temporary files first, whose disk
    may be small, and names that one when the other is full."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any = None,  # noqa: ARG002 - of file systems that are not the machine's own
    ) -> None:
        """Raises OSError with the file's name, and leaves no part of it."""
        kept = io.BytesIO()
        torch.save(checkpoint, kept)
        place = Path(path)
        try:
            place.write_bytes(kept.getbuffer())
        except OSError as error:
            place.unlink(missing_ok=True)
            error.filename = error.filename or str(place)
            raise


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint, of the last finished epoch: written beside, then renamed, so a kill leaves a whole one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Runs after the module's own hook, so the epoch's history is in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        trainer.save_checkpoint(partial)  # by all processes; the first one writes
        if trainer.is_global_zero:
            os.replace(partial, self.path)
