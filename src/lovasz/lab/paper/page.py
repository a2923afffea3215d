"""docs/paper.md from the results' JSON alone: the paper's number, ours, the setting, the machine and the time.

Apart from the sections, so that a table can be made again without running anything, and none can say what no file says.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lovasz.lab.errors import LabError
from lovasz.lab.paper import batches, networks, surfaces, synthetic, table1, table2, table4
from lovasz.lab.paper.result import RESULT, Section, captions_of, read_result

# By the name of their command, in the order of the paper: what makes a section of the page of a result.
SECTIONS: dict[str, Callable[[Mapping[str, Any]], Section]] = {
    "surfaces": surfaces.section,
    "synthetic": synthetic.section,
    "batches": batches.section,
    "networks": networks.section,
    "binary": table1.section,
    "multiclass": table2.section,
    "finetune": table4.section,
}


def write_page(results: Path, path: Path, failed: list[str] | None = None) -> Path:
    """Write the page at `path` from every result in the folder `results`; returns `path`.

    failed: gets the reason of each result that cannot be used, which the page then lacks; None: such a result raises.

    A result is RESULTS/NAME/result.json with its pictures beside it, as `lovasz paper` writes them, or else
    RESULTS/NAME.json with the pictures in RESULTS/../../pictures, as the page keeps them. A section may be there
    several times, on other data, as NAME-SOMETHING. The pictures go to the folder pictures/ beside the page, with the
    SOMETHING in their names, the results to results/paper/NAME.json.
    Raises LabError when no result is there, or one is not readable, naming the file.
    """
    parts = [""]  # the head, which says what is missing
    taken: set[str] = set()
    for source in sources(results):
        try:
            parts.append(_part(source, path.parent, taken))
        except LabError as error:
            if failed is None:
                raise
            failed.append(f"not on the page: {error}")
    if len(parts) == 1:
        wanted = ", ".join(f"{name}/{RESULT}" for name in SECTIONS)
        raise LabError(f"{results}: no results here; expected {wanted}. Run `lovasz paper surfaces` first.")
    has_table_4 = any("Table 4: " in part for part in parts)
    parts[0] = _HEAD.format(no_table_4="" if has_table_4 else "Table 4 itself, which needs Cityscapes. ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _part(source: Source, home: Path, taken: set[str]) -> str:
    """The section of one result, with copies of its files at the page's place. taken: names of the copies so far."""
    result = read_result(source.result)
    if result["name"] != source.section:
        raise LabError(
            f"{source.result}: a result of `lovasz paper {result['name']}`, expected one of {source.section}."
        )
    try:
        section = SECTIONS[source.section](result)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise LabError(f"{source.result}: a score is missing or not a number ({error!r}); run it again.") from error
    names = {picture: _name_of_copy(picture, source, taken) for picture in result["pictures"]}
    for picture, name in names.items():
        there = source.pictures / (name if source.copied else picture)
        if Path(picture).name != picture or not there.is_file():
            raise LabError(f"{source.result}: its picture {picture!r} is not there; run the experiment again.")
        _copy(there, home / "pictures" / name)
    taken.update(names.values())
    kept = f"results/paper/{source.name}.json"
    _copy(source.result, home / kept)
    captions = {names[picture]: caption for picture, caption in captions_of(section, result).items()}
    return render(section, result, kept, captions)


def _name_of_copy(picture: str, source: Source, taken: set[str]) -> str:
    """A picture's name on the page: with what tells this result from another of its section, unless it has that."""
    suffix = source.name.removeprefix(source.section)  # "-SOMETHING"
    path = Path(picture)
    return picture if path.stem.endswith(suffix) and picture not in taken else f"{path.stem}{suffix}{path.suffix}"


@dataclass(frozen=True)
class Source:
    """Where one result is: its name, the section that it belongs to, its JSON and the folder of its pictures.

    copied: these are the page's own copies.
    """

    name: str
    section: str
    result: Path
    pictures: Path
    copied: bool


def sources(results: Path) -> list[Source]:
    """The results in a folder, in the order of the page."""
    found = []
    for section in SECTIONS:
        for place in (results / section, *sorted(results.glob(f"{section}-*"))):
            if (place / RESULT).is_file():
                found.append(Source(place.name, section, place / RESULT, place, copied=False))
        for file in (results / f"{section}.json", *sorted(results.glob(f"{section}-*.json"))):
            if file.is_file() and all(source.name != file.stem for source in found):
                pictures = results.absolute().parent.parent / "pictures"  # of /x too
                found.append(Source(file.stem, section, file, pictures, copied=True))
    return found


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


_HEAD = """# The paper's experiments

What Berman, Rannen Triki and Blaschko (CVPR 2018, arXiv 1705.08790) report, and what this repository measures. Every
number of ours is read from the JSON named beside it, a copy of what the experiment wrote. `lovasz paper page` makes the
page from a folder of experiments, or again from these copies with `--results docs/results/paper`; `lovasz paper all
--small --shared FOLDER` runs what is not there yet, on two cores.

What is not here: the paper's own numbers where its column is empty. Of its Tables 1 to 4 only the two scores that
public leaderboards repeat (79.0 % on Pascal VOC's test set, 63.06 % on Cityscapes') could be looked up.
{no_table_4}Figure 5 could not be looked up either: the picture of that number
shows what the CRF does to each class, which we take to be its subject. Figures 7 and 8 and the images of Figure 5,
crops of images that may not be handed on: `lovasz paper multiclass` and `finetune` draw them into their folders.
"""


def render(section: Section, result: Mapping[str, Any], source: str, pictures: Mapping[str, str] | None = None) -> str:
    """One section as Markdown. pictures: whole captions by the names of the page's copies, None: the result's own."""
    noted = any(row.note for row in section.rows)
    head = ["", "the paper", "ours", *(["note"] if noted else [])]
    cells = [[row.what, row.paper, row.ours, *([row.note] if noted else [])] for row in section.rows]
    lines = [f"## {section.title}", "", f"`{section.command}`", ""]
    lines += [_line(head), _line(["---"] * len(head)), *map(_line, cells), ""]
    environment = result["environment"]
    threads = environment.get("threads", "?")
    machine = ", ".join(
        [
            str(environment.get("processor", "unknown processor")),
            "1 thread" if threads == 1 else f"{threads} threads",
            f"torch {environment.get('torch', '?')}",
        ]
    )
    if environment.get("device", "cpu") != "cpu":
        machine = f"{environment['device']}, torch {environment.get('torch', '?')}"
    machine = section.machine or machine
    seconds = result["seconds"] if section.seconds is None else section.seconds
    lines += [
        f"- Setting: {section.setting}",
        f"- Comparable: {section.comparable}",
        *([f"- Seen: {section.seen}"] if section.seen else []),
        f"- Machine: {machine}. Time: {duration(seconds)}. Source: [{source}]({source}).",
        "",
    ]
    for table in section.tables:
        lines += [table.caption, "", _line(table.head), _line(["---"] * len(table.head)), *map(_line, table.rows), ""]
    for picture, caption in (captions_of(section, result) if pictures is None else pictures).items():
        lines += [f"![{caption}](pictures/{picture})", "", f"{caption}.", ""]
    return "\n".join(lines).replace("<", "&lt;")  # a result may say anything, and Markdown takes HTML


def duration(seconds: float) -> str:
    """3.21 -> "3.2 s", 75 -> "1 min 15 s", 7300 -> "2 h 2 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
