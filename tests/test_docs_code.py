"""The README and the docs say what is so: Python blocks run, command lines parse, figures are those of the results."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from markdown_code import blocks, commands, pages, scripts

import lovasz

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [pytest.param(path, id=path.relative_to(REPOSITORY).as_posix()) for path in pages(REPOSITORY)]
# A page of docs/integrations shows a file of examples/ line by line, which tests/test_examples.py holds and runs.
SHOWN = {f"docs/integrations/{page.name}" for page in (REPOSITORY / "docs" / "integrations").glob("*.md")}
SHOWN -= {"docs/integrations/lab.md"}  # of the lab there is no example
SCRIPTS = [
    pytest.param(script, mark, value, id=" ".join(filter(None, [param.id, mark, value])))
    for param in PAGES
    if param.id not in SHOWN
    for (mark, value), script in scripts(param.values[0].read_text(encoding="utf-8")).items()  # pyright: ignore
]
OF_SEVERAL = [param for param in SCRIPTS if param.values[1] == "torchrun"]
COMMANDS = [
    pytest.param(words, id=f"{param.id}: {' '.join(words)[:60]}")
    for param in PAGES
    for words in commands(param.values[0].read_text(encoding="utf-8"))  # pyright: ignore
]
LANGUAGES = {"python", "sh", "text", "yaml", "json", "toml"}
# These need torchvision, or stand beside it: see the fixture `vision`.
VISION = {"kornia", "segmentation_models_pytorch"}
PORTS = {"jax", "tensorflow", "keras"}  # what the tests of the ports load into this process anyway
WITH_VISION = """
import runpy, sys
from benchmarks.libraries import make_torchvision_importable
make_torchvision_importable()
runpy.run_path(sys.argv[1], run_name="__main__")
"""
EXTRAS = {"numba", "torchmetrics", "lightning", "safetensors", "PIL", "matplotlib", "scipy", "rich"}


def names(value: str) -> set[str]:
    """The packages that a mark says are needed."""
    return set(re.split(r"[, ]+", value))


def run(script: Path, mark: str, value: str, vision: dict[str, str] | None = None) -> str:
    """Run one script as its mark says; its failure is a failure here. Returns what a process of its own has printed."""
    needed = names(value) if mark == "needs" and not vision else set()
    for name in needed:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if not mark or needed & PORTS:
        runpy.run_path(str(script), run_name="__main__")
        return ""
    command = [sys.executable, str(script)]
    if mark == "torchrun":
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", value]
        command[1:1] = [*launcher, str(Path(__file__).with_name("to_its_end.py"))]
    if vision:
        command[1:1] = ["-c", WITH_VISION]
    path = os.pathsep.join([str(REPOSITORY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path} | (vision or {})
    )
    done = subprocess.run(
        command, cwd=script.parent, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(("script", "mark", "value"), [param for param in SCRIPTS if param not in OF_SEVERAL])
def test_python_blocks_run_in_their_order(
    script: str, mark: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "page.py"
    path.write_text(script, encoding="utf-8")
    for name, package in lovasz._MODULES_OF_EXTRAS.items():
        if importlib.util.find_spec(package) is None:  # looking for doctests, pytest leaves half a module here
            monkeypatch.delitem(sys.modules, f"lovasz.{name}", raising=False)
    try:
        leave_what_is_taken(script, tmp_path)
        run(path, mark, value, request.getfixturevalue("vision") if names(value) & VISION else None)
    except ImportError as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__  # ours say what to install
        name = getattr(missing, "name", None) or ""
        if name.partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"{name} is not installed")


def leave_what_is_taken(script: str, folder: Path) -> None:
    """What the commands of a page would write and its Python opens: the weights of a run, and a photo."""
    for name in re.findall(r'"(runs/[^"]+/model\.safetensors)"', script):
        from lovasz.lab.models import create_model, save_weights

        classes = ["background", "road"]
        save_weights(create_model("unet", 2), folder / name, model_name="unet", classes=classes, palette=None)
    for name in re.findall(r'"(new_photos/[^"]+)"', script):
        from PIL import Image

        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (37, 21)).save(folder / name)


@pytest.mark.parametrize(("script", "mark", "value"), OF_SEVERAL)
def test_of_several_processes_one_says_the_loss_of_all(script: str, mark: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "page.py"
    path.write_text(script, encoding="utf-8")
    losses = [float(loss) for loss in re.findall(r"^step \d: (.*)$", run(path, mark, value), re.MULTILINE)]
    assert len(losses) == 3
    assert all(0.5 < loss < 1 for loss in losses)


def test_the_readme_the_front_page_and_the_page_of_the_lab_show_python_code() -> None:
    assert {"README.md", "docs/index.md", "docs/integrations/lab.md"} <= {param.id for param in SCRIPTS}


@pytest.mark.parametrize("path", PAGES)
def test_every_block_says_its_language_and_marks_are_known(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"^ *```+ *(\S*)", text, re.MULTILINE)[::2]
    assert set(fences) <= LANGUAGES
    for block in blocks(text, "python"):
        if block.mark == "skip":
            compile(block.code, path.name, "exec")


@pytest.mark.parametrize("words", COMMANDS)
def test_command_lines_parse(words: list[str]) -> None:
    if words[0] == "lovasz":
        parse(words[1:])
    elif "-m" in words and words[words.index("-m") + 1] == "lovasz":
        parse(words[words.index("-m") + 2 :])
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif "pip" in words:
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        named = re.findall(r"(?:lovasz|\.)\[([\w,-]+)\]", " ".join(words))
        assert {extra for group in named for extra in group.split(",")} <= set(project["optional-dependencies"])
    else:
        assert importlib.util.find_spec(words[words.index("-m") + 1]) if "-m" in words else words[0] in {"torchrun"}


def parse(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Hold one command line of `lovasz` against the options that there are, and its losses against those there are.

    Returns the command's name and what it was given, nothing after `--help`.
    """
    typer_main = pytest.importorskip("typer.main", reason="typer reads command lines; it is in the extra lab")
    from lovasz.lab.commands import app
    from lovasz.lab.losses import LossSpec

    command, rest = typer_main.get_command(app), list(arguments)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if "--help" in rest:
        return "", {}
    assert not hasattr(command, "commands"), f"no such command: {arguments}"
    given = command.make_context(command.name, rest).params
    for spec in [given.get("loss"), *(given.get("losses") or "").split(",")]:
        if spec:
            LossSpec.parse(spec)
    return command.name or "", given


def written(text: str) -> set[str]:
    """The files of weights that the commands of a page write, for the seed 0."""
    pytest.importorskip("typer.main", reason="typer reads command lines; it is in the extra lab")
    from lovasz.lab.defaults import default_folder
    from lovasz.lab.losses import LossSpec
    from lovasz.lab.option_texts import parse_losses

    found = set()
    for words in commands(text):
        name, given = parse(words[1:]) if words[0] == "lovasz" else ("", {})
        network = given.get("model") or "enet"
        if name == "compare":
            losses = parse_losses(given["losses"])
            folder = given["out"] or default_folder(given["data"], network, losses)
            found |= {f"{folder}/{LossSpec.parse(loss).slug}/seed-0/model.safetensors" for loss in losses}
        elif name == "train":
            folder = given["out"] or default_folder(given["data"], network, (given["loss"],), "seed-0")
            found.add(f"{folder}/model.safetensors")
    return found


@pytest.mark.parametrize("path", PAGES)
def test_weights_out_of_runs_are_where_a_command_of_the_page_writes_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    taken = set(re.findall(r"--weights (runs/\S+)", "\n".join(map(" ".join, commands(text)))))
    if taken:
        assert taken <= written(text)


def test_the_readme_predicts_with_the_weights_of_its_comparison() -> None:
    assert "--weights runs/" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    weights = written("```sh\nlovasz compare --data folder:my_images --losses cross_entropy,lovasz_hinge\n```\n")
    folder = "runs/my_images-enet-cross_entropy-lovasz_hinge"
    assert weights == {f"{folder}/{loss}/seed-0/model.safetensors" for loss in ("cross_entropy", "lovasz_hinge")}


def test_the_figures_on_camvid_are_those_of_the_results() -> None:
    results = json.loads((REPOSITORY / "docs" / "results" / "camvid.json").read_text(encoding="utf-8"))
    text = (REPOSITORY / "docs" / "which-loss.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- camvid -->\n(.*?)<!-- end of camvid -->", text, re.DOTALL)
    assert table is not None
    header, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
    names = {"mIoU": "dataset_miou", "mIoU per image": "image_miou", "pixel accuracy": "pixel_accuracy"}
    assert [row[0] for row in rows] == ["before", *results["losses"]]
    for loss, *cells in rows:
        scores = [run["scores"]["test"] for run in results["runs"] if run["loss"] == loss] or [
            results["initial"]["test"]
        ]
        flat = [score["per_class_iou"] | {name: score[key] for name, key in names.items()} for score in scores]
        expected = [100 * statistics.mean(score[name] for score in flat) for name in header[1:]]
        assert [float(cell) for cell in cells] == pytest.approx(expected, abs=0.0500001), loss


def test_the_figures_on_camvid_come_with_their_command_and_spread() -> None:
    results = json.loads((REPOSITORY / "docs" / "results" / "camvid.json").read_text(encoding="utf-8"))
    text = (REPOSITORY / "docs" / "which-loss.md").read_text(encoding="utf-8")
    assert results["command"].split() in commands(text)
    said = re.search(r"^Spread of the mIoU over the three seeds(.*?)^$", text, re.DOTALL | re.MULTILINE)
    assert said is not None
    found = dict(re.findall(r"`([\w+]+)`\s+([\d.]+)", said[1]))
    assert found.keys() == set(results["losses"])
    for loss, spread in found.items():
        scores = [run["scores"]["test"]["dataset_miou"] for run in results["runs"] if run["loss"] == loss]
        assert len(scores) == 3
        assert float(spread.rstrip(".")) == pytest.approx(100 * statistics.stdev(scores), abs=0.00501), loss


def test_the_figures_of_averaged_weights_are_those_of_the_results() -> None:
    text = (REPOSITORY / "docs" / "which-loss.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- average -->\n(.*?)<!-- end of average -->", text, re.DOTALL)
    assert table is not None
    header, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
    shown = 0
    for column, head in enumerate(header[1:], 1):
        kept, rate = re.fullmatch(r"(\w+), (\S+)", head).groups()
        file = {"last": "finetune", "average": "finetune-average"}[kept]
        path = REPOSITORY / "docs" / "results" / "paper" / f"{file}.json"
        runs = json.loads(path.read_text(encoding="utf-8"))["scores"]["runs"]
        for row in rows:
            wanted = {"loss": row[0], "learning_rate": float(rate), "seed": 0, "epochs": 5, "batch_size": 10}
            wanted["sampler"] = "shuffle"
            found = [run for run in runs if all(run[name] == value for name, value in wanted.items())]
            said = [] if row[column] == "" else [float(figure) for figure in row[column].split(" / ")]
            scores = [100 * run[split]["dataset_miou"] for run in found for split in ("test", "val")]
            assert said == pytest.approx(scores, abs=0.0501), (head, row[0])
            shown += len(found)
    assert shown >= 12
    said = re.search(r"1e-3 has (\S+ ± \S+ / \S+ ± \S+) with its last\sweights and\s(.*?) with averaged", text)
    assert said is not None
    for file, figures in zip(("finetune", "finetune-average"), said.groups(), strict=True):
        path = REPOSITORY / "docs" / "results" / "paper" / f"{file}.json"
        runs = json.loads(path.read_text(encoding="utf-8"))["scores"]["runs"]
        how = {"loss": "lovasz_softmax", "learning_rate": 1e-3, "epochs": 5, "batch_size": 10, "sampler": "shuffle"}
        found = [run for run in runs if all(run[name] == value for name, value in how.items())]
        assert [run["seed"] for run in found] == [0, 1, 2]
        scores = [[100 * run[split]["dataset_miou"] for run in found] for split in ("test", "val")]
        assert figures == " / ".join(f"{statistics.mean(of):.2f} ± {statistics.stdev(of):.2f}" for of in scores)


def test_the_figures_of_weights_averaged_over_ten_epochs_are_those_of_the_results() -> None:
    text = (REPOSITORY / "docs" / "which-loss.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- average of ten -->\n(.*?)<!-- end of average of ten -->", text, re.DOTALL)
    assert table is not None
    head, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
    assert head[1:] == ["last", "average"]
    for column, file in enumerate(("finetune", "finetune-average"), 1):
        path = REPOSITORY / "docs" / "results" / "paper" / f"{file}.json"
        runs = json.loads(path.read_text(encoding="utf-8"))["scores"]["runs"]
        for row in rows:
            how = {"loss": row[0], "learning_rate": 1e-3, "epochs": 10, "batch_size": 10, "sampler": "shuffle"}
            found = [run for run in runs if all(run[name] == value for name, value in how.items())]
            assert_are_those_of(figures_of(row[column]), found)


def test_the_figures_on_voc_are_those_of_the_results() -> None:
    path = REPOSITORY / "docs" / "results" / "paper" / "multiclass.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    training, answers = results["scores"]["training"], results["scores"]["answers"]
    losses = ["cross_entropy", "lovasz_softmax"]
    runs = [run for run in training["runs"] if run["sampler"] == "shuffle"]
    assert [run["loss"] for run in runs] == losses
    assert {run["steps"] for run in runs} == {93}
    assert (results["config"]["images"], results["config"]["size"]) == (80, [384, 384])
    whole = [training["start"]["val"], *(run["val"] for run in runs)]
    few = [answers[name]["ways"] for name in ("start", *(f"{loss}, shuffle" for loss in losses))]
    expected = [[ways[way]["dataset_miou"] for ways in few] for way in ("single", "multi", "crf")]
    expected += [[scores[name] for scores in whole] for name in ("dataset_miou", "image_miou")]
    text = (REPOSITORY / "docs" / "which-loss.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- voc -->\n(.*?)<!-- end of voc -->", text, re.DOTALL)
    assert table is not None
    header, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
    assert header[-3:] == ["before", *losses]
    said = [[float(cell) for cell in row[-3:]] for row in rows]
    assert said == [pytest.approx([100 * score for score in row], abs=0.0500001) for row in expected]
    equibatch = re.search(
        r"With equibatch, Lovász-Softmax ends at ([\d.]+) % on all 321, cross-entropy at ([\d.]+) %", text
    )
    assert equibatch is not None
    ends = [run["val"]["dataset_miou"] for run in training["runs"] if run["sampler"] == "equibatch"]
    assert [float(figure) for figure in equibatch.groups()[::-1]] == pytest.approx([100 * e for e in ends], abs=0.0501)


def test_the_figures_of_table_1_are_those_of_the_results() -> None:
    text = (REPOSITORY / "docs" / "which-loss.md").read_text(encoding="utf-8")
    said = re.findall(r"([\d.]+) against (?:cross-entropy's )?([\d.]+) % on (five classes|\w+)", text)
    assert [name for *_, name in said] == ["nuclei", "five classes", "person", "dog"]
    (best,) = re.findall(r"soft Jaccard is best there with ([\d.]+) %", text)
    for hinge, cross_entropy, name in said:
        file = "binary-nuclei" if name == "nuclei" else "binary-voc"
        path = REPOSITORY / "docs" / "results" / "paper" / f"{file}.json"
        scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
        figures = {"lovasz_hinge": hinge, "cross_entropy": cross_entropy}
        if name == "five classes":
            figures["soft_jaccard"] = best
        for loss, figure in figures.items():
            found = [
                run["values"][scores["split"]]["image_iou"]
                for run in scores["runs"]
                if (run["loss"], run["learning_rate"]) == (loss, scores["chosen"][loss])
                and (name not in scores["starts"] or run["class"] == name)
            ]
            assert len(found) == (5 if name == "five classes" else 1)
            assert float(figure) == pytest.approx(100 * statistics.mean(found), abs=0.0501)


def test_the_readmes_figures_of_the_demo_and_of_speed_are_those_of_the_results() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (demo,) = re.findall(
        r"test mIoU: ([\d.]+) % at the branch, then ([\d.]+) % with cross-entropy, ([\d.]+) % with", text
    )
    result = json.loads((REPOSITORY / "docs" / "results" / "demo.json").read_text(encoding="utf-8"))
    by_loss = {run["loss"]: run["scores"] for run in result["runs"]}
    scores = [result["initial"], by_loss["cross_entropy"], by_loss["lovasz_softmax"]]
    assert [float(figure) for figure in demo] == pytest.approx(
        [100 * score["test"]["dataset_miou"] for score in scores], abs=0.0501
    )
    pattern = r"backward: ([\d.]+) times the time of `F.cross_entropy` \(([\d.]+) times where .*\); ([\d.]+) times when"
    pattern += r" timed beside slow formulas; (\d+) times faster than .*\. On a faster CPU, at commit (\w+), "
    (found,) = re.findall(
        pattern + r"([\d.]+) times \(([\d.]+) times\), ([\d.]+) times, and (\d+) times faster \|", text
    )
    for file, (ratio, kept, beside, times) in (("results", found[:4]), ("results-another-cpu", found[5:])):
        measured = measurements(file)
        quick, slow = ({row["name"]: row for row in table["rows"]} for table in measured["speed"]["tables"][:2])
        assert float(ratio) == pytest.approx(quick["lovasz_softmax"]["ratio"], abs=0.00501)
        assert float(kept) == pytest.approx(ratio_of(measured, "speed", KEPT), abs=0.00501)
        assert float(beside) == pytest.approx(slow["lovasz_softmax"]["ratio"], abs=0.00501)
        assert int(times) == round(slow["authors' formula"]["median"] / slow["lovasz_softmax"]["median"])


KEPT = "4 x 21 x 512 x 512 float32, freed memory kept by the allocator"


def measurements(file: str) -> dict[str, Any]:
    return json.loads((REPOSITORY / "benchmarks" / f"{file}.json").read_text(encoding="utf-8"))


def rows_of(measured: dict[str, Any], part: str, input: str) -> dict[str, Any]:
    (table,) = (table for table in measured[part]["tables"] if table["input"] == input)
    return {row["name"]: row for row in table["rows"]}


def ratio_of(measured: dict[str, Any], part: str, input: str) -> float:
    return rows_of(measured, part, input)["lovasz_softmax"]["ratio"]


def test_the_readme_tells_the_price_of_each_size_as_measured() -> None:
    text = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    pattern = r"take ([\d.]+) times as long .* at 22 million logits \(([\d.]+) to ([\d.]+) times where"
    pattern += r" all freed memory is kept\) and ([\d.]+) to ([\d.]+) times at 5 million\. .*"
    pattern += r" one 256 x 256 image (\d+) ms more, two 64 x 64 images (\d+) ms"
    ((large, *several, image, two),) = re.findall(pattern, text)
    both = [measurements(file) for file in ("results", "results-another-cpu")]
    for measured in both:
        assert float(large) == pytest.approx(ratio_of(measured, "speed", "4 x 21 x 512 x 512 float32"), abs=0.0501)
    for said, (part, input) in (
        (several[:2], ("speed", KEPT)),
        (several[2:], ("scaling", "4 x 21 x 256 x 256 float32")),
    ):
        found = sorted(ratio_of(measured, part, input) for measured in both)
        assert [float(figure) for figure in said] == pytest.approx(found, abs=0.0501)
    for more, part, input in (
        (image, "scaling", "1 x 21 x 256 x 256 float32"),
        (two, "speed", "2 x 21 x 64 x 64 float32"),
    ):
        rows = rows_of(both[0], part, input)
        assert int(more) == round(1000 * (rows["lovasz_softmax"]["median"] - rows["F.cross_entropy"]["median"]))


def other_budgets(file: str = "finetune") -> tuple[list[str], list[list[str]], dict[str, Any]]:
    """The README's table of CamVid under other budgets, its head and its rows; and what was measured."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("under other budgets")[2]
    lines = re.findall(r"^\|(.*)\|$", text.partition("<!-- end")[0], re.MULTILINE)
    head, _, *rows = [[cell.strip(" `") for cell in line.split("|")] for line in lines]
    path = REPOSITORY / "docs" / "results" / "paper" / f"{file}.json"
    return head, rows, json.loads(path.read_text(encoding="utf-8"))["scores"]


def figures_of(cell: str) -> list[str]:
    """Mean and deviation on test, the same on val, and the learning rate if it is said."""
    found = re.fullmatch(r"([\d.]+) ± ([\d.]+) / ([\d.]+) ± ([\d.]+)(?: \((\S+)\))?", cell)
    assert found is not None, cell
    return [figure for figure in found.groups() if figure]


def assert_are_those_of(figures: list[str], runs: list[dict[str, Any]]) -> None:
    assert len(runs) == 3
    for split, (mean, deviation) in zip(("test", "val"), (figures[:2], figures[2:]), strict=True):
        values = [100 * run[split]["dataset_miou"] for run in runs]
        assert float(mean) == pytest.approx(statistics.mean(values), abs=0.00501)
        assert float(deviation) == pytest.approx(statistics.stdev(values), abs=0.00501)


def test_the_readmes_figures_of_a_gpu_are_those_of_the_results() -> None:
    results = json.loads((REPOSITORY / "benchmarks" / "results-gpu.json").read_text(encoding="utf-8"))
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| `python -m benchmarks gpu`"))
    assert results["machine"]["device"] in line
    eager = []
    for shape in ([8, 19, 1024, 2048], [16, 150, 512, 512]):
        rows = [row for row in results["rows"] if row["shape"] == shape]
        assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
        found = [row["graph, times cross_entropy"] for row in rows]
        eager += [row["times cross_entropy"] for row in rows]
        assert re.search(rf"{min(found):.2f} to {max(found):.2f} times [^;]*{' x '.join(map(str, shape))}", line)
    others = [row["times cross_entropy"] for row in results["rows"] if row["times cross_entropy"] not in eager]
    assert len(eager) + len(others) == len(results["rows"])
    for found in (eager, others):
        assert f"{min(found):.2f} to {max(found):.2f} times" in line


def test_the_readme_has_the_scores_at_the_rates_that_the_search_kept() -> None:
    _, rows, scores = other_budgets()
    assert sorted(row[0] for row in rows) == sorted(one["loss"] for one in scores["chosen"])
    for loss, cell, *_ in rows:
        *figures, rate = figures_of(cell)
        (kept,) = [one for one in scores["chosen"] if one["loss"] == loss]
        assert kept["learning_rate"] == float(rate)
        same = [run for run in scores["runs"] if all(run[name] == kept[name] for name in kept)]
        assert_are_those_of(figures, [run for run in same if run["sampler"] == "shuffle"])


@pytest.mark.parametrize(
    ("column", "epochs", "rate", "file"),
    [(2, 10, "1e-3", "finetune"), (3, 20, "5e-4", "finetune"), (4, 10, "1e-3", "finetune-average")],
)
def test_the_readme_has_the_scores_after_more_epochs(column: int, epochs: int, rate: str, file: str) -> None:
    head, rows, scores = other_budgets(file)
    assert head[column].startswith(f"{epochs} epochs at {rate}")
    assert ("averaged" in head[column]) == (file == "finetune-average")
    assert {row[0] for row in rows} == {run["loss"] for run in scores["runs"]}
    for row in rows:
        so_long = [run for run in scores["runs"] if run["epochs"] == epochs and run["learning_rate"] == float(rate)]
        assert_are_those_of(figures_of(row[column]), [run for run in so_long if run["loss"] == row[0]])


# --- and each of these can fail


def test_a_block_that_fails_is_named_by_the_line_in_its_page(tmp_path: Path) -> None:
    page = "# Page\n\n```python\nx = 1\n```\n\nText.\n\n```python\nassert x == 2\n```\n"
    path = tmp_path / "page.py"
    path.write_text(scripts(page)["", ""], encoding="utf-8")
    with pytest.raises(AssertionError) as failure:
        run(path, "", "")
    assert failure.traceback[-1].lineno == 9  # counted from 0


def test_marks_part_the_blocks_of_a_page() -> None:
    page = (
        "```python\na\n```\n<!-- code: needs jax -->\n```python\nb\n```\n\n<!-- code: skip, takes a day -->\n\n"
        "```python\nc\n```\n```python\nd\n```\n"
    )
    assert {mark: code.split() for mark, code in scripts(page).items()} == {
        ("", ""): ["a", "d"],
        ("needs", "jax"): ["b"],
    }
    with pytest.raises(ValueError, match="do not know"):
        scripts("<!-- code: somewhere else -->\n```python\na\n```\n")


@pytest.mark.parametrize("line", ["lovasz compare --dta shapes", "lovasz compair", "lovasz train --epochs two"])
def test_a_wrong_command_line_is_seen(line: str) -> None:
    pytest.importorskip("typer.main", reason="typer reads command lines; it is in the extra lab")
    with pytest.raises(Exception, match=r"(?i)no such|valid|missing"):
        parse(line.split()[1:])
