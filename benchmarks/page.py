"""docs/benchmarks.md from results.json alone: one section a part, each with the machine it was measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.defeats import defeats
from benchmarks.gpu_table import section
from benchmarks.timing import QUICK_CALLS

Part = dict[str, Any]
YARDSTICK, OURS = "F.cross_entropy", "lovasz_softmax"

# The pictures of plots.py by part: file under docs/pictures, and what it shows.
PICTURES = {
    "speed": ("benchmark-time.svg", "Time of forward and backward as a multiple of F.cross_entropy"),
    "memory": ("benchmark-memory.svg", "Peak memory beyond the input"),
    "accuracy": ("benchmark-accuracy.svg", "Error of the gradient, ours against the authors' float32 formula"),
    "scaling": ("benchmark-scaling.svg", "Time per pixel over pixels"),
    "classes": ("benchmark-classes.svg", "Time over classes as a multiple of F.cross_entropy"),
    "step": ("benchmark-step.svg", "What a training step spends on the loss"),
    "gpu": ("benchmark-gpu.svg", "Time of a GPU as a multiple of F.cross_entropy"),
}

NO_GPU = [
    "Not measured yet: no GPU was at hand. What the tests hold without one: in Triton's interpreter each loss gives",
    "the exact kernel's value and gradient, and every launch is compiled to machine code for A100 and H100.",
]

OTHER = "another CPU"
ON_ANOTHER = [
    "Some parts at an earlier commit, when small inputs were not sorted yet, on a faster machine (with `--out`; its",
    "results are `results-another-cpu.json`).",
]


def of_folder(folder: Path) -> str:
    """The page of the results under ``folder``/benchmarks."""
    return page(of_files(folder))


def of_files(folder: Path) -> dict[str, Part]:
    """The parts in results.json; as "gpu" what that part wrote apart; as "another CPU" the parts measured there."""
    files = [folder / "benchmarks" / f"results{which}.json" for which in ("", "-gpu", "-another-cpu")]
    results, gpu, other = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in files)
    return results | ({"gpu": gpu} if gpu else {}) | ({OTHER: other} if other else {})


def page(results: dict[str, Part]) -> str:
    """The page as Markdown."""
    other = results.get(OTHER, {})
    lost = [*defeats(results), *(f"{OTHER}, {line}" for line in defeats(other))]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`python -m benchmarks`, or `python -m benchmarks PART ...`) from",
        "`benchmarks/results.json`. Every contestant is first checked on a piece of the input against its definition",
        "in float64. Times are medians of interleaved rounds with their quartiles (of one or two calls, these calls),",
        "and the last column divides by the yardstick's median in the same rounds. Compare within one table only:",
        "milliseconds depend on the load of the machine and on memory that other contestants have just given back.",
        'Tables "beside slow ones" also hold contestants that take seconds a call and empty the caches; beside one of',
        f"more than two seconds, those of less than half a second are called {QUICK_CALLS} times a round.",
        "",
        "Each section names the commit it was measured at; `git log COMMIT.. src/lovasz/kernels src/lovasz/ports`",
        "lists what has changed since. Measure again before you quote a figure.",
        "",
        "## Where ours loses",
        "",
        *([f"- {line}" for line in lost] or ["Nowhere in the tables below."]),
    ]
    for name, (title, text, render) in SECTIONS.items():
        if name not in results:
            continue
        part = results[name]
        lines += ["", f"## {title}", "", f"`python -m benchmarks {name}`. {where(part)}", "", *text]
        if name in PICTURES and (part.get("tables") or part.get("rows")):
            file, alt = PICTURES[name]
            lines += ["", f"![{alt}](pictures/{file})"]
        lines += render(part)
        if part.get("note"):
            lines += ["", part["note"]]
    if other:
        lines += ["", "## Another CPU", "", *ON_ANOTHER]
    for name in (name for name in SECTIONS if name in other):
        title, _, render = SECTIONS[name]
        lines += ["", f"## Another CPU: {title}", "", f"`python -m benchmarks {name}`. {where(other[name])}"]
        lines += render(other[name])
    lines += ["", "## GPU", "", "`python -m benchmarks gpu`, which needs torch, triton, numpy and pytest, and"]
    lines += ["Triton a C compiler and Python.h.", ""]
    if "gpu" in results:
        file, alt = PICTURES["gpu"]
        lines += [f"![{alt}](pictures/{file})", ""]
    lines += section(results["gpu"]) if "gpu" in results else NO_GPU
    return "\n".join(lines) + "\n"


def where(part: Part) -> str:
    """The machine in one line."""
    m = part["machine"]
    facts = [m["processor"]]
    if m.get("vectors"):
        facts.append(m["vectors"])
    if m.get("cores"):
        facts.append(f"{m['cores']} cores")
    if m.get("memory_gib"):
        facts.append(f"{m['memory_gib']} GiB")
    facts.append("1 thread" if m["threads"] == 1 else f"{m['threads']} threads")
    facts += [f"torch {m['torch']}", f"Python {m['python']}", f"lovasz {m['lovasz']}"]
    if m.get("commit"):
        facts.append(f"commit {m['commit']}")
    return ", ".join(facts) + "."


def _whole(part: Part) -> list[str]:
    """A table per input, a row per contestant."""
    lines = []
    for table in part["tables"]:
        lines += ["", f"### {table['input']}", "", f"| | ms | quartiles | times {table['yardstick']} |"]
        lines.append("|---|---:|---:|---:|")
        notes = [f"{row['name']}: {row['note']}." for row in table["rows"] if "note" in row]
        for row in table["rows"]:
            if "note" not in row:
                lines.append(f"| {row['name']} | {_ms(row)} | {row['ratio']:.2f} |")
        if table.get("note"):
            notes.append(table["note"])
        for note in notes:
            lines += ["", note]
    return lines


def _beside(part: Part) -> list[str]:
    """One table, a row per input: the yardstick and ours side by side."""
    per_pixel = any("ns_per_pixel" in row for table in part["tables"] for row in table["rows"])
    lines = ["", f"| input | {YARDSTICK}, ms | quartiles | {OURS}, ms | quartiles | times {YARDSTICK} |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    if per_pixel:
        lines = ["", lines[1] + " ours, ns per pixel |", lines[2] + "---:|"]
    notes = []
    for table in part["tables"]:
        rows = {row["name"]: row for row in table["rows"]}
        ours = rows.get(OURS)
        ratio = f"{ours['ratio']:.2f}" if ours and ours["ratio"] else "-"
        cells = [table["input"], _ms(rows.get(YARDSTICK)), _ms(ours), ratio]
        if per_pixel:
            cells.append(f"{ours['ns_per_pixel']:.1f}" if ours else "-")
        lines.append(f"| {' | '.join(cells)} |")
        if table.get("note"):
            notes += ["", f"{table['input']}: {table['note']}"]
    return lines + notes


def _ms(row: Part | None) -> str:
    if row is None:
        return "- | -"
    median, low, high = (f"{1e3 * row[k]:.1f}" for k in ("median", "low", "high"))
    return f"{median} | {low} to {high}"


def _memory(part: Part) -> list[str]:
    lines = []
    for table in part["tables"]:
        lines += ["", f"### {table['input']}", "", f"| | forward, MB | forward and backward, MB | times {YARDSTICK} |"]
        lines.append("|---|---:|---:|---:|")
        for row in table["rows"]:
            if "note" in row:
                lines.append(f"| {row['name']} | {row['note']} | | |")
            else:
                lines.append(
                    f"| {row['name']} | {row['forward'] / 1e6:.1f} | {row['both'] / 1e6:.1f} | {row['ratio']:.2f} |"
                )
    return lines


def _accuracy(part: Part) -> list[str]:
    contestants = {"ours": "ours", "authors' float32": "authors' float32"}
    lines = _distances(part["rows"], contestants)
    if part.get("narrow"):
        lines += [
            "",
            "### float16 and bfloat16 logits",
            "",
            "The truth is the formula in float64 on the rounded logits. These are equal by the hundred; among equal",
            "errors the gradient is not unique, and a sort takes one of their orders: the truth is the mean over four",
            "orders of the pixels. Beside ours: the authors' formula in float32 on the same logits, its gradient",
            "rounded to their format, and in their own format throughout.",
            *_distances(part["narrow"], contestants | {"authors' own format": "own format"}),
        ]
    return lines


def _distances(rows: list[Part], contestants: dict[str, str]) -> list[str]:
    heads = [f"{what}, {head}" for what in ("value", "gradient") for head in contestants.values()]
    lines = ["", f"| input | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for row in rows:
        cells = []
        for what in ("value", "gradient"):
            values = [row[f"{name}, {what}"] for name in contestants]
            best = min(value for value in values if value is not None)
            texts = ["not finite" if value is None else f"{value:.1e}" for value in values]
            cells += [f"**{text}**" if value == best else text for text, value in zip(texts, values, strict=True)]
        lines.append(f"| {row['input']} | {' | '.join(cells)} |")
    return lines


def _step(part: Part) -> list[str]:
    lines = []
    for table in part["tables"]:
        lines += [
            "",
            f"### {table['input']}",
            "",
            "| loss | step, ms | quartiles | times the step with cross-entropy |",
        ]
        lines[-1] += " loss alone, ms | share of the step |"
        lines.append("|---|---:|---:|---:|---:|---:|")
        for row in table["rows"]:
            alone = f"{1e3 * row['alone']:.1f} | {row['share']:.1%}"
            lines.append(f"| {row['name']} | {_ms(row)} | {row['ratio']:.2f} | {alone} |")
    return lines


def _ranks(part: Part) -> list[str]:
    lines = []
    for table in part["tables"]:
        lines += ["", f"### {table['input']}", "", f"| | MB sent | ms | quartiles | times {table['yardstick']} |"]
        lines.append("|---|---:|---:|---:|---:|")
        for row in table["rows"]:
            lines.append(f"| {row['name']} | {row['bytes'] / 1e6:.2f} | {_ms(row)} | {row['ratio']:.2f} |")
    return lines


SECTIONS = {
    "speed": (
        "Time",
        [
            "Forward and backward; each pays for giving the gradient's memory back. Ours writes its gradient into the",
            "memory of the last one (`lovasz.release_memory`), which spares it that and the page faults of new memory.",
            'With `LOVASZ_KEEP_MEMORY=0` it does not. "Freed memory kept": glibc told to keep freed blocks',
            "(`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`), so that page faults drop out for all.",
        ],
        _whole,
    ),
    "libraries": (
        "Other libraries",
        [
            "Each loss is held against what it says it computes, in float64; one that is off is named and not timed.",
            "Ours with other options stands beside those that define the loss otherwise. kornia's Lovász-Softmax was",
            "wrong up to version 0.8.3, which takes sorted class labels where the foreground of a class belongs: with",
            "0.8.1 or 0.8.3 installed, this command finds value and gradient off by 98 %. Version 0.9.0 is right.",
        ],
        _whole,
    ),
    "memory": (
        "Memory",
        [
            "Resident memory that one call adds at its peak, beyond the input, in a fresh process; the gradient",
            "counts. Between two calls ours keeps the gradient's block, no more than it needs within each.",
        ],
        _memory,
    ),
    "accuracy": (
        "Accuracy",
        [
            "Relative distance to the formula in float64: the value, and the L2 norm of the gradient at the logits.",
            "The default against the authors' formula in float32; the nearest is bold. One class: 10^6 pixels.",
        ],
        _accuracy,
    ),
    "scaling": ("Pixels", ["Forward and backward from 64 k to 64 M pixels of 21 and of 5 classes."], _beside),
    "classes": ("Classes", ["Forward and backward on one image."], _beside),
    "dtypes": ("Number formats", ["Cross-entropy has the same format each time."], _beside),
    "layouts": ("Memory layouts", ["Cross-entropy reads the same layout each time."], _beside),
    "threads": ("Threads", ["Both have the same threads."], _beside),
    "step": (
        "A whole training step",
        ["Forward, loss, backward and Adam, random weights. The share is the loss alone, measured apart, by the step."],
        _step,
    ),
    "ranks": (
        "The batch of all ranks",
        [
            "Two processes over gloo on one machine, one thread each: the loss of the joined batch by adding up",
            "counts, against gathering all probabilities. Bytes are what one process hands over in one step.",
        ],
        _ranks,
    ),
    "ports": (
        "TensorFlow, JAX and Keras",
        [
            "Forward and backward, both sides compiled by the framework named: this package, and the authors'",
            "TensorFlow formula (a sort and running sums for each class) written anew in that framework.",
        ],
        _whole,
    ),
}
