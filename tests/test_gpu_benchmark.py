"""The GPU's benchmark without a GPU: what it does when something fails, for the machine is lent for minutes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import gpu, gpu_checks


def fail(*_arguments: Any) -> None:
    raise ArithmeticError("does not hold: two and two")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if there were a GPU; what was done, in order."""
    done: list[str] = []

    def measure(shape: tuple[int, ...], kind: str, dtype: torch.dtype, last: bool) -> dict[str, Any]:
        done.append(" ".join(map(str, shape)))
        return {"shape": shape}

    def compiled() -> None:
        done.append("compiled")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, stand_in in {
        "available": lambda: {"triton": ""},
        "lacking": str,
        "machine": dict,
        "checks": lambda: {"good": lambda: {"value": 1e-6}, "bad": fail},
        "measure": measure,
        "check_compiled": compiled,
        "table": lambda rows: "\n".join(["| shape |", "|---|", *(f"| {row['shape']} |" for row in rows)]),
    }.items():
        monkeypatch.setattr(gpu, name, stand_in)
    return done


def test_a_check_that_fails_is_written_down_and_costs_no_figures(on_a_gpu: list[str], tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    assert gpu.main(["--out", str(out)]) == 1
    results = json.loads(out.read_text())
    rows = {row["check"]: row for row in results["checks"]}
    assert rows["good"]["holds"]
    assert rows["good"]["value"] == 1e-6
    assert rows["bad"]["error"] == "ArithmeticError: does not hold: two and two"
    assert not rows["bad"]["holds"]
    assert all(row["seconds"] >= 0 for row in rows.values())
    assert len(results["rows"]) == len(on_a_gpu) - 1 > 10
    assert out.with_suffix(".md").read_text().count("\n| (") == len(results["rows"])


@pytest.mark.parametrize("cached", [False, True])
def test_the_table_tells_launching_from_the_gpus_time_and_the_cache_from_memory(cached: bool) -> None:
    names = "cross_entropy", "cross_entropy, graph", "lovasz", "lovasz, graph", "lovasz, forward", "copy"
    row = {
        "shape": [8, 2, 4, 4], "input": "trained", "dtype": "bfloat16", "layout": "contiguous",
        "milliseconds": {name: {"median": i + 1.0, "low": 0.5, "high": 9.0} for i, name in enumerate(names)},
        "copy in cache": cached, "times cross_entropy": 3.0, "graph, times cross_entropy": 2.0,
        "three passes, share": 3.0, "three passes, share of the graph": 2.25,
        "peak MiB": {"cross_entropy": 3.0, "lovasz": 2.0, "forward": 1.0},
    }  # fmt: skip
    lines = gpu.table([row]).splitlines()
    header, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], lines[2]))
    assert len(header) == len(cells)
    assert cells[header.index("Lovász (quartiles)")] == "3.00 (0.50 to 9.00)"
    assert cells[header.index("GPU ms, as a graph: cross-entropy")] == "2.00"
    assert cells[header.index("Lovász")] == "4.00"
    assert cells[0].endswith("*") == cached
    assert ("L2" in gpu.table([row])) == cached


def test_the_targets_are_timed_first_and_the_compiler_is_tried_last(on_a_gpu: list[str], tmp_path: Path) -> None:
    gpu.main(["--out", str(tmp_path)])
    targets = {"8 19 1024 2048", "16 150 512 512"}
    of_them = [place in targets for place in on_a_gpu]
    assert of_them == sorted(of_them, reverse=True)
    assert on_a_gpu[-1] == "compiled"


def test_a_row_that_cannot_be_measured_does_not_end_the_run(
    on_a_gpu: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "measure", fail)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert on_a_gpu == ["compiled"]


def test_tests_that_take_too_long_are_a_failed_check(
    on_a_gpu: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(command: list[str], **how: Any) -> None:
        raise gpu.subprocess.TimeoutExpired(command, how["timeout"])

    monkeypatch.setattr(gpu.subprocess, "run", late)
    assert gpu.main(["--out", str(tmp_path), "--tests"]) == 1
    first = json.loads((tmp_path / "results-gpu.json").read_text())["checks"][0]
    assert "TimeoutExpired" in first["error"]
    assert "compiled" in on_a_gpu


def test_a_missing_compiler_or_header_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install gcc" in gpu_checks.lacking()
    monkeypatch.setenv("CC", sys.executable)  # any program
    monkeypatch.setattr(gpu_checks.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert f"no {tmp_path / 'Python.h'}" in gpu_checks.lacking()
    (tmp_path / "Python.h").touch()
    assert gpu_checks.lacking() == ""
