"""What a person installs: wheel, source archive, what the wheel gives by itself; citation, changelog, release."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from test_imports import BLOCK, OPTIONAL, USE

import lovasz

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    """Build one target ("wheel" or "sdist") and return the path of its archive."""
    pytest.importorskip("hatchling", reason="hatchling builds the package; it is in the extra test")

    def build_target(target: str) -> Path:
        folder = tmp_path_factory.mktemp(target)
        command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (archive,) = folder.iterdir()
        return archive

    return build_target


def test_the_wheel_holds_the_package_and_nothing_else(build) -> None:
    with zipfile.ZipFile(build("wheel")) as wheel:
        names = set(wheel.namelist())
        metadata = HeaderParser().parsestr(
            wheel.read(f"lovasz-{PROJECT['version']}.dist-info/METADATA").decode()  # fails if the version differs
        )
        entry_points = wheel.read(f"lovasz-{PROJECT['version']}.dist-info/entry_points.txt").decode()

    package = REPOSITORY / "src" / "lovasz"
    expected = {
        f"lovasz/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == expected
    assert "lovasz/py.typed" in packed
    assert any(name.startswith("lovasz/lab/templates/") for name in packed)
    assert any(name.endswith("LICENSE") for name in names)

    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    always = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert sorted(re.match(r"[\w-]+", need)[0] for need in always) == ["numpy", "torch"]  # pyright: ignore
    assert "lovasz = lovasz.lab.cli:main" in entry_points


def test_the_source_archive_is_small_and_holds_no_data_runs_or_weights(build) -> None:
    archive = build("sdist")
    assert archive.stat().st_size < 4e6
    with tarfile.open(archive) as sdist:
        names = [name.partition("/")[2] for name in sdist.getnames()]
    assert {"pyproject.toml", "LICENSE", "README.md", "src/lovasz/py.typed", "tests/conftest.py"} <= set(names)
    assert not [name for name in names if name.startswith(("runs/", ".venv", "shared/", ".git/"))]
    assert not [name for name in names if name.endswith((".safetensors", ".ckpt", ".pth", ".pyc"))]


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(build("wheel")) as wheel:
        wheel.extractall(folder)
    return folder


def run_installed(installed: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code with the wheel's files before everything else, and every extra hidden."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r})\n{BLOCK}\nassert 'numba' in sys.argv\n"
    check = f"import lovasz; assert lovasz.__file__.startswith({str(installed)!r}), lovasz.__file__\n"
    command = [sys.executable, "-W", "error", "-c", start + check + code, *OPTIONAL, *arguments]
    return subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=300)


def test_the_wheel_works_without_the_extras(installed: Path) -> None:
    done = run_installed(installed, USE.replace("METHOD", "'binned'"))
    assert done.returncode == 0, done.stderr
    done = run_installed(installed, "from importlib import metadata; print(metadata.version('lovasz'))")
    assert done.stdout.strip() == PROJECT["version"], done.stderr


def test_the_command_without_the_lab_says_what_to_install(installed: Path) -> None:
    done = run_installed(installed, "import runpy; runpy.run_module('lovasz', run_name='__main__')")
    assert done.returncode == 2
    assert 'pip install "lovasz[lab]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_runs_as_a_module(installed: Path) -> None:
    pytest.importorskip("typer", reason="the command needs the extra lab")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "lovasz", "--version"]
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, f"lovasz {PROJECT['version']}"), done.stderr


def test_make_targets_named_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_citation_changelog_and_package_tell_one_version() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the citation; it is in the extra test")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]
    assert lovasz.__version__ == PROJECT["version"]


def test_the_version_is_semantic_and_has_a_changelog_entry_that_says_something() -> None:
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?", PROJECT["version"])
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## {re.escape(PROJECT['version'])} - (unreleased|\d{{4}}-\d\d-\d\d)$", text, re.MULTILINE)
    assert heading is not None
    entry = text[heading.end() :].partition("\n## ")[0]
    assert re.search(r"^- \S", entry, re.MULTILINE)


def test_a_release_is_published_by_a_tag_alone_and_without_a_stored_password() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the workflow; it is in the extra test")
    text = (REPOSITORY / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` so
    assert workflow["permissions"] == {"contents": "read"}
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}  # trusted publishing: the index asks GitHub who calls
    assert publish["needs"] == "build"
    assert "secrets." not in text
    steps = [step.get("run", "") for step in workflow["jobs"]["build"]["steps"]]
    assert any("GITHUB_REF_NAME" in step and "CHANGELOG.md" in step for step in steps)


def test_the_citation_has_what_the_format_requires_and_names_the_paper() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the citation; it is in the extra test")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Berman", "Rannen Triki", "Blaschko"]
    assert paper["year"] == 2018
    assert paper["doi"] == "10.1109/CVPR.2018.00464"


def test_every_direct_dependency_is_pinned_for_repeatable_runs() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    needs = PROJECT["dependencies"] + [need for extra in PROJECT["optional-dependencies"].values() for need in extra]
    names = {re.match(r"[\w-]+", need)[0].lower() for need in needs} - {"lovasz"}  # pyright: ignore
    assert names == pinned
