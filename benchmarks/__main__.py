"""``python -m benchmarks [speed|accuracy]``: measure, write benchmarks/results.json and docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import accuracy, speed
from benchmarks.timing import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    """Run the parts asked for, keep the others' last results, and write both files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", choices=["speed", "accuracy"], help="default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    parts = arguments.part or ["speed", "accuracy"]
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if "speed" in parts:
        tables = [speed.multiclass(21, rounds=arguments.rounds)]
        tables += [speed.multiclass(19, rounds=arguments.rounds, slow_rounds=0)]
        tables += [speed.multiclass(150, images=1, rounds=arguments.rounds, slow_rounds=0)]
        tables += [speed.binary(rounds=arguments.rounds)]
        tables += [speed.multiclass(21, images=2, size=64, rounds=4 * arguments.rounds, slow_rounds=20)]
        results["speed"] = {"machine": machine(), "tables": tables}
    if "accuracy" in parts:
        results["accuracy"] = {"machine": machine(), "rows": accuracy.rows()}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    page = "\n".join(_page(results)) + "\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
    print(page)


def _page(results: dict[str, Any]) -> list[str]:
    lines = ["# Benchmarks", "", "Written by `make bench` (`python -m benchmarks`) from `benchmarks/results.json`.", ""]
    if "speed" in results:
        lines += [
            "## Time",
            "",
            "Forward and backward, medians of interleaved rounds with quartiles. " + _where(results["speed"]),
        ]
        for table in results["speed"]["tables"]:
            lines += ["", f"### {table['input']}", "", f"| | ms | quartiles | times {table['yardstick']} |"]
            lines.append("|---|---|---|---|")
            for row in table["rows"]:
                median, low, high = (f"{1e3 * row[k]:.1f}" for k in ("median", "low", "high"))
                lines.append(f"| {row['name']} | {median} | {low} to {high} | {row['ratio']:.2f} |")
        lines.append("")
    if "accuracy" in results:
        lines += [
            "## Accuracy",
            "",
            "Relative distance to the formula in float64: the value, and the L2 norm of the gradient at the logits.",
            "The default method against the authors' formula in float32; the nearer one is bold. One class: 10^6 px.",
            _where(results["accuracy"]),
            "",
            "| input | value, ours | authors' float32 | gradient, ours | authors' float32 |",
            "|---|---|---|---|---|",
        ]
        for row in results["accuracy"]["rows"]:
            cells = []
            for what in ("value", "gradient"):
                ours, theirs = row[f"ours, {what}"], row[f"authors' float32, {what}"]
                texts = [f"{ours:.1e}", f"{theirs:.1e}"]
                best = 0 if ours <= theirs else 1
                texts[best] = f"**{texts[best]}**"
                cells += texts
            lines.append(f"| {row['input']} | {' | '.join(cells)} |")
    return lines


def _where(part: dict[str, Any]) -> str:
    m = part["machine"]
    return f"{m['processor']}, {m['threads']} threads, torch {m['torch']}, Python {m['python']}."


if __name__ == "__main__":
    main()
