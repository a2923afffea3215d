"""How many steps a run has: what a person is told of it, and which losses it is too short for."""

import pytest

from lovasz.lab.budget import Budget, budget, fewer_images, never_switches
from lovasz.lab.config import RunConfig
from lovasz.lab.defaults import default_loss
from lovasz.lab.errors import LabError
from lovasz.lab.losses import LossSpec

SWITCH = "cross_entropy>lovasz_softmax"


def run(**changes) -> RunConfig:
    return RunConfig(**({"data": "x", "epochs": 3, "batch_size": 4} | changes))


@pytest.mark.parametrize(
    ("changes", "images", "batch_size", "steps"),
    [
        ({}, 11, 4, 6),  # the rest of three is left out
        ({"batch_size": 40}, 8, 8, 3),
        ({"batch_size": 40, "devices": 2}, 9, 4, 3),
        ({"batch_size": 2, "devices": 2}, 9, 2, 6),
    ],
)
def test_steps_are_whole_and_no_larger_than_a_process_has_images(changes, images, batch_size, steps) -> None:
    assert budget(run(**changes), images) == Budget(batch_size, steps)


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(LabError, match="devices: got 3, but there are 2 training images"):
        budget(run(devices=3), 2)


def test_smaller_steps_than_asked_for_are_told() -> None:
    assert fewer_images(run(), 4) is None
    assert fewer_images(run(batch_size=40), 1) == "only 1 training image: steps of 1, not of 40"
    assert fewer_images(run(batch_size=40), 8) == "only 8 training images: steps of 8, not of 40"
    told = "only 9 training images: steps of 2 x 4 in 2 processes, not of 2 x 40"
    assert fewer_images(run(batch_size=40, devices=2), 9) == told


@pytest.mark.parametrize(
    ("loss", "steps", "idle"),
    [
        (SWITCH, 1, "lovasz_softmax"),
        (SWITCH, 2, None),
        ("cross_entropy>0.9>lovasz_softmax", 5, "lovasz_softmax"),
        ("cross_entropy>0.8>lovasz_softmax", 5, None),
        ("cross_entropy>0.1>hinge>0.2>lovasz_softmax", 2, "hinge"),
        ("cross_entropy+hinge", 1, None),
    ],
)
def test_a_phase_without_a_step_is_named_with_the_steps_there_are(loss, steps, idle) -> None:
    told = never_switches(LossSpec.parse(loss), steps)
    if idle is None:
        assert told is None
    else:
        assert told is not None
        assert f"the run has {steps} step" in told
        assert f"left for {idle}" in told
        assert "--epochs" in told


def test_a_loss_that_nobody_typed_switches_only_where_there_is_a_step_for_it() -> None:
    short = run(loss=SWITCH, epochs=1, batch_size=10)
    assert default_loss(short, 8) == "cross_entropy"
    assert default_loss(short, 20) == SWITCH
