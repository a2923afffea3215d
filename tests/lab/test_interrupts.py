"""Ctrl-C stops a training once, in the main process, whenever it comes; a checkpoint is whole or not there."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lovasz.lab.checkpoints import DirectCheckpoints
from lovasz.lab.interrupts import Interrupts, leave_to_the_main_process


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """As in a terminal; a job that a shell puts into the background ignores Ctrl-C, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_that_python_loses_is_raised_at_the_next_look(monkeypatch) -> None:
    reported = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)  # where Python reports what it has lost

    class Old:
        def __del__(self) -> None:
            press()

    interrupts = Interrupts()
    with interrupts.heard():
        interrupts.check()
        Old()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert not reported


def test_an_interrupt_is_one_all_the_same_and_python_has_its_own_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts().heard():
        press()
    assert signal.getsignal(signal.SIGINT) is before


class Handlers(Dataset[bool]):
    """Whether the process that reads an item ignores Ctrl-C."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bool:
        return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_half_made_objects_that_an_interrupt_leaves_are_not_reported(monkeypatch) -> None:
    reported = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)

    class Half:
        def __del__(self) -> None:
            raise AttributeError("_workers_status")

    interrupts = Interrupts()
    with interrupts.heard():
        Half()
        assert len(reported) == 1  # without one it is
        with pytest.raises(KeyboardInterrupt):
            press()
        Half()
    assert len(reported) == 1


def test_workers_leave_it_to_the_main_process() -> None:
    loader = DataLoader(Handlers(), num_workers=2, worker_init_fn=leave_to_the_main_process)
    assert all(bool(ignored) for ignored in loader)


def test_a_checkpoint_goes_where_it_is_for_and_a_full_disk_leaves_no_part_of_it(tmp_path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    DirectCheckpoints().save_checkpoint({"a": torch.arange(3)}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]

    def full(self: Path, data: memoryview) -> int:
        with self.open("wb") as file:
            file.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as error:
        DirectCheckpoints().save_checkpoint({"a": torch.arange(3)}, path)
    assert error.value.filename == str(path)
    assert not path.exists()
