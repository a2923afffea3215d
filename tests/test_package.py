"""What a person installs and reads first: wheel, source archive, the README's code, the citation, the Makefile."""

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

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
README_BLOCKS = [
    pytest.param(match[1], id=f"line {README[: match.start()].count(chr(10)) + 1}")
    for match in re.finditer(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
]


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


def test_the_readme_shows_python_code() -> None:
    assert README_BLOCKS


@pytest.mark.parametrize("code", README_BLOCKS)
def test_python_code_in_the_readme_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", done.stderr)
    if missing and missing[1] in {"numba", "torchmetrics", "lightning", "safetensors", "PIL"}:
        pytest.skip(f"{missing[1]} is not installed")
    assert done.returncode == 0, done.stderr


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
