"""Code blocks of Markdown pages, as the tests of the README and docs run them; marks say what a block needs.

A mark is a comment on the line above the fence:

    <!-- code: needs jax -->              skipped where jax is not installed
    <!-- code: torchrun 2 -->             run by torchrun with so many processes
    <!-- code: skip, needs a cluster -->  not run; the reason is said

A page's unmarked blocks share one namespace, in their order; so do all blocks with the same needs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)(```+) *(\S*)[^\n]*\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- code: (?:(needs) ([\w, ]+)|(torchrun) (\d+)|(skip), (.+)) -->")
INCLUDE = re.compile(r'^\s*--8<-- "[^"]+"\s*$')  # a file shown whole: it has a test of its own


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, its language, and what its mark says ("needs", "torchrun", "skip" or "")."""

    line: int
    language: str
    code: str
    mark: str = ""
    value: str = ""


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks of these languages in their order. Raises ValueError for a mark that is not understood."""
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rpartition("\n")[2].strip()
        mark = value = ""
        if before.startswith("<!-- code"):
            known = MARK.fullmatch(before)
            if known is None:
                raise ValueError(f"a mark that the tests do not know: {before}")
            mark, value = [group for group in known.groups() if group]
        indent, _, language, code = match.groups()
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        if language in languages and not INCLUDE.match(code):
            found.append(Block(text[: match.start()].count("\n") + 2, language, code, mark, value))
    return found


def scripts(text: str) -> dict[tuple[str, str], str]:
    """For each (mark, value) its Python blocks as one script, every line at the number that it has in the page."""
    made: dict[tuple[str, str], str] = {}
    for block in blocks(text, "python"):
        if block.mark != "skip":
            script = made.get((block.mark, block.value), "")
            padding = "\n" * (block.line - 1 - script.count("\n"))
            made[block.mark, block.value] = script + padding + block.code
    return made


def commands(text: str) -> list[list[str]]:
    """The command lines of shell blocks, split into words; a line that ends in a backslash goes on."""
    lines = (
        line
        for block in blocks(text, "sh", "bash")
        if block.mark != "skip"
        for line in block.code.replace("\\\n", " ").splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages(repository: Path) -> list[Path]:
    """The README and every page of the docs."""
    return [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]
