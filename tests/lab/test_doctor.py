"""What `lovasz doctor` says: it must find a wrong kernel, and must not fail where an optional package is missing."""

import io
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from lovasz import kernels
from lovasz.lab import doctor


def printed(found: doctor.Examination, width: int = 100) -> str:
    text = io.StringIO()
    doctor.print_examination(found, Console(file=text, width=width))
    return text.getvalue()


@pytest.fixture(scope="module")
def here() -> doctor.Examination:
    return doctor.examine()


def test_every_usable_kernel_is_checked_and_right_here(here):
    usable = {impl for impl, problem in kernels.available().items() if not problem}
    ways = usable | ({"numba, sorts"} if "numba" in usable else set())
    assert {check.impl for check in here.checks} == ways
    assert here.healthy, here.checks


def is_truth(how: dict) -> bool:
    """Whether it is the kernel that the others are compared with."""
    return (how["method"], how["impl"]) == ("exact", "torch")


def test_a_wrong_gradient_is_found(monkeypatch):
    right = doctor.lovasz_softmax

    def wrong(logits, target, **how):
        loss = right(logits, target, **how)
        return loss if is_truth(how) else loss + 0.02 * (loss - loss.detach())  # right value, gradient 2 % off

    monkeypatch.setattr(doctor, "lovasz_softmax", wrong)
    found = doctor.examine()
    assert not found.healthy
    assert not any(check.right for check in found.checks)
    assert "WRONG" in printed(found)
    assert any("faulty" in remedy for remedy in found.remedies)


def test_a_wrong_value_alone_is_found(monkeypatch):
    right = doctor.lovasz_softmax

    def wrong(logits, target, **how):
        loss = right(logits, target, **how)
        return loss if is_truth(how) else loss + 0.01

    monkeypatch.setattr(doctor, "lovasz_softmax", wrong)
    assert not doctor.examine().healthy


def test_a_kernel_that_raises_is_a_finding_and_no_crash(monkeypatch):
    right = doctor.lovasz_softmax

    def broken(logits, target, **how):
        if not is_truth(how):
            raise OSError("the library is damaged")
        return right(logits, target, **how)

    monkeypatch.setattr(doctor, "lovasz_softmax", broken)
    text = printed(doctor.examine())
    assert "the library is damaged" in text


def test_the_choice_shown_is_the_choice_made(here):
    for size, shape in (("small", doctor.SMALL), ("medium", doctor.MEDIUM), ("large", doctor.LARGE)):
        choice = kernels.choose("binned", "auto", torch.device("cpu"), torch.Size(shape).numel(), classes=shape[1])
        rows = [row for row in here.choices if row[0].startswith(f"cpu, {size}")]
        assert [row[1:] for row in rows] == [(doctor.IMPL_OF[choice.kernel], choice.reason)]
        assert doctor.IMPL_OF[choice.kernel].split(",")[0] in here.kernels


def test_a_missing_package_comes_with_its_remedy(monkeypatch):
    version = doctor.metadata.version

    def without_numba(name):
        if name == "numba":
            raise doctor.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", without_numba)
    text = printed(doctor.examine())
    assert 'numba is not installed (the fast kernel on CPUs): pip install "lovasz[cpu]"' in text


@pytest.mark.parametrize("width", [30, 80, 200])
def test_it_fits_any_terminal(here, width):
    assert max(map(len, printed(here, width).splitlines()[:20])) <= width


def test_it_works_with_the_bare_library_and_a_terminal_printer():
    # everything that the extras bring but rich and typer is hidden
    code = """
import sys
hidden = {"numba", "triton", "lightning", "pytorch_lightning", "torchmetrics", "plotly", "jinja2", "PIL", "safetensors"}
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
sys.argv = ["lovasz", "doctor"]
from lovasz.lab.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.strip().startswith("cpu, large"))
    assert "torch" in row
