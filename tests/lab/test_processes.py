"""A run of two processes: it takes the steps that one process takes with the joined batches, and its files are one's."""

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file
from tests.lab.tiny import TinyDataset

from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.data import Augmentation, TrainingView, open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.fitting import EpochOrder
from lovasz.lab.losses import LossSpec
from lovasz.lab.models import create_model
from lovasz.lab.processes import Team
from lovasz.lab.training import train

DATA = {"size": "32", "train": "9", "val": "3", "test": "2"}


def config(out, **changes) -> RunConfig:
    settings = {"data": "shapes", "data_options": DATA, "model": "unet", "device": "cpu", "threads": 1, "epochs": 2}
    return RunConfig(**(settings | {"batch_size": 2, "logger": "none", "out": str(out)} | changes))


def lovasz(repository, *arguments: str, torchrun: bool = False) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if torchrun else []
    environment = os.environ | {"PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "lovasz", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module", autouse=True)
def _children_find_the_package(repository) -> None:
    """The other processes are started with this one's environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(repository / "src"), str(repository)]))
        yield
