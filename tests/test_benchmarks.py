"""The benchmarks themselves: a wrong loss is refused, the page comes from JSON alone, every part runs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benchmarks import children, formulas, inputs, libraries, machine, memory, page, ports, sweeps
from benchmarks.__main__ import main
from benchmarks.checks import both_passes, check, fault
from benchmarks.contestants import Contestant
from benchmarks.defeats import defeats
from benchmarks.settings import Settings
from benchmarks.tables import table
from benchmarks.timing import interleaved
from torch import Tensor

import lovasz

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results.json"
QUICK = Settings(threads=1, rounds=1, quick=True)


def sorted_by_label(scores: Tensor, target: Tensor) -> Tensor:
    """A wrong Lovász-Softmax that has been in use: class labels where the foreground of the class belongs."""
    probabilities, labels = scores.softmax(1).transpose(0, 1).flatten(1), target.flatten()
    losses = []
    for c, p in enumerate(probabilities):
        errors, order = ((labels == c).to(p.dtype) - p).abs().sort(descending=True)
        losses.append(errors @ formulas.jaccard_slopes(labels[order].to(p.dtype)))
    return torch.stack(losses).mean()


def scaled_gradient(scores: Tensor, target: Tensor) -> Tensor:
    """The right value with a gradient 1 % too large."""
    loss = formulas.softmax_by_class(scores, target)
    return 1.01 * loss - 0.01 * loss.detach()


def not_a_number(scores: Tensor, target: Tensor) -> Tensor:
    return formulas.softmax_by_class(scores, target) * torch.nan


@pytest.mark.parametrize("wrong", [sorted_by_label, scaled_gradient, not_a_number])
def test_a_wrong_loss_is_refused_before_it_is_timed(wrong) -> None:
    scores, target = inputs.multiclass(2, 5, 16)
    with pytest.raises(ArithmeticError, match="off by"):
        check("wrong", wrong, formulas.softmax_by_class, *inputs.piece(scores, target))
    contestants = [
        Contestant("right", formulas.softmax_by_class),
        Contestant("wrong", wrong, formulas.softmax_by_class),
    ]
    with pytest.raises(ArithmeticError, match="wrong on"):
        table("no table", contestants, scores, target, QUICK)


@pytest.mark.parametrize("dtype", sweeps.DTYPES)
def test_right_losses_pass_the_check_in_every_format(dtype: torch.dtype) -> None:
    scores, target = inputs.piece(*inputs.multiclass(2, 21, 32))
    assert fault(lovasz.lovasz_softmax, formulas.softmax_by_class, scores.to(dtype), target) == ""


def test_a_library_with_a_wrong_value_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = libraries.Library("some", "Some loss", lambda: sorted_by_label, formulas.softmax_by_class, "so it says")
    small = inputs.piece(*inputs.multiclass(2, 5, 16))
    monkeypatch.setattr(libraries.Library, "version", lambda self: "1.2")
    contestant, note = libraries.judged(library, *small)
    assert contestant is None
    assert re.search(r"1\.2 is wrong .*value off by \d", note)
    monkeypatch.setattr(libraries.Library, "version", lambda self: "")
    assert libraries.judged(library, *small) == (None, "not measured: some is not installed")


def test_the_piece_that_is_checked_goes_through_the_kernel_that_is_timed() -> None:
    from lovasz.kernels import choose

    device = torch.device("cpu")

    def kernel(scores, classes, image=None):
        return choose("binned", "auto", device, scores.numel(), classes=classes, image=image).kernel

    for images, classes, size in ((4, 21, 256), (1, 2, 512), (1, 150, 256), (2, 21, 64)):
        scores, target = inputs.multiclass(images, classes, size)
        small, labels = inputs.piece(scores, target)
        assert labels.shape == small.shape[:1] + small.shape[2:]
        assert small.numel() < scores.numel() or size == 64
        assert kernel(small, classes) == kernel(scores, classes)
    scores, masks = inputs.binary(8, 512)
    small, labels = inputs.piece(scores, masks)
    assert labels.shape == small.shape
    for whole in (True, False):
        sizes = [None if whole else images[0].numel() for images in (small, scores)]
        assert kernel(small, 1, sizes[0]) == kernel(scores, 1, sizes[1])


def test_layouts_stay_in_the_piece_that_is_checked() -> None:
    scores, target = inputs.multiclass(3, 8, 80)
    lying = scores.detach().contiguous(memory_format=torch.channels_last)
    for part in (inputs.piece, inputs.corner):
        assert part(lying, target)[0].is_contiguous(memory_format=torch.channels_last)
        assert part(scores, target)[0].is_contiguous()


def test_contestants_take_turns_and_warm_up_once() -> None:
    calls: list[str] = []
    result = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, limit=60)
    assert "".join(calls) == "ab" + "ababab"
    assert all(timing.low <= timing.median <= timing.high for timing in result.values())


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], str, float], Callable[[], None]]:
    """Makes a contestant that takes so many seconds of a clock that nothing else moves, and writes its name down."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def contestant(calls: list[str], name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            clock[0] += seconds

        return call

    return contestant


def test_a_quick_contestant_beside_a_slow_one_is_called_nine_times_a_round(timed) -> None:
    calls: list[str] = []
    result = interleaved({"a": timed(calls, "a", 0.1), "b": timed(calls, "b", 5.0)}, rounds=2, limit=60)
    assert "".join(calls) == "ab" + ("a" * 9 + "b") * 2
    assert (result["a"].rounds, result["b"].rounds) == (18, 2)
    assert (result["a"].median, result["b"].median) == pytest.approx((0.1, 5.0))


@pytest.mark.parametrize("seconds", [0.1, 5.0])
def test_processes_that_wait_for_one_another_make_as_many_calls_whatever_their_clocks_say(timed, seconds) -> None:
    calls: list[str] = []
    contestants = {"a": timed(calls, "a", 0.1), "b": timed(calls, "b", seconds)}
    interleaved(contestants, rounds=3, limit=None, quick_calls=1)
    assert "".join(calls) == "ab" * 4


def test_a_slow_table_stops_after_two_rounds() -> None:
    calls: list[int] = []
    assert interleaved({"a": lambda: calls.append(0)}, rounds=50, limit=-1)["a"].rounds == 2


WASTEFUL = """
import sys
import numpy as np, torch
from benchmarks import memory
from benchmarks.contestants import Contestant
megabytes = int(sys.argv[1])
def wasteful(scores, target):
    if scores.shape[-1] > 64:  # not while warming up
        np.ones(megabytes << 17)
        torch.ones(megabytes << 17, dtype=torch.float64)
    return scores.sum()
print(memory.measure(Contestant("wasteful", wasteful), 1, 8, 96)["forward"])
"""


@pytest.mark.skipif(not memory.RESET.is_file(), reason="peak memory is read from Linux's /proc")
def test_memory_of_numpy_and_of_torch_is_seen() -> None:
    megabytes = 64
    # In a process of its own, as contestants have: what other tests have left would be given back meanwhile.
    command = [sys.executable, "-c", WASTEFUL, str(megabytes)]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True).stdout
    # One after the other, not both at once; the system counts resident pages to within about a megabyte.
    assert abs(int(found) - (megabytes << 20)) < 4 << 20


def test_the_page_is_written_from_json_alone() -> None:
    # A process that has neither torch nor matplotlib to import would do; what the page needs is the JSON.
    written = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.of_folder(REPOSITORY) == written
    for picture in re.findall(r"\]\((pictures/[^)]+)\)", written):
        assert (REPOSITORY / "docs" / picture).is_file(), picture


def test_a_part_notes_the_commit_it_measured_and_whether_the_package_was_changed_since(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert machine.commit(tmp_path) == ""  # no checkout
    git("init", "--quiet")
    assert machine.commit(tmp_path) == ""  # no commit
    (tmp_path / "src").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "src" / "loss.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert git("rev-parse", "HEAD").startswith(machine.commit(tmp_path / "benchmarks"))
    (tmp_path / "benchmarks" / "results.json").write_text("{}")
    assert not machine.commit(tmp_path).endswith("+")
    (tmp_path / "src" / "loss.py").write_text("2")
    assert machine.commit(tmp_path) == git("rev-parse", "--short", "HEAD") + "+"


def test_every_defeat_is_listed_and_nothing_else() -> None:
    where = {"processor": "p", "threads": 1, "torch": "t", "python": "y", "lovasz": "l"}
    rows = [
        {"name": "F.cross_entropy", "median": 1.0, "low": 1.0, "high": 1.0, "ratio": 1.0},
        {"name": "lovasz_softmax", "median": 1.2, "low": 1.0, "high": 1.4, "ratio": 1.2},
    ]
    losing = {"input": "slow input", "yardstick": "F.cross_entropy", "rows": rows}
    winning = losing | {"input": "quick input", "rows": [rows[0], rows[1] | {"ratio": 0.9}]}
    exact = {"input": "exact input", "ours, value": 1e-8, "authors' float32, value": 1e-9}  # both within rounding
    exact |= {"ours, gradient": 1e-5, "authors' float32, gradient": 1e-3}
    coarse = exact | {"input": "coarse input", "ours, gradient": 1e-2}
    results = {
        "speed": {"machine": where, "tables": [losing, winning]},
        "step": {"machine": where, "tables": [losing | {"input": "network"}]},
        "accuracy": {"machine": where, "rows": [exact, coarse]},
    }
    found = defeats(results)
    assert len(found) == 3
    assert "slow input" in found[0]
    assert "1.20 times" in found[0]
    assert "network: a whole step with lovasz_softmax takes 1.20 times" in found[1]
    assert "coarse input" in found[2]
    del results["step"]  # whose section has more than a table
    found = defeats(results)
    text = page.page(results | {page.OTHER: {"speed": results["speed"]}})
    assert all(f"- {line}" in text for line in found)
    assert f"- another CPU, {found[0]}" in text
    assert text.count("### slow input") == 2


def test_every_part_has_a_section_and_every_picture_a_drawing() -> None:
    from benchmarks import __main__, plots

    assert set(page.SECTIONS) == set(__main__.PARTS)
    assert set(page.PICTURES) == set(plots.DRAWINGS)


def test_asking_for_a_part_imports_nothing_that_others_need() -> None:
    code = (
        "import sys, benchmarks.__main__; print(sorted({'torch', 'numpy', 'lovasz', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(["nothing"], ["speed", "gpu"], ["--quick", "--out", str(REPOSITORY)]),
        *(["--page", "speed"], ["--page", "--quick"], ["--page", "--out", "nowhere"]),
        *(["speed", "--rounds", "0"], ["speed", "--threads", "0"]),
    ],
)
def test_a_call_that_makes_no_sense_says_so(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error" in done.stderr


def test_a_child_that_fails_is_quoted() -> None:
    with pytest.raises(RuntimeError, match="no such loss"):
        children.ask("benchmarks.memory", ["no such loss", "1", "2", "8", "1"])


@pytest.mark.filterwarnings("ignore")  # other libraries' own
def test_every_part_runs_on_tiny_shapes_without_touching_the_committed_results(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="the step of ENet needs the lab")
    before, threads = RESULTS.read_bytes(), torch.get_num_threads()
    try:
        main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert set(results) == set(page.SECTIONS) - {"ports"}
    assert (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8") == page.page(results)
    assert RESULTS.read_bytes() == before


@pytest.mark.parametrize("part", ["speed", "gpu"])
def test_a_missing_package_is_named_with_its_remedy(part: str) -> None:
    code = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"  # as if it were not installed
        f"sys.argv[1:] = [{part!r}]\n"
        "runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "torch is not installed. `make bench` installs what the parts need" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_is_timed_beside_a_formula_that_agrees_with_it() -> None:
    pytest.importorskip("jax", reason="jax comes with the extra jax")
    (table,) = ports.run(("jax",), images=1, size=16, classes=3, rounds=1)["tables"]
    assert [row["name"] for row in table["rows"]] == ["lovasz_softmax", "authors' formula"]
    assert "1 x 16 x 16 x 3" in table["input"]


def test_both_passes_give_the_gradient() -> None:
    scores, target = inputs.multiclass(1, 3, 4)
    gradient = both_passes(torch.nn.functional.cross_entropy, scores, target)
    expected = (
        scores.detach().softmax(1) - torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2)
    ) / target.numel()
    torch.testing.assert_close(gradient, expected)
