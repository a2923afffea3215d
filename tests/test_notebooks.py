"""The notebooks run from their first cell to the last, say what their text says, and are committed as they were run."""

import ast
import base64
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = ("binary", "multiclass")
LARGEST_PICTURE = 100_000  # bytes: a repository keeps each version of it for ever
FIELDS = {"code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}}
FIELDS["markdown"] = {"cell_type", "id", "metadata", "source"}


def read(name: str) -> dict[str, Any]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_of(name: str) -> str:
    cells = ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join(cells)


@cache
def results(name: str) -> dict[str, dict[str, float]]:
    """What a fresh process computes from the code cells, in their order, without Jupyter; warnings are errors."""
    pytest.importorskip("matplotlib")
    code = code_of(name) + "\n\nimport json\nprint(json.dumps({'final': final, 'early': globals().get('early')}))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_folder_holds_no_other_notebook() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_form_of_a_notebook_and_plain_python_in_its_cells(name: str) -> None:
    notebook = read(name)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"] >= 5) == (4, True)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert set(cell) == FIELDS[cell["cell_type"]]
    ast.parse(code_of(name))  # no magic, so it runs without Jupyter too


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_as_it_was_run_from_top_to_bottom(name: str) -> None:
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}  # no error, no warning
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    pictures = [base64.b64decode(output["data"]["image/png"]) for output in outputs if "data" in output]
    assert len(pictures) == code_of(name).count("plt.show()")
    assert all(picture.startswith(b"\x89PNG") and len(picture) < LARGEST_PICTURE for picture in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_shows_is_what_it_computes(name: str) -> None:
    shown = "".join("".join(o.get("text", [])) for cell in read(name)["cells"] for o in cell.get("outputs", []))
    for loss, value in results(name)["final"].items():
        line = next(line for line in shown.splitlines() if line.startswith(f"{loss}:"))
        assert float(line.split("IoU ")[1].split(",")[0]) == pytest.approx(
            value, abs=0.02
        )  # another machine's rounding


def test_the_lovasz_hinge_finds_the_object_first_and_all_find_it_in_the_end() -> None:
    scores = results("binary")
    others = [loss for loss in scores["final"] if loss != "Lovász hinge"]
    assert all(scores["early"]["Lovász hinge"] > scores["early"][loss] + 0.2 for loss in others)
    assert all(value > 0.6 for value in scores["final"].values())


def test_lovasz_softmax_ends_with_the_better_mean_iou() -> None:
    scores = results("multiclass")["final"]
    assert scores["Lovász-Softmax"] > scores["cross-entropy"] + 0.01
