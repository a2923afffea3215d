"""The table that `lovasz compare` prints says what the report says."""

import sys
import time

import pytest
from rich.console import Console
from tests.lab.comparison_folder import comparison

from lovasz.lab import console
from lovasz.lab.console import PAPER, comparison_table
from lovasz.lab.paper.app import EXAMPLES
from lovasz.lab.progress import display, loading, say
from lovasz.lab.summary import score_table


def row(content: dict, name: str) -> str:
    """One row of the printed table, as text."""
    console = Console(width=120)
    with console.capture() as printed:
        console.print(comparison_table(content, 120))
    return next((line for line in printed.get().splitlines() if line.strip().startswith(name)), "")


def test_the_start_is_the_mean_over_the_seeds_as_the_losses_are_and_as_the_report_has_it() -> None:
    content = comparison(seeds=(0, 1))
    low, high = (
        {split: scores | {"dataset_miou": level} for split, scores in content["initial"].items()}
        for level in (0.2, 0.4)
    )
    content["initial"] = low
    content["pretraining"] = [{"seed": seed, "scores": scores} for seed, scores in enumerate((low, high))]
    before = score_table(content).before
    assert before is not None
    assert (before[0].text, before[0].deviation) == ("30.0", "14.1")
    assert row(content, "(start)").count("30.0 ± 14.1") == 2  # val and test


def test_losses_that_are_equal_as_shown_are_not_bold() -> None:
    def bold(values: tuple[float, ...]) -> list[bool]:
        content = comparison(seeds=(0,))
        for run, value in zip(content["runs"], values, strict=True):
            run["scores"]["test"]["dataset_miou"] = value
        cells = comparison_table(content | {"initial": None}, 120).columns[2]._cells
        return ["bold" in str(cell.style) for cell in cells]  # pyright: ignore[reportAttributeAccessIssue]

    assert bold((0.5, 0.6, 0.5)) == [False, True, False]
    assert bold((0.5001, 0.5002, 0.5)) == [False] * 3
    assert bold((0.57241, 0.57239, 0.5)) == [True, True, False]  # as the report has it: 57.2 twice


def test_a_start_of_one_weights_file_has_no_spread_and_a_random_one_no_row() -> None:
    content = comparison(seeds=(0, 1))
    assert f"{100 * content['initial']['val']['dataset_miou']:.1f}" in row(content, "(start)")
    assert "±" not in row(content, "(start)")
    assert row(content | {"initial": None}, "(start)") == ""


def test_all_experiments_of_the_paper_can_be_resumed() -> None:
    assert {name for name in EXAMPLES if name != "page"} == set(PAPER)


def test_a_loss_whose_steps_were_not_timed_has_no_time() -> None:
    content = comparison(seeds=(0,))
    loss = content["runs"][0]["loss"]
    assert row(content, loss).split()[-1] != "-"
    content["runs"][0]["seconds_per_step"] = None
    assert row(content, loss).split()[-1] == "-"


@pytest.mark.parametrize(("terminal", "rank"), [(True, ""), (True, "0"), (True, "1"), (False, "")])
def test_a_terminal_shows_once_that_imports_take_their_time(terminal: bool, rank: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    monkeypatch.setenv("TERM", "xterm")
    if rank:  # one of several processes that torchrun has started
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        monkeypatch.setenv("RANK", rank)
    with loading():
        time.sleep(0.2)
    written = capsys.readouterr()
    assert written.out == ""
    if terminal and rank != "1":
        assert "Loading PyTorch" in written.err
        assert written.err.endswith(("\x1b[2K", "\x1b[1A\x1b[2K"))  # the line is wiped in the end
    else:
        assert written.err == ""


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid(s) 22881) exited unexpectedly",
        "DataLoader worker (pid 22881) is killed by signal: Bus error. It is possible that ...",
    ],
)
def test_a_worker_that_the_system_ended_is_told_with_the_remedy(text: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lovasz", "train"])
    message = console.message_of(RuntimeError(text))
    assert message is not None
    assert "/dev/shm" in message
    assert message.endswith("Take fewer --workers, or 0, then go on with --resume.")
    assert console.message_of(RuntimeError("another fault")) is None


def test_control_characters_of_names_do_not_reach_the_terminal(capsys) -> None:
    evil = "\x1b[2Jcat\x9b\r\a"
    scores = {"dataset_miou": 0.5, "image_miou": 0.5, "pixel_accuracy": 0.5, "per_class_iou": {evil: 0.5}}
    console.print_scores(scores, evil)
    console.print_error(evil)
    console.print_notes([evil])
    with display(True) as shown:
        say(shown, f"two\nlines {evil}")
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x9b\r\a")
    assert "cat" in out
    assert "two\nlines" in err
