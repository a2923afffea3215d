"""A report read back with html.parser, so that tests see what a browser would be told, without one."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lovasz.lab.report import write_report

VOID_ELEMENTS = {"meta", "link", "input", "img", "br", "hr"}


class Reader(HTMLParser):
    """Tags in order, every attribute, the text of scripts and styles, and the cells of the table of scores."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.rows: list[tuple[dict[str, str | None], list[tuple[dict[str, str | None], str]]]] = []
        self.text = ""
        self.styles = ""
        self._open: list[str] = []
        self._scores = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        values = dict(attrs)
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)
        if tag == "table":
            self._scores = "scores" in (values.get("class") or "")
        if tag == "script":
            self.scripts.append((values, ""))
        if self._scores and tag == "tr":
            self.rows.append((values, []))
        if self._scores and tag in ("td", "th"):
            self.rows[-1][1].append((values, ""))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)
        if tag in ("path", "circle"):
            return
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        if tag == "table":
            self._scores = False

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif inside == "style":
            self.styles += data
        else:
            self.text += data
            if self._scores and self.rows and self.rows[-1][1] and ("td" in self._open or "th" in self._open):
                attributes, text = self.rows[-1][1][-1]
                self.rows[-1][1][-1] = (attributes, text + data)

    def scores(self) -> dict[str, list[tuple[str, str]]]:
        """For each loss (and "" for the start) the (class, text) of its cells after the label and the strip."""
        found = {}
        for row, cells in self.rows:
            body = [cell for cell in cells[1:] if "strip-cell" not in (cell[0].get("class") or "")]
            if "data-loss" in row:
                found[row["data-loss"] or ""] = [(c.get("class") or "", text) for c, text in body]
            elif row.get("class") == "before":
                found[""] = [(c.get("class") or "", text) for c, text in body]
        return found

    def figures(self) -> dict[str, Any]:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "figures"))


def read(folder: Path) -> Reader:
    return Reader(write_report(folder).read_text(encoding="utf-8"))
