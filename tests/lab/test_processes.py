"""A run of two processes takes the steps that one takes with the joined batches; its files are those of one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from image_files import labels, picture, write
from safetensors.torch import load_file
from tests.lab.tiny import TinyDataset
from typer.testing import CliRunner

from lovasz.lab import commands, processes
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.data import Augmentation, TrainingView, open_dataset
from lovasz.lab.epoch_order import EpochOrder
from lovasz.lab.errors import LabError
from lovasz.lab.losses import LossSpec
from lovasz.lab.processes import Team
from lovasz.lab.training import check_shareable

SHAPES = ["--data", "shapes?size=32&train=9&val=3&test=2", "--model", "unet", "--device", "cpu", "--threads", "1"]
SMALL = [*SHAPES, "--batch-size", "2", "--crop", "whole", "--logger", "none"]

LIMIT = 600  # seconds for a command, which takes a few

RUN = {
    "data": "shapes", "data_options": {"size": 32, "train": 9, "val": 3, "test": 2}, "model": "unet", "device": "cpu",
    "threads": 1, "loss": "lovasz_hinge+lovasz_softmax", "optimizer": "sgd", "learning_rate": 0.1, "epochs": 2,
    "logger": "none",
}  # fmt: skip


# Group norm in place of batch norm, whose statistics are those of each process's own images.
PARITY = """
import json, sys
from pathlib import Path
from torch import nn
nn.BatchNorm2d = lambda channels: nn.GroupNorm(1, channels)
from lovasz.lab.imports import lasting
with lasting():
    from lovasz.lab import training
    from lovasz.lab.config import RunConfig

training.train(RunConfig(**json.loads(sys.argv[1])))
if sys.platform == "linux":
    names = [thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")]
    sys.stderr.write(f"threads of the group: {[name for name in names if 'gloo' in name]}\\n")
"""


def command(*arguments: object, processes: int = 0) -> list[str]:
    """A command line of Python; under torchrun with so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    return [sys.executable, *launcher, *map(str, arguments)]


@pytest.fixture
def environment(repository) -> dict[str, str]:
    paths = os.pathsep.join([str(repository / "src"), str(repository), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def call(line: list[str], environment: dict[str, str], expected: int = 0) -> str:
    """Run it; returns what it wrote on stderr."""
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == expected, done.stderr
    return done.stderr


@pytest.fixture
def first_process(environment, monkeypatch) -> Callable[..., str]:
    """Run `lovasz` with such arguments here, where everything is imported already; returns what it wrote on stderr.

    It starts its other processes as it does from a shell.
    """
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: object, expected: int = 0) -> str:
        threads = torch.get_num_threads()
        result = CliRunner().invoke(commands.app, list(map(str, arguments)))
        torch.set_num_threads(threads)
        assert result.exit_code == expected, result.stderr
        return result.stderr

    return run


def test_under_torchrun_a_run_of_two_ends_as_one_with_the_joined_batches(tmp_path, environment) -> None:
    script = tmp_path / "run.py"
    script.write_text(PARITY)
    alone = RUN | {"batch_size": 4, "out": str(tmp_path / "one")}
    shared = RUN | {"batch_size": 2, "devices": 2, "global_batch": True, "out": str(tmp_path / "two")}
    call(command(script, json.dumps(alone)), environment)  # not here, where layouts of networks may be kept
    said = call(command(script, json.dumps(shared), processes=2), environment)
    assert said.count("epoch 1/2") == 1  # the second process is silent
    if sys.platform == "linux":  # one that outlives the run may abort the process as the interpreter ends
        assert said.count("threads of the group: []") == 2

    one, two = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert [entry["train_loss"] for entry in two["history"]] == pytest.approx(
        [entry["train_loss"] for entry in one["history"]], rel=1e-3
    )
    for split in ("val", "test"):
        assert two["scores"][split]["dataset_miou"] == pytest.approx(one["scores"][split]["dataset_miou"], abs=2e-3)
    assert list(two["images"]) == list(one["images"])
    tensors = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    # Biases of norms start at 0: all of them is what training has done.
    biases = [name for name in tensors[0] if name.endswith(".bias") and not name.startswith("classifier")]
    expected, trained = (torch.cat([tensor[name] for name in biases]) for tensor in tensors)
    assert (trained - expected).norm() <= 5e-3 * expected.norm()


def test_a_comparison_of_two_processes_writes_what_one_writes(tmp_path, first_process) -> None:
    out = tmp_path / "both"
    line = ["compare", *SMALL, "--epochs", "1", "--devices", "2", "--global-batch", "--out", out]
    said = first_process(*line)
    assert "in steps of 2 x 2 in 2 processes" in said
    comparison = json.loads((out / "comparison.json").read_text())
    assert [run["loss"] for run in comparison["runs"]] == ["cross_entropy", "lovasz_softmax"]
    assert comparison["config"]["devices"] == 2
    assert comparison["config"]["global_batch"] is True
    assert comparison["start"]["kind"] == "pretraining"
    assert all(run["steps"] == 2 for run in comparison["runs"])  # nine images, four to a step
    assert (out / "report.html").is_file()
    assert not list(out.rglob("*.partial"))
    refused = first_process(*line, expected=2)  # for both
    assert "the output folder exists and is not empty" in refused
    assert "Traceback" not in refused


def test_a_killed_run_takes_its_processes_along_and_is_resumed(tmp_path, environment, first_process) -> None:
    line = ["train", *SMALL, "--epochs", "2", "--devices", "2", "--global-batch"]
    line += ["--loss", "cross_entropy+lovasz_softmax", "--out"]
    first_process(*line, tmp_path / "whole")

    doomed = command("-m", "lovasz", *line, tmp_path / "killed")
    killed = subprocess.Popen(doomed, env=environment, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    until = time.monotonic() + LIMIT
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    others = children(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until = time.monotonic() + 60
    while any(map(alive, others)) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(others) == 1
    assert not any(map(alive, others))

    if not (tmp_path / "killed" / "run.json").exists():  # else the signal came too late, on a quick machine
        first_process(*line, tmp_path / "killed", "--resume")
    whole, resumed = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "killed"))
    assert resumed["history"] == whole["history"]
    tensors = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def alive(process: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.strip().startswith("Z")


def test_what_goes_wrong_in_the_second_process_is_told_by_the_first(tmp_path, first_process) -> None:
    for i in range(4):
        write(tmp_path / "data" / "images" / "train" / f"{i}.png", picture(i, 32, 32))
        write(tmp_path / "data" / "masks" / "train" / f"{i}.png", labels(0, 1, height=32, width=32))
    for split in ("val",):
        write(tmp_path / "data" / "images" / split / "v.png", picture(9, 32, 32))
        write(tmp_path / "data" / "masks" / split / "v.png", labels(0, 1, height=32, width=32))
    dataset = open_dataset(f"folder:{tmp_path / 'data'}", "train")
    wrong = next(iter(EpochOrder(4, 0, TrainingView(dataset, Augmentation(), 0), Team(1, 2))))
    name = f"{wrong}.png"
    write(tmp_path / "data" / "images" / "train" / name, picture(wrong, 32, 40))
    write(tmp_path / "data" / "masks" / "train" / name, labels(0, 1, height=32, width=40))
    line = ["train", "--data", f"folder:{tmp_path / 'data'}", "--model", "unet", "--device", "cpu"]
    line += ["--threads", "1", "--crop", "whole", "--batch-size", "2", "--epochs", "1", "--devices", "2"]
    line += ["--workers", "1"]  # whose error torch passes on with a traceback
    said = first_process(*line, "--loss", "cross_entropy", "--out", tmp_path / "out", expected=2)
    assert "Error: training images of 32x32 and 32x40 pixels (height x width) cannot share a batch" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_waits_for_the_end_of_the_first_can_have_workers(environment) -> None:
    code = """
import multiprocessing, os, threading, time
from lovasz.lab.processes import _end_with_the_first
threading.Thread(target=_end_with_the_first, daemon=True).start()
time.sleep(0.5)  # so that it waits
worker = multiprocessing.get_context("fork").Process(target=int)
worker.start()
worker.join(60)
print(worker.exitcode, flush=True)
worker.kill()
time.sleep(600)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command("-c", code), env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "0\n"
        process.stdin.close()  # as when the first one is gone
        assert process.wait(60) == 1


def test_processes_deal_out_the_order_of_one() -> None:
    view = TrainingView(TinyDataset("train"), Augmentation(), 3)
    whole = list(EpochOrder(10, 3, view))
    parts = [list(EpochOrder(10, 3, view, Team(rank, 3))) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    for step in range(3):
        assert {part[step] for part in parts} == set(whole[3 * step : 3 * step + 3])


def test_shares_of_an_evaluation_cover_each_image_once() -> None:
    for count in range(8):
        shares = [i for rank in range(3) for i in Team(rank, 3).share_of(count)]
        assert shares == list(range(count))


def test_a_global_batch_needs_processes_and_a_loss_that_can_be_shared() -> None:
    with pytest.raises(LabError, match=r"global_batch: one process has the whole batch already.*--devices"):
        RunConfig(data="shapes", global_batch=True)
    run = RunConfig(data="shapes", devices=2, global_batch=True)
    with pytest.raises(LabError, match=r"cross_entropy has no loss of a whole batch.*lovasz_softmax.*DDP averages"):
        check_shareable(run, [LossSpec.parse("cross_entropy")])
    check_shareable(run, [LossSpec.parse("cross_entropy"), LossSpec.parse("cross_entropy>lovasz_hinge")])
    check_shareable(run.replace(global_batch=False), [LossSpec.parse("hinge")])


def test_a_configuration_from_before_these_fields_still_loads() -> None:
    written = RunConfig(data="shapes").to_json()
    del written["devices"], written["global_batch"]
    assert RunConfig.from_json(written) == RunConfig(data="shapes")
    assert ComparisonConfig(run=RunConfig(data="shapes", devices=2), losses=("hinge",), out="x").run.devices == 2


def test_another_number_than_torchrun_started_is_refused(monkeypatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    assert processes.launched() == 4
    with (
        pytest.raises(LabError, match="devices: got 2, but 4 processes were started"),
        processes.together(2, "cpu", 1, {}),
    ):
        pass


def test_one_gpu_is_not_for_two_processes(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LabError, match=r"'cuda:1' with 2 processes"):
        Team(0, 2, 0, 2).device("cuda:1")
    assert Team(1, 2, 1, 2).device("cuda") == torch.device("cuda", 1)
    with pytest.raises(LabError, match="devices: got 3, but torch sees 2"):
        Team(0, 3, 0, 3).device("cuda")
