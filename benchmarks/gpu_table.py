"""What the part gpu measured, as Markdown; apart from gpu.py because the page is written where there is no GPU."""

from __future__ import annotations

from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in markdown."""
    lines = [
        "| logits | dtype | input | eager ms: cross-entropy | Lovász (quartiles) | its forward "
        "| GPU ms, as a graph: cross-entropy | Lovász | times CE, eager | GPU alone | share of three passes, eager "
        "| GPU alone | the sum of both, times CE, GPU alone | peak MiB: CE, Lovász, forward |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        t, m = row["milliseconds"], row["peak MiB"]
        shape = " x ".join(map(str, row["shape"])) + (" channels last" if row["layout"] != "contiguous" else "")
        lovasz, graph = t["lovasz"], t["lovasz, graph"]
        both = row.get("sum, graph, times cross_entropy")
        lines.append(
            f"| {shape}{'*' if row['copy in cache'] else ''} | {row['dtype']} | {row['input']} "
            f"| {t['cross_entropy']['median']:.2f} "
            f"| {lovasz['median']:.2f} ({lovasz['low']:.2f} to {lovasz['high']:.2f}) "
            f"| {t['lovasz, forward']['median']:.2f} | {t['cross_entropy, graph']['median']:.2f} "
            f"| {graph['median']:.2f} | {row['times cross_entropy']:.2f} | {row['graph, times cross_entropy']:.2f} "
            f"| {row['three passes, share']:.2f} | {row['three passes, share of the graph']:.2f} "
            f"| {'' if both is None else f'{both:.2f}'} "
            f"| {m['cross_entropy']:.0f}, {m['lovasz']:.0f}, {m['forward']:.0f} |"
        )
    lines += [
        "",
        "Eager times hold what the CPU needs to launch; a replayed CUDA graph is the GPU's time alone. Three passes "
        "are 1.5 copies of the logits.",
    ]
    if any(row["copy in cache"] for row in rows):
        lines += ["", "* So few logits stay in the L2 cache in part, and the copy is quicker than memory."]
    return "\n".join(lines)


def section(results: dict[str, Any]) -> list[str]:
    """The machine, what held and what did not, and the table."""
    m = results["machine"]
    failed = [row["check"] for row in results["checks"] if not row["holds"]]
    lines = [
        f"{m['device']}, {m['multiprocessors']} multiprocessors, {m['memory, GiB']} GiB, torch {m['torch']}, "
        f"triton {m['triton']}, Python {m['python']}"
        + (f"; commit {results['commit']}." if "commit" in results else "."),
        "",
        f"Of {len(results['checks'])} checks {len(results['checks']) - len(failed)} held"
        + (f"; not: {'; '.join(failed)}." if failed else "."),
    ]
    for note in results.get("since", []):
        lines += ["", note]
    return [*lines, "", table(results["rows"])]
