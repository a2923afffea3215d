"""The shape of the code, held by reading it: which way imports run, how long files are, what is never written."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lovasz

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
PYTHON_FILES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("src", "tests", "benchmarks", "examples", "docs")
    for path in (REPOSITORY / folder).rglob("*.py")
)

# A module may import only from floors below its own. The longest prefix decides; kernels and the lab have rules of
# their own in `wrong_arrows`.
FLOORS = {
    "lovasz.authors": 0,
    "lovasz.choices": -1,
    "lovasz.hints": -1,
    "lovasz.devices": -1,
    "lovasz.openmp": -1,
    "lovasz.validation": 0,
    "lovasz.set_functions": 0,
    "lovasz.problem": 0,
    "lovasz.confusion": 1,
    "lovasz.sharing": 0,
    "lovasz.loops": 0,
    "lovasz.memory": 0,
    "lovasz.ports": 1,
    "lovasz.kernels": 1,
    "lovasz.multiclass": 2,
    "lovasz.functional": 3,
    "lovasz.modules": 4,
    "lovasz.baselines": 4,
    "lovasz.compat": 4,
    "lovasz.metrics": 4,
    "lovasz.cityscapes": 4,
    "lovasz.sampling": 4,
    "lovasz": 5,
    "lovasz.lab": 6,
    "lovasz.__main__": 7,
}
FRAMEWORK_PORTS = {
    "lovasz.jax": 2,
    "lovasz.tensorflow": 2,
    "lovasz.keras_arrays": 2,
    "lovasz.keras_loss": 3,
    "lovasz.keras": 4,
    "lovasz.compat_tensorflow": 3,
}
FRAMEWORKS = {"torch", "jax", "tensorflow", "keras"}
DRAWERS = {"utils", "util", "common", "base", "helpers", "helper", "misc", "registry"}
NOTE_TO_SELF = "TO" + "DO"


def module_name(path: str) -> str:
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(source: str, name: str, is_package: bool) -> Iterator[str]:
    """Every module that `source` imports, at any depth, by its full name; in `from . import x`, x may be one or not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name if is_package else name.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield full if full in NAMES else module
        elif isinstance(node, ast.Call) and called(node).endswith("import_module"):
            target = node.args[0] if node.args else None
            start = target.values[0] if isinstance(target, ast.JoinedStr) else None
            if isinstance(target, ast.Constant):
                yield str(target.value)
            elif isinstance(start, ast.Constant) and str(start.value).endswith("."):
                yield f"{start.value}*"  # f"package.{name}" is some module of that package
            else:
                yield "<unknown>"


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def floor(name: str) -> int:
    floors = FLOORS | FRAMEWORK_PORTS
    return floors[max((package for package in floors if within(name, package)), key=len)]


def same_kernel(name: str, target: str) -> bool:
    """A kernel of several files is a package: those may import one another."""
    parts = name.split(".")
    return len(parts) > 2 and within(target, ".".join(parts[:3]))


def wrong_arrows(source: str, name: str, is_package: bool) -> list[str]:
    found = []
    for target in imports(source, name, is_package):
        if target == "<unknown>":
            found.append(f"{name} imports a module whose name is computed: nobody can see which")
            continue
        if name in FRAMEWORK_PORTS and within(target, "torch"):
            found.append(f"{name} is a port and imports {target}")
        if (within(name, "lovasz.ports") or name == "lovasz.choices") and target.split(".")[0] in FRAMEWORKS:
            found.append(f"{name} is shared by the ports and imports {target}")
        if not within(target, "lovasz") or target == name:
            continue
        if target == "lovasz.*":  # the package finds its public modules when they are asked for
            public = (*lovasz._MODULES, *lovasz._MODULES_OF_EXTRAS)
            allowed = name == "lovasz" and all(floor(f"lovasz.{module}") < floor(name) for module in public)
        elif within(target, "lovasz.ports"):
            allowed = within(name, "lovasz.ports") or name in FRAMEWORK_PORTS
        elif within(target, "lovasz.kernels") and name in FRAMEWORK_PORTS:
            allowed = False  # kernels are PyTorch's
        elif within(name, "lovasz.kernels"):
            # Who chooses knows all kernels; a kernel, of all of them, knows only itself and the bins.
            kernel = ".".join(name.split(".")[:3])
            allowed = within(target, kernel) or target == "lovasz.kernels.bins" or floor(target) < floor(name)
        elif within(name, "lovasz.lab"):
            allowed = not target.startswith("lovasz.kernels.")  # the lab asks lovasz.kernels, never one kernel
        elif within(target, "lovasz.lab"):
            allowed = name == "lovasz.__main__"
        else:
            allowed = floor(target) < floor(name)
        if not allowed:
            found.append(f"{name} imports {target}")
    return found


def read(path: str) -> str:
    return (SOURCE / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES)
def test_imports_run_one_way(path: str) -> None:
    assert wrong_arrows(read(path), module_name(path), path.endswith("__init__.py")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lovasz.functional", "from lovasz.lab import errors"),
        ("lovasz.functional", "from .modules import LovaszSoftmaxLoss"),
        ("lovasz.validation", "import lovasz.functional"),
        ("lovasz.kernels.portable", "from . import exact"),
        ("lovasz.kernels.cpu.passes", "from ..portable import weights"),
        ("lovasz.kernels.exact", "from lovasz.kernels.portable import weights"),
        ("lovasz.kernels.bins", "from .cpu import loops"),
        ("lovasz.kernels.bins", "from ..functional import lovasz_softmax"),
        ("lovasz.kernels", "def f():\n    from lovasz.functional import lovasz_softmax"),
        ("lovasz.compat", "import importlib\nimportlib.import_module('lovasz.lab.errors')"),
        ("lovasz.compat", "import importlib\nimportlib.import_module(name)"),
        ("lovasz.compat", "import importlib\nimportlib.import_module(f'lovasz.lab.{name}')"),
        ("lovasz.kernels.cpu", "import importlib\nimportlib.import_module(f'lovasz.kernels.{name}')"),
        ("lovasz.lab.training", "from lovasz.kernels.cpu import forward"),
        ("lovasz.jax", "import torch"),
        ("lovasz.jax", "from lovasz.kernels import bins"),
        ("lovasz.tensorflow", "from lovasz.functional import lovasz_softmax"),
        ("lovasz.ports.losses", "import jax"),
        ("lovasz.functional", "from lovasz.ports import arguments"),
        ("lovasz.kernels.portable", "from lovasz.ports import bins"),
    ],
)
def test_an_import_against_the_arrows_is_seen(name: str, source: str) -> None:
    assert wrong_arrows(source, name, name == "lovasz.kernels")


def test_no_modules_import_one_another_in_a_circle_when_loaded() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        name, body = module_name(path), ast.parse(read(path)).body
        top = ast.unparse(ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], []))
        graph[name] = {target for target in imports(top, name, path.endswith("__init__.py")) if target in NAMES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def faults_of_the_opening(source: str) -> list[str]:
    """What is wrong with how a file says what is here."""
    docstring = ast.get_docstring(ast.parse(source))
    if not docstring:
        return ["it has no docstring"]
    opening, _, rest = docstring.partition("\n\n")
    found = []
    if len(opening.splitlines()) > 5:
        found.append("its first paragraph is longer than five lines")
    if len(rest.splitlines()) > 15:
        found.append("what it says after the first paragraph belongs beside the code")
    return found


@pytest.mark.parametrize("path", PYTHON_FILES)
def test_every_file_opens_by_saying_what_is_here(path: str) -> None:
    assert faults_of_the_opening((REPOSITORY / path).read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize("source", ["import ast\n", '"""' + "a\n" * 6 + '"""\n', '"""a\n\n' + "b\n" * 16 + '"""\n'])
def test_an_opening_that_is_missing_or_too_long_is_seen(source: str) -> None:
    assert faults_of_the_opening(source)


def test_the_rules_for_every_file_see_examples_and_tests() -> None:
    folders = {path.split("/")[0] for path in PYTHON_FILES}
    assert folders == {"src", "tests", "benchmarks", "examples", "docs"}


@pytest.mark.parametrize("path", MODULES)
def test_no_file_is_longer_than_350_lines(path: str) -> None:
    lines = len(read(path).splitlines())
    assert lines <= 350, f"{path} has {lines} lines: it holds two ideas"


@pytest.mark.parametrize("path", PYTHON_FILES)
def test_no_file_is_a_drawer_or_holds_a_note_to_self(path: str) -> None:
    assert not DRAWERS & set(path.removesuffix(".py").split("/")), f"{path}: name it by what it holds"
    assert NOTE_TO_SELF not in (REPOSITORY / path).read_text(encoding="utf-8")


def dangers(source: str) -> list[str]:
    """Calls and imports that run what a file or an argument says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = called(node)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in {"eval", "exec", "os.system", "os.popen", "yaml.load"}:
                found.append(name)
            if name == "torch.load" and not is_true(keywords.get("weights_only")):
                found.append("torch.load without weights_only=True")
            found += [f"{name}({flag}=True)" for flag in ("shell", "allow_pickle") if is_true(keywords.get(flag))]
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    return found + [name for name in imports(source, "lovasz.any", False) if name.split(".")[0] in unsafe]


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize("path", MODULES)
def test_nothing_runs_what_a_file_or_an_argument_says(path: str) -> None:
    assert dangers(read(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)",
        "os.system(text)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert dangers(source)


def test_safe_calls_are_no_danger() -> None:
    assert dangers("torch.load(path, weights_only=True)\nmodel.eval()\nsubprocess.run([a], shell=False)") == []
