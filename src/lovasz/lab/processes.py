"""Several processes for one run, each with its share of every batch: who starts them, how they meet, and how they end.

`lovasz train --devices 2` starts the others itself, as `python -m lovasz.lab.processes`, and hands each its work on
stdin; under torchrun all are there already. Apart from training, which only asks for its rank and its device.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed

from lovasz.lab.environment import resolve_device
from lovasz.lab.errors import LabError
from lovasz.lab.imports import lasting

REPORT = "lovasz reports: "  # before an error, on the stdout of a process that the first one started
GRACE = 20.0  # seconds that the first process may take to notice by itself that another has failed


@dataclass(frozen=True)
class Team:
    """The processes of a run. rank: of this one; size: of all; local_rank, local_size: among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the person."""
        return self.rank == 0

    def group(self) -> distributed.ProcessGroup | None:
        """The group of all; None for one process."""
        return distributed.group.WORLD if self.size > 1 else None

    def share_of(self, count: int) -> range:
        """The neighbouring items of ``count`` that are this process's."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def meet(self) -> None:
        """Wait for all."""
        if self.size > 1:
            distributed.barrier()

    def let_first(self, do: Callable[[], Any]) -> None:
        """Have the first process do something; the LabError that it meets is raised in all."""
        message = None
        if self.first:
            try:
                do()
            except LabError as error:
                message = str(error)
        message = self.tell(message)
        if message is not None:
            raise LabError(message)

    def tell(self, value: Any = None) -> Any:
        """What the first process gives, in all of them."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """What each process gives, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def device(self, name: str) -> torch.device:
        """This process's device: with several processes on "cuda" the GPU of its local rank. Raises LabError."""
        device = resolve_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or ":" in name:
            raise LabError(
                f"device: got {name!r} with {self.size} processes, of which each takes a device of its own; use 'cuda' "
                "(GPU 0, 1, ...) or 'cpu'."
            )
        if self.local_size > torch.cuda.device_count():
            raise LabError(f"devices: got {self.local_size}, but torch sees {torch.cuda.device_count()} CUDA devices.")
        return torch.device("cuda", self.local_rank)


ALONE = Team()


def launched() -> int | None:
    """How many processes torchrun started, this one among them; None without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


@contextmanager
def together(devices: int, device: str, threads: int | None, work: Mapping[str, Any]) -> Iterator[Team]:
    """Be one of ``devices`` processes that do the same work.

    work: what a process must be told, as JSON can hold it; see `main`. threads: torch's, in each process; None shares
    this machine's processors out where the processes compute on them.
    Raises LabError when torchrun started another number, and in the first process with what another one reports.
    """
    given = _given()
    if given is not None and given.size != devices:
        raise LabError(f"devices: got {devices}, but {given.size} processes were started; give that number, or none.")
    if devices == 1:
        if threads is not None:
            torch.set_num_threads(threads)
        yield ALONE
        return
    if not distributed.is_available():
        raise LabError("devices: this torch was built without torch.distributed; use --devices 1.")
    before = torch.get_num_threads()
    team = given or Team(0, devices, 0, devices)
    on_cpu = team.device(device).type == "cpu"
    if threads is None and on_cpu and launched() is None:  # torchrun has its own way to say how many
        threads = max(1, before // team.local_size)
    if threads is not None:
        torch.set_num_threads(threads)
    if not on_cpu:
        torch.cuda.set_device(team.local_rank)
    try:
        with _others(devices, work) if given is None else _no_others() as store, _joined(team, store, on_cpu):
            yield team
    finally:
        torch.set_num_threads(before)


def _given() -> Team | None:
    """The team that a launcher has made of this process: torchrun, or the first process of the lab."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if launched() is None and "LOVASZ_STORE_PORT" not in os.environ:
        return None
    return Team(*(int(os.environ[name]) for name in names))


@contextmanager
def _joined(team: Team, store: Any, on_cpu: bool) -> Iterator[None]:
    backend = "gloo" if on_cpu else "cpu:gloo,cuda:nccl"
    if on_cpu and sys.platform == "linux" and team.local_size == team.size:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the host's name resolves to
    if store is None and "LOVASZ_STORE_PORT" in os.environ:
        store = _store(int(os.environ["LOVASZ_STORE_PORT"]))
    if store is None:
        distributed.init_process_group(backend)
    else:
        distributed.init_process_group(backend, store=store, rank=team.rank, world_size=team.size)
    try:
        yield
        team.meet()  # nobody leaves while another may still need it
    finally:
        distributed.destroy_process_group()
        # Lightning's objects hold one another, and the group. Were they left to the end of the interpreter, a thread of
        # the group could ask for an object then, which aborts the process after all is done.
        gc.collect()


def _store(port: int) -> Any:
    """Where the processes of one machine find one another: opened at any free port for 0, else the one at this port."""
    return distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "127.0.0.1", port, is_master=port == 0, wait_for_workers=False, timeout=timedelta(minutes=10)
    )


@contextmanager
def _no_others() -> Iterator[None]:
    yield None


@contextmanager
def _others(size: int, work: Mapping[str, Any]) -> Iterator[Any]:
    """Start the other processes, and end them when this one is done, for whatever reason."""
    store = _store(0)
    processes = []
    for rank in range(1, size):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        environment = os.environ | {name: str(value) for name, value in ranks.items()}
        environment["LOVASZ_STORE_PORT"] = str(store.port)
        process = subprocess.Popen(
            [sys.executable, "-m", "lovasz.lab.processes"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C comes here alone
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(work) + "\n")  # stays open: its end tells the process that this one is gone
        process.stdin.flush()
        processes.append(process)
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(processes, done), daemon=True)
    watch.start()
    try:
        yield store
        for process in processes:  # all have met, so the work is done; they may be slow to go
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    except LabError:
        raise
    except Exception as error:
        reports = _reports(processes)
        if reports:
            raise LabError(reports) from error
        raise
    finally:
        done.set()
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()


def _reports(processes: list[subprocess.Popen[str]]) -> str:
    """What the processes that have failed say, once they have had the time to."""
    until = time.monotonic() + GRACE / 2
    while all(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
    texts = []
    for rank, process in enumerate(processes, 1):
        if process.poll() not in (None, 0):
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()  # other libraries write there too
            said = [json.loads(line.removeprefix(REPORT)) for line in lines if line.startswith(REPORT)]
            texts += said or [f"process {rank} ended with exit code {process.returncode}."]
    return "\n".join(dict.fromkeys(texts))


def _watch(processes: list[subprocess.Popen[str]], done: threading.Event) -> None:
    """End this process where another has failed and this one waits for it in a call that nothing interrupts."""
    while not done.wait(0.5):
        if any(process.poll() not in (None, 0) for process in processes):
            if not done.wait(GRACE):
                sys.stderr.write(f"Error: {_reports(processes)}\n")
                sys.stderr.flush()
                os._exit(2)
            return


def main() -> None:
    """A process that the first one started: reads its work on stdin, reports a LabError on stdout."""
    work = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    from lovasz.lab.config import ComparisonConfig, RunConfig

    try:
        run = RunConfig.from_json(work.pop("run"))
        with lasting():
            from lovasz.lab.comparison import compare
            from lovasz.lab.training import train

        if work.pop("task") == "train":
            train(run, resume=work["resume"], progress=False)
        else:
            compare(ComparisonConfig(run=run, **work), progress=False)
        os._exit(0)  # nothing is left to tidy up, which on a busy machine takes long
    except LabError as error:
        sys.stdout.write(f"\n{REPORT}{json.dumps(str(error))}\n")
        sys.stdout.flush()
        os._exit(2)


def _end_with_the_first() -> None:
    """Not by `sys.stdin`: a worker that is forked meanwhile would for ever wait for its lock, to close it."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
