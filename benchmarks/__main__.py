"""``python -m benchmarks [part ...]``: check, measure, and write benchmarks/results.json and docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Part: the module and function that measures it. Nothing is imported before it is asked for: the part "gpu" must run
# where only torch, triton and numpy are.
PARTS = {
    "speed": "speed:run",
    "memory": "memory:run",
    "accuracy": "accuracy:run",
    "scaling": "sweeps:scaling",
    "classes": "sweeps:classes",
    "dtypes": "sweeps:dtypes",
    "layouts": "sweeps:layouts",
    "threads": "sweeps:threads",
    "libraries": "libraries:run",
    "step": "step:run",
    "ranks": "ranks:run",
    "ports": "ports:measured",
}
GPU = "gpu"
PORTS = "ports"  # it needs JAX, TensorFlow and Keras, which `make bench` does not install; `make test` does


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts asked for, keep the others' last results, and write results, page and pictures."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [GPU]:  # it reads its own command line and writes its own files; the page takes up its table
        sys.exit(importlib.import_module("benchmarks.gpu").main(words[1:]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join([*PARTS, GPU])
    parser.add_argument("part", nargs="*", help=f"of {names}; default: all but {PORTS} and {GPU}; {GPU} runs alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, once: does it run? figures are worthless")
    parser.add_argument("--out", type=Path, help="where benchmarks/ and docs/ are written; default: this repository")
    parser.add_argument("--page", action="store_true", help="measure nothing: page and pictures from results.json")
    options = parser.parse_args(words)
    for part in options.part:
        if part == GPU:
            parser.error(f"{GPU} runs alone: python -m benchmarks {GPU}")
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; choose from {names}")
    out = options.out or (Path(tempfile.mkdtemp(prefix="lovasz-benchmarks-")) if options.quick else ROOT)
    if options.quick and out.resolve() == ROOT:
        parser.error("--quick measures nothing worth keeping: name another folder with --out, or none")

    results_file = out / "benchmarks" / "results.json"
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.page and (options.part or options.quick):
        parser.error("--page measures nothing: leave the parts and --quick out")
    if options.page and not results_file.is_file():
        parser.error(f"--page: there are no results in {results_file}; measure first, or name their folder with --out")
    results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.is_file() else {}
    if not options.page:
        import torch

        from benchmarks.machine import machine
        from benchmarks.settings import Settings

        settings = Settings(options.threads, options.rounds, options.quick)
        torch.set_num_threads(settings.threads)
        parts = options.part or [part for part in PARTS if part != PORTS]
        for number, part in enumerate(parts, 1):
            print(f"[{number}/{len(parts)}] {part} ...", end=" ", flush=True, file=sys.stderr)
            start = time.perf_counter()
            module, _, function = PARTS[part].partition(":")
            measured = getattr(importlib.import_module(f"benchmarks.{module}"), function)(settings)
            seconds = round(time.perf_counter() - start, 1)
            results[part] = {"machine": machine(), "seconds": seconds, **measured}
            print(f"{seconds:.0f} s", flush=True, file=sys.stderr)
            # At once: what comes later may fail.
            results_file.parent.mkdir(parents=True, exist_ok=True)
            results_file.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    from benchmarks import page, plots

    (out / "docs").mkdir(parents=True, exist_ok=True)
    missing = plots.draw(page.of_files(out), out / "docs" / "pictures")
    (out / "docs" / "benchmarks.md").write_text(page.of_folder(out), encoding="utf-8")
    print(f"Written: {results_file} and {out / 'docs' / 'benchmarks.md'}. {missing}".strip())


def _say_what_is_missing() -> None:
    try:
        main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or importlib.util.find_spec(package) is not None:
            raise  # the fault is ours, not that of the installation
        sys.exit(
            f"python -m benchmarks: {package} is not installed. `make bench` installs what the parts need; "
            f"{GPU} needs torch, triton, numpy and pytest alone."
        )


if __name__ == "__main__":
    _say_what_is_missing()
