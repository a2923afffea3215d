"""What importing costs: a fresh process shows that the library loads, and needs, nothing but torch and numpy."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lovasz

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = sorted(
    path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.stem != "__main__"
)

# What the extras bring, by the name that is imported.
OPTIONAL = ["numba", "triton", "jax", "tensorflow", "keras", "torchmetrics", "lightning", "pytorch_lightning"]
OPTIONAL += [
    "PIL",
    "jinja2",
    "matplotlib",
    "pydensecrf",
    "plotly",
    "rankseg",
    "rich",
    "safetensors",
    "scipy",
    "tensorboard",
    "typer",
]

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"{name} is blocked by this test", name=name)

sys.meta_path.insert(0, Block())
"""

USE = """
import torch
from lovasz import lovasz_softmax, lovasz_hinge, lovasz_sigmoid

for method in ("exact", "binned"):
    # Two classes, one pixel wrong of two, scores sure: the loss is the mean of 1 - IoU = 1 - 1/2 and 1 - 0.
    logits = torch.tensor([[50.0, -50.0], [50.0, -50.0]], requires_grad=True)
    loss = lovasz_softmax(logits, torch.tensor([0, 1]), method=method)
    loss.backward()
    assert abs(loss.item() - 0.75) < 1e-4, (method, loss)
    assert logits.grad.shape == logits.shape
    for binary in (lovasz_hinge, lovasz_sigmoid):
        scores = torch.tensor([[[2.0, -3.0]]], requires_grad=True)
        binary(scores, torch.tensor([[[1, 0]]]), method=method).backward()
        assert scores.grad.isfinite().all(), method
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_lovasz_loads_no_optional_package() -> None:
    # torch may load some of them by itself where they are installed; only what lovasz adds counts.
    code = "import sys, json, torch, numpy; before = set(sys.modules); import lovasz; "
    added = set(json.loads(run(code + "print(json.dumps(sorted(set(sys.modules) - before)))")))
    assert {name.partition(".")[0] for name in added} & set(OPTIONAL) == set()
    assert not {name for name in added if name.startswith("lovasz.lab")}


def test_public_modules_are_attributes_of_the_package() -> None:
    code = "import lovasz; print(lovasz.set_functions.__name__, lovasz.baselines.__name__, lovasz.compat.__name__)"
    assert run(code).split() == ["lovasz.set_functions", "lovasz.baselines", "lovasz.compat"]
    assert set(lovasz._MODULES) <= set(dir(lovasz))
    assert {f"lovasz.{name}" for name in (*lovasz._MODULES, *lovasz._MODULES_OF_EXTRAS)} <= set(MODULES)


def test_help_needs_no_extra_and_a_shell_completes_what_is_installed() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:])); "  # as if they were not installed
    run(absent + "import lovasz, pydoc; assert 'set_functions' in pydoc.render_doc(lovasz)", *OPTIONAL)
    found = {name for name, package in lovasz._MODULES_OF_EXTRAS.items() if importlib.util.find_spec(package)}
    assert found == set(lovasz._MODULES_OF_EXTRAS) & set(dir(lovasz))


@pytest.mark.parametrize("blocked", [["numba"], ["triton"], OPTIONAL], ids=["numba", "triton", "every extra"])
def test_the_losses_work_without(blocked: list[str]) -> None:
    run(BLOCK + USE, *blocked)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_where_its_packages_are_installed(module: str) -> None:
    # The doctest run passes over modules that fail to import; this is where such a failure shows.
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
