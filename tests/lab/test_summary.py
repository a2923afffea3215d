"""The one sentence that a comparison comes down to: gains, losses, spreads and what is missing."""

import copy
from typing import Any

import pytest
from tests.lab.comparison_folder import comparison

from lovasz.lab.summary import headline, label_of, score_table


def with_test_scores(scores: dict[str, list[float]], initial: float | None = None) -> dict[str, Any]:
    content = comparison(losses=tuple(scores), seeds=(0,))
    template = content["runs"][0]
    content |= {"runs": [], "seeds": None}
    for loss, values in scores.items():
        for seed, value in enumerate(values):
            run = copy.deepcopy(template) | {"loss": loss, "seed": seed}
            run["scores"]["test"]["dataset_miou"] = value
            content["runs"].append(run)
    if initial is None:
        content["initial"] = None
    else:
        content["initial"]["test"]["dataset_miou"] = initial
    return content


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            {"weighted_cross_entropy": [0.540, 0.542, 0.541], "lovasz_softmax": [0.573, 0.574, 0.575]},
            "Lovász-Softmax: 57.4 % test mIoU, +3.3 points over weighted cross-entropy (3 seeds)",
        ),
        (
            {"lovasz_softmax": [0.55, 0.551, 0.552], "cross_entropy": [0.563, 0.564, 0.565], "hinge": [0.1, 0.1, 0.1]},
            "Lovász-Softmax: 55.1 % test mIoU, 1.3 points below cross-entropy (3 seeds)",
        ),
        (
            {"cross_entropy": [0.56, 0.57, 0.58], "lovasz_softmax": [0.572, 0.573, 0.574]},
            "Lovász-Softmax: 57.3 % test mIoU, +0.3 points over cross-entropy, within the spread of 3 seeds",
        ),
        (
            {"cross_entropy": [0.573, 0.573], "lovasz_softmax": [0.573, 0.573]},
            "Lovász-Softmax: 57.3 % test mIoU, the same as cross-entropy (2 seeds)",
        ),
        (
            {"cross_entropy": [0.5], "lovasz_softmax": [0.51], "cross_entropy+lovasz_softmax": [0.52]},
            "Cross-entropy + Lovász-Softmax: 52.0 % test mIoU, +2.0 points over cross-entropy (1 seed)",
        ),
        (
            {"cross_entropy": [0.5], "hinge": [0.51]},
            "Hinge loss: 51.0 % test mIoU, +1.0 point over cross-entropy (1 seed)",
        ),
        ({"lovasz_softmax": [0.5, 0.6]}, "Lovász-Softmax: 55.0 % test mIoU (2 seeds)"),
        ({"lovasz_softmax": [], "cross_entropy": []}, "No run has finished yet"),
    ],
    ids=["gain", "loss", "within the spread", "equal", "best Lovász", "no Lovász", "one loss", "no run"],
)
def test_the_headline_states_the_result_plainly(scores: dict[str, list[float]], sentence: str) -> None:
    assert headline(with_test_scores(scores))[0] == sentence


def test_the_headline_compares_the_seeds_that_both_losses_have() -> None:
    content = with_test_scores({"cross_entropy": [0.50, 0.60, 0.70], "lovasz_softmax": [0.52, 0.62]})
    sentence, notes = headline(content)
    assert sentence == "Lovász-Softmax: 57.0 % test mIoU, +2.0 points over cross-entropy (2 seeds)"
    assert "over the 2 seeds that both losses have finished" in notes


def test_the_headline_says_so_when_no_seed_is_shared() -> None:
    content = with_test_scores({"cross_entropy": [0.50, 0.51], "lovasz_softmax": [0.6]})
    content["runs"][-1]["seed"] = 9
    assert "share no seed: 1 against 2" in headline(content)[1]
    assert "Seed by seed" not in headline(content)[1]


def test_a_steady_gain_counts_although_the_seeds_themselves_scatter() -> None:
    content = with_test_scores({"cross_entropy": [0.50, 0.55, 0.60], "lovasz_softmax": [0.51, 0.561, 0.609]})
    sentence, notes = headline(content)
    assert sentence.endswith("+1.0 point over cross-entropy (3 seeds)")
    assert "Seed by seed: +1.0, +1.1, +0.9 points." in notes


def test_the_headline_falls_back_to_validation_where_one_loss_has_no_test_score() -> None:
    content = comparison()
    for run in content["runs"][:3]:
        run["scores"]["test"] = None
    assert "validation mIoU" in headline(content)[0]


def test_the_second_line_names_the_start_and_what_one_seed_cannot_show() -> None:
    notes = headline(with_test_scores({"cross_entropy": [0.5], "lovasz_softmax": [0.51]}, initial=0.531))[1]
    assert "The start had 53.1 %: −2.1 points since." in notes
    assert "One seed cannot show" in notes


@pytest.mark.parametrize(("steps", "said"), [(185, True), (11, True), (10, False), (2, False), (None, True)])
def test_times_of_few_steps_are_shown_and_not_compared(steps: int | None, said: bool) -> None:
    content = comparison(seeds=(0,))
    content["runs"][0]["steps"] = steps
    assert ("A training step takes" in headline(content)[1]) is said
    rows = score_table(content).rows
    assert any(cell.best for _, cells in rows for cell in cells[-2:]) is said
    assert all(any(cells[place].best for _, cells in rows) for place in range(6))
    assert all(cell.text != "–" for _, cells in rows for cell in cells)


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        ([0.183, 0.188, 0.185], [0.410, 0.200, 0.208], "32 % less time, within the spread of the runs."),
        ([0.183, 0.188, 0.185], [0.270, 0.273, 0.275], "32 % less time."),
        ([0.183], [0.273], "33 % less time."),
        ([0.2, 0.2], [0.2, 0.2], "the same time."),
    ],
)
def test_times_that_differ_less_than_the_runs_of_one_loss_are_within_the_spread(
    mine: list[float], other: list[float], words: str
) -> None:
    content = with_test_scores({"cross_entropy": [0.5] * len(other), "lovasz_softmax": [0.6] * len(mine)})
    for run, seconds in zip(content["runs"], [*other, *mine], strict=True):
        run["seconds_per_step"] = seconds
    assert headline(content)[1].endswith(f"A training step takes {words}")


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("cross_entropy+0.5*lovasz_softmax", "cross-entropy + 0.5 × Lovász-Softmax"),
        ("cross_entropy>lovasz_softmax", "cross-entropy → Lovász-Softmax"),
        ("cross_entropy>0.3>lovasz_softmax", "cross-entropy → Lovász-Softmax (from 30 %)"),
        ("weighted_cross_entropy", "weighted cross-entropy"),
        ("my_loss", "my_loss"),
    ],
)
def test_a_loss_is_named_in_words(spec: str, label: str) -> None:
    assert label_of(spec) == label


@pytest.mark.parametrize(
    ("keep", "said"), [("last", ""), ("best", "at its best epoch"), ("average", "with the mean of its weights")]
)
def test_the_weights_that_are_scored_are_said_where_they_are_not_the_last(keep: str, said: str) -> None:
    content = with_test_scores({"cross_entropy": [0.5], "lovasz_softmax": [0.6]})
    content["config"]["keep"] = keep
    _, note = headline(content)
    assert ("Each run is scored" in note) == (keep != "last")
    assert said in note
