"""The command line: every option reaches the run, every failure is one paragraph, a comparison works to its end."""

import dataclasses
import errno
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import typer.main
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from typer.testing import CliRunner

from lovasz.lab import commands, defaults, help_examples, losses, option_texts, options, slips
from lovasz.lab.config import ComparisonConfig, RunConfig, write_json
from lovasz.lab.data import open_dataset
from lovasz.lab.defaults import default_folder
from lovasz.lab.errors import LabError

COMMANDS = ("compare", "train", "evaluate", "predict", "doctor")
TINY = ["--data", "shapes", "--data-option", "size=32", "--data-option", "train=4"]
TINY += ["--data-option", "val=2", "--data-option", "test=2", "--model", "unet", "--batch-size", "2", "--threads", "1"]
runner = CliRunner()


def invoke(*arguments, **rest):
    return runner.invoke(commands.app, list(map(str, arguments)), **rest)


def lovasz(*arguments, **rest) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lovasz", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **rest)


# --- what is printed without running anything


def test_the_bare_command_shows_help_with_examples_and_succeeds():
    result = invoke()
    assert result.exit_code == 0
    assert "lovasz compare --data folder:my_images" in result.stdout
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal_and_ends_with_examples(command, width):
    result = invoke(command, "--help", env={"COLUMNS": str(width)})
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= width


@pytest.mark.parametrize("line", [line for lines in help_examples.EXAMPLES.values() for line in lines])
def test_the_examples_are_valid_command_lines(line):
    name, command, *arguments = shlex.split(line)
    assert name == "lovasz"
    typer.main.get_command(commands.app).commands[command].make_context(command, arguments)


def test_the_losses_in_the_help_are_those_there_are():
    assert options.LOSS_NAMES.split(", ") == list(losses.NAMES)


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"lovasz \d+\.\d+\.\d+\S*\n", result.stdout)


def test_output_to_a_file_has_no_colour_codes():
    done = lovasz("compare", "--help", env=dict(os.environ, TERM="xterm-256color"))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


def test_help_loads_nothing_that_trains():
    code = "import sys; from lovasz.lab import commands; commands.app(['--help'], standalone_mode=False); "
    code += "print(sorted({'lightning', 'torchmetrics', 'plotly', 'numba', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(("given", "kept"), [({}, "17179869184"), ({"MALLOC_TRIM_THRESHOLD_": "4096"}, "4096")])
def test_training_keeps_freed_memory_unless_the_user_says_otherwise(given, kept):
    code = """
import os, sys
from unittest.mock import patch
from lovasz.lab.cli import main
print("started", flush=True)
with patch("lovasz.lab.commands.app", lambda **_: print(sys.argv, os.environ["MALLOC_TRIM_THRESHOLD_"])):
    sys.argv[1:] = sys.orig_argv[3:]
    main()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | given
    command = [sys.executable, "-c", code, "train", "--data", "a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["started"] * (1 if given else 2) + [f"['-c', 'train', '--data', 'a b'] {kept}"]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_lab_extra_one_line_says_what_to_install(missing):
    code = f"""
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == {missing!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
sys.argv = ["lovasz", "compare"]
from lovasz.lab.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert 'pip install "lovasz[lab]"' in done.stderr
    assert missing in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_while_packages_are_imported_leaves_no_traceback():
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torch"):
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
sys.argv = ["lovasz", "doctor"]
from lovasz.lab.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


# --- reading the options


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("7,", (7,)), ("0,5, 9", (0, 5, 9)), ("2,1", (2, 1))]
)
def test_seeds_are_a_count_or_a_list(text, seeds):
    assert option_texts.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1,1", "1,-2", "1.5", ",", "99999999999,", "1001"])
def test_bad_seeds_are_refused(text):
    with pytest.raises(LabError, match="--seeds"):
        option_texts.parse_seeds(text)


def test_crops_and_scales_are_read():
    assert option_texts.parse_crop("256x512") == (256, 512)
    assert option_texts.parse_scale("0.5,2") == (0.5, 2.0)


@pytest.mark.parametrize(
    "text", ["", "256", "256x", "0x5", "-1x5", "axb", "1x2x3", "1.5x2", "70000x5", "9" * 5000 + "x5"]
)
def test_bad_crops_are_refused(text):
    with pytest.raises(LabError, match="--crop"):
        option_texts.parse_crop(text)


@pytest.mark.parametrize("text", ["", "1", "2,1", "0,1", "a,b", "1,inf", "nan,1", "1,2,3"])
def test_bad_scales_are_refused(text):
    with pytest.raises(LabError, match="--scale"):
        option_texts.parse_scale(text)


@pytest.mark.parametrize("text", ["", "a,", ",a", "a,a", "a, a"])
def test_bad_lists_of_losses_are_refused(text):
    with pytest.raises(LabError, match="--losses"):
        option_texts.parse_losses(text)


def test_the_folder_of_a_run_stands_for_its_weights_and_a_folder_of_runs_names_them(tmp_path):
    run = tmp_path / "hinge" / "seed-0"
    for folder in (run, tmp_path / "hinge" / "seed-1"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    assert option_texts.weights_file(run) == run / "model.safetensors"
    assert option_texts.weights_file(run / "model.safetensors") == run / "model.safetensors"
    for command in (("predict", tmp_path), ("evaluate", "--data", "shapes"), ("train", "--data", "shapes")):
        message = invoke(*command, "--weights", tmp_path).stderr
        assert f"{tmp_path}: is a folder; give one of {run / 'model.safetensors'}, " in message
        assert "seed-1" in message
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    message = invoke("predict", tmp_path, "--weights", run / "checkpoints" / "last.ckpt").stderr
    assert f"--weights {run / 'checkpoints' / 'last.ckpt'}: a checkpoint" in message
    assert f"give {run / 'model.safetensors'}." in message
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match=r"empty: is a folder; give a \.safetensors file"):
        option_texts.weights_file(tmp_path / "empty")


def test_data_options_are_pairs():
    assert option_texts.parse_data_options(["size=64", "classes=a,b", "x=", "y=1=2"]) == {
        "size": "64",
        "classes": "a,b",
        "x": "",
        "y": "1=2",
    }
    for pair in ("size", "=3", "a b=3"):
        with pytest.raises(LabError, match="--data-option"):
            option_texts.parse_data_options([pair])
    with pytest.raises(LabError, match="twice"):
        option_texts.parse_data_options(["a=1", "a=2"])


@pytest.mark.parametrize(
    "loss", ["cross_entropy>0.8>lovasz_softmax", "cross_entropy+0.5*hinge", "hinge > cross_entropy"]
)
def test_a_loss_is_spelled_one_way_in_all_folders_of_a_run(loss):
    slug = losses.LossSpec.parse(loss).slug  # of the folders within
    assert default_folder("shapes", "enet", (loss,), "seed-0").name == f"shapes-enet-{slug}-seed-0"


def test_the_help_says_the_first_phase_of_each_command_and_all_three_rules_of_length():
    train, compare = (
        " ".join(re.sub(r"[│╭╰─╮╯]", " ", invoke(name, "--help").stdout).split()) for name in ("train", "compare")
    )
    assert "from random weights. [default: 0]" in train
    assert "[default: (as many as --epochs from scratch, 0 with --weights)]" in compare
    for steps in (rule[0] for rule in (defaults.FROM_SCRATCH, defaults.FROM_WEIGHTS, defaults.DRAWN)):
        assert f" {steps}" in train.partition("--epochs ")[2][:400]


def test_different_comparisons_have_different_default_folders():
    sets = [("cross_entropy+lovasz_softmax",), ("cross_entropy>lovasz_softmax",), ("cross_entropy", "lovasz_softmax")]
    folders = {str(default_folder(f"folder:/data/{name}", "enet", s)) for s in sets for name in ("a", "b")}
    assert len(folders) == 6
    assert all(re.fullmatch(r"runs[/\\][\w.\-]+", folder) for folder in folders)


@pytest.fixture
def asked(monkeypatch):
    """The configuration that a command asks to run, without running it."""
    from lovasz.lab import comparison, training

    seen = {}

    def take(config, **rest):
        seen.update(config=config, **rest)
        raise LabError("stopped by the test")

    monkeypatch.setattr(comparison, "compare", take)
    monkeypatch.setattr(training, "train", take)
    return seen


GIVEN = {  # every option with a value that is not its default, and the field it must reach
    "--data": ("camvid:x", "data", "camvid:x"),
    "--data-seed": ("3", "data_seed", 3),
    "--data-option": ("void=9", "data_options", {"void": "9"}),
    "--model": ("enet_torch7", "model", "enet_torch7"),
    "--pretrain-epochs": ("2", "pretrain_epochs", 2),
    "--epochs": ("7", "epochs", 7),
    "--batch-size": ("3", "batch_size", 3),
    "--learning-rate": ("0.25", "learning_rate", 0.25),
    "--optimizer": ("sgd", "optimizer", "sgd"),
    "--weight-decay": ("0.5", "weight_decay", 0.5),
    "--momentum": ("0.1", "momentum", 0.1),
    "--freeze-batch-norm": (None, "freeze_batch_norm", True),
    "--sampler": ("equibatch", "sampler", "equibatch"),
    "--poly-power": ("2", "poly_power", 2.0),
    "--keep": ("best", "keep", "best"),
    "--validate-every": ("4", "validate_every", 4),
    "--size": ("48x64", "size", (48, 64)),
    "--crop": ("32x48", "crop", (32, 48)),
    "--scale": ("0.5,2", "scale", (0.5, 2.0)),
    "--no-flip": (None, "flip", False),
    "--color-jitter": ("0.4", "color_jitter", 0.4),
    "--precision": ("bf16-mixed", "precision", "bf16-mixed"),
    "--device": ("cpu", "device", "cpu"),
    "--threads": ("2", "threads", 2),
    "--devices": ("2", "devices", 2),
    "--global-batch": (None, "global_batch", True),
    "--workers": ("1", "num_workers", 1),
    "--logger": ("none", "logger", "none"),
}


def test_each_option_reaches_its_field_of_the_comparison(asked):
    line = [part for option, (text, _, _) in GIVEN.items() for part in ([option] if text is None else [option, text])]
    invoke(
        "compare",
        *line,
        "--losses",
        "hinge,soft_jaccard",
        "--seeds",
        "4,2",
        "--out",
        "o",
        "--examples",
        "2",
        "--resume",
    )
    config = asked["config"]
    assert isinstance(config, ComparisonConfig)
    assert {field: getattr(config.run, field) for _, field, _ in GIVEN.values()} == {f: v for _, f, v in GIVEN.values()}
    assert (config.losses, config.seeds, config.out) == (("hinge", "soft_jaccard"), (4, 2), "o")
    assert (config.examples, config.resume) == (2, True)


def test_each_option_reaches_its_field_of_one_run(asked):
    line = [part for option, (text, _, _) in GIVEN.items() for part in ([option] if text is None else [option, text])]
    invoke("train", *line, "--loss", "hinge", "--seed", "4", "--out", "o", "--resume")
    config = asked["config"]
    expected = {field: value for _, field, value in GIVEN.values()} | {"loss": "hinge", "seed": 4, "out": "o"}
    assert {field: getattr(config, field) for field in expected} == expected
    assert asked["resume"] is True
    untested = {field.name for field in dataclasses.fields(RunConfig)} - set(expected)
    assert config.resize_training
    assert untested == {"weights", "resize_training"}, "a field of RunConfig has no option in this test"


@pytest.mark.parametrize("first", [["--losses", "hinge"], ["--losses=hinge"]])
def test_losses_that_are_given_one_by_one_are_all_compared(asked, first):
    invoke("compare", *first, "--data", "shapes", "--losses", "soft_jaccard,cross_entropy", "--epochs", "1")
    assert asked["config"].losses == ("hinge", "soft_jaccard", "cross_entropy")
    twice = invoke("compare", *first, "--data", "shapes", "--losses", "hinge", "--epochs", "1").stderr
    assert "hinge is there twice" in twice
    nothing = invoke("compare", *first, "--losses", "soft_jaccard", "--data", "shapes", "--losses").stderr
    assert "requires an argument" in nothing


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("compare --data shapes --losses hinge soft_jaccard", "--losses hinge,soft_jaccard"),
        ("compare --data shapes --losses hinge, soft_jaccard --epochs 1", "--losses hinge,soft_jaccard"),
        ("compare --data shapes --seeds 0 1 2", "--seeds 0,1,2"),
        ("train --data shapes --crop 64 x 96", "--crop 64x96"),
        ("train --data shapes --crop 64 96", "--crop 64x96"),
        ("train --data shapes --scale 0.5 2", "--scale 0.5,2"),
        ("predict a.jpg b.jpg --weights w.safetensors", "give the folder: lovasz predict . ..."),
        ("predict --weights w.safetensors p/a.jpg p/b.jpg p/c.jpg", "give the folder: lovasz predict p ..."),
        ("predict --weights w.safetensors p/a.jpg q/b.jpg", "give the folder that holds them"),
        ("train --data shapes --lr 0.001", "--learning-rate"),
        ("compare --data shapes --lr=0.001", "--learning-rate"),
        ("paper finetune --data shapes --weights w --lr 0.001", "--learning-rates"),
        ("train --data shapes --gpu 1", "--device"),
        ("train --data shapes --epoch 1", "--epochs"),
    ],
)
def test_what_is_easily_typed_otherwise_is_refused_with_the_remedy(line, remedy):
    result = invoke(*line.split(), prog_name="lovasz", env={"COLUMNS": "200"})
    assert result.exit_code == 2
    said = " ".join(re.sub(r"[│╭╰─╮╯]", " ", result.stderr).split())
    assert re.search(rf"{re.escape(remedy)}(?![\w-])", said), said


def test_names_that_other_programs_give_an_option_are_none_of_ours():
    root = typer.main.get_command(commands.app)
    groups = [root.commands, root.commands["paper"].commands]
    own = {name for group in groups for command in group.values() for param in command.params for name in param.opts}
    assert not slips.OTHER_NAMES.keys() & own
    assert {name for names in slips.OTHER_NAMES.values() for name in names} | slips.SEVERAL <= own
    assert all(isinstance(command, slips.Command) for name, command in groups[0].items() if name != "paper")
    assert all(isinstance(command, slips.Command) for command in groups[1].values())


def test_the_plan_of_a_resumed_comparison_lists_the_losses_and_seeds_of_its_folder(asked, tmp_path):
    before = ComparisonConfig(run=RunConfig(data="shapes"), losses=("cross_entropy", "hinge"), out=str(tmp_path))
    write_json(tmp_path / "config.json", before.to_json())
    line = ("compare", "--data", "shapes", "--losses", "soft_jaccard", "--seeds", "4,", "--out", tmp_path)
    told = invoke(*line, "--resume").stderr
    assert "with each of cross_entropy, hinge, soft_jaccard and each of the seeds 0, 4, on" in told
    assert "with soft_jaccard, on" in invoke(*line).stderr


def test_from_scratch_the_losses_share_a_first_phase_and_from_weights_they_do_not(asked, tmp_path):
    from lovasz.lab.models import create_model, save_weights

    weights = tmp_path / "w.safetensors"
    save_weights(create_model("unet", 2), weights, model_name="unet", classes=("a", "b"), palette=((0, 0, 0),) * 2)
    invoke("compare", "--data", "shapes")
    scratch = asked["config"].run
    invoke("compare", "--data", "shapes", "--weights", str(weights))
    tuned = asked["config"].run
    assert scratch.weights is None
    assert scratch.pretrain_epochs == scratch.epochs > tuned.epochs
    assert (tuned.weights, tuned.pretrain_epochs) == (str(weights), 0)


@pytest.mark.parametrize("command", ["compare", "train"])
def test_training_takes_the_network_of_its_weights_unless_one_is_named(asked, tmp_path, command):
    from lovasz.lab.models import create_model, save_weights

    def network(*more):
        invoke(command, "--data", "shapes", "--epochs", "1", *more)
        config = asked["config"]
        run = getattr(config, "run", config)
        assert f"shapes-{run.model}-" in config.out
        return run.model

    weights = tmp_path / "w.safetensors"
    save_weights(create_model("unet", 2), weights, model_name="unet", classes=("a", "b"), palette=None)
    assert network() == "enet"
    assert network("--weights", weights) == "unet"
    assert network("--weights", weights, "--model", "deeplab") == "deeplab"
    description = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps(description | {"model_name": "their net"}))
    assert network("--weights", weights) == "unet"


@pytest.mark.parametrize("command", ["compare", "train"])
def test_training_starts_from_weights_without_a_json(asked, tmp_path, command):
    from lovasz.lab.models import create_model, save_weights

    weights = tmp_path / "w.safetensors"
    save_weights(create_model("enet", 10), weights, model_name="enet", classes=list("abcdefghij"), palette=None)
    weights.with_suffix(".json").unlink()
    result = invoke(command, "--data", "shapes", "--weights", weights, "--epochs", "1")
    assert "stopped by the test" in result.stderr


@pytest.mark.parametrize(("epochs", "loss"), [(1, "cross_entropy"), (2, options.DEFAULT_LOSS)])
def test_the_loss_that_nobody_typed_is_one_that_the_run_has_steps_for(asked, epochs, loss):
    shown = invoke("train", "--data", "shapes?train=8", "--epochs", epochs, "--crop", "whole").stderr
    assert asked["config"].loss == loss
    assert asked["config"].out.endswith(f"-{losses.LossSpec.parse(loss).slug}-seed-0")
    assert ("Too few steps to switch losses" in shown) is (epochs == 1)


@pytest.fixture
def asked_at(monkeypatch):
    """The sizes of the images that a U-Net is given."""
    from lovasz.lab.models.unet import UNet

    sizes, forward = [], UNet.forward

    def note(self, image):
        sizes.append(tuple(image.shape[2:]))
        return forward(self, image)

    monkeypatch.setattr(UNet, "forward", note)
    return sizes


# --- failures


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("compare", "--losses", "lovasz_sofmax"), "Did you mean 'lovasz_softmax'"),
        (("compare", "--seeds", "no"), "--seeds 'no'"),
        (("compare", "--model", "unett"), "model 'unett' is unknown"),
        (("compare", "--weights", "none.safetensors"), "none.safetensors"),
        (("compare", "--optimizer", "adamw"), "optimizer: got 'adamw'"),
        (("train", "--momentum", "1"), "momentum: got 1.0, expected less than 1"),
        (("train", "--loss", "hing"), "there is no loss 'hing'"),
        (("train", "--crop", "3"), "--crop '3'"),
    ],
)
def test_a_wrong_option_is_told_before_the_data_are_read(monkeypatch, line, message):
    from lovasz.lab import data

    def read(*_, **__):
        raise AssertionError("the data were read first")

    monkeypatch.setattr(data, "open_dataset", read)
    result = invoke(*line, "--data", "folder:anywhere")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_an_error_is_one_paragraph_on_stderr_with_exit_code_2(monkeypatch):
    from lovasz.lab import comparison

    def fail(config):
        raise LabError("folder[red] is not there: data/[bold]x[/bold]")

    monkeypatch.setattr(comparison, "compare", fail)
    result = invoke("compare", "--data", "shapes", "--epochs", "1")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: folder[red] is not there: data/[bold]x[/bold]"
    assert result.stdout == ""


@pytest.mark.parametrize("action", ["file", "memory"])
def test_a_full_memory_and_a_locked_folder_are_told_without_a_traceback(monkeypatch, action):
    from lovasz.lab import comparison

    def fail(config):
        if action == "file":
            raise PermissionError(13, "Permission denied", "/locked/run.json")
        torch.empty(2**60)

    monkeypatch.setattr(comparison, "compare", fail)
    result = invoke("compare", "--data", "shapes", "--epochs", "1")
    assert result.exit_code == 2
    assert ("/locked/run.json" if action == "file" else "--batch-size") in result.stderr


def _no_space(error):
    return OSError(error, os.strerror(error))


@pytest.mark.parametrize(
    "error",
    [
        *map(_no_space, (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)),
        OSError(errno.ENOSPC, "No space left on device", "/full/run.json"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_with_what_to_do(monkeypatch, error):
    from lovasz.lab import comparison

    def fail(config):
        raise error

    monkeypatch.setattr(comparison, "compare", fail)
    line = ["compare", "--data", "shapes", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["lovasz", *line])
    result = invoke(*line)
    assert result.exit_code == 2
    told = result.stderr.splitlines()[-1]
    assert os.strerror(getattr(error, "errno", errno.ENOSPC)) in told
    assert "could not be written. Free space or lift the limit, then go on with --resume." in told
    assert (getattr(error, "filename", None) or "") in told


@pytest.mark.parametrize("fault", [ZeroDivisionError("ours"), RuntimeError("ours"), OSError("ours")])
def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, fault):
    from lovasz.lab import comparison

    def fail(config):
        raise fault

    monkeypatch.setattr(comparison, "compare", fail)
    assert invoke("compare", "--data", "shapes", "--epochs", "1").exception is fault


def _interrupted_as_by_lightning():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def _interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("interrupt", [_interrupted, _interrupted_as_by_lightning])
def test_an_interruption_says_how_to_go_on(monkeypatch, interrupt):
    from lovasz.lab import comparison

    monkeypatch.setattr(comparison, "compare", lambda config: interrupt())
    line = ["compare", "--data", "folder:my images", "--epochs", "1", "--pretrain-epochs", "0", "--crop", "8x8"]
    monkeypatch.setattr(sys, "argv", ["lovasz", *line])
    result = invoke(*line)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].strip() == shlex.join(["lovasz", *line, "--resume"])


def test_an_exit_that_is_no_interruption_stays_what_it_is(monkeypatch):
    from lovasz.lab import comparison

    monkeypatch.setattr(comparison, "compare", lambda config: sys.exit(5))
    assert invoke("compare", "--data", "shapes", "--epochs", "1").exit_code == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--data", "folder:/no/such/place"], ["/no/such/place"]),
        (["--data", "nonsense"], ["nonsense"]),
        (["--data", "shapes", "--losses", "cross_entrop"], ["'cross_entrop'", "cross_entropy"]),
        (["--data", "shapes", "--weights", "missing.safetensors"], ["missing.safetensors"]),
        (["--data", "shapes", "--model", "nonet"], ["nonet", "enet"]),
        (["--data", "shapes", "--optimizer", "lion"], ["lion", "adam"]),
        (["--data", "shapes", "--precision", "8"], ["'8'", "bf16-mixed"]),
        (["--data", "shapes", "--device", "cuda:99"], ["cuda:99"]),
        (["--data", "shapes", "--weights", "w", "--pretrain-epochs", "3"], ["pretrain_epochs"]),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, line, words):
    out = tmp_path / "out"
    result = invoke("compare", *line, "--out", out)
    assert result.exit_code == 2, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.output
    assert not out.exists()


# --- real runs on tiny drawn images


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "compared"
    result = invoke("compare", *TINY, "--epochs", "1", "--out", out, "--examples", "1")
    assert result.exit_code == 0, result.output
    return out, result


def test_a_comparison_prints_its_table_and_writes_its_report(compared):
    out, result = compared
    comparison = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [run["loss"] for run in comparison["runs"]] == ["cross_entropy", "lovasz_softmax"]
    assert comparison["start"]["kind"] == "pretraining"
    assert (out / "report.html").is_file()
    for run in comparison["runs"]:
        row = next(line for line in result.stdout.splitlines() if line.strip().startswith(run["loss"]))
        assert f"{100 * run['scores']['val']['dataset_miou']:.1f}" in row
    assert str(out / "report.html") in result.stdout


def test_a_loss_that_diverges_leaves_the_report_of_the_others(tmp_path):
    line = ["compare", *TINY, "--model", "unet", "--crop", "whole", "--epochs", "1", "--batch-size", "4"]
    line += ["--pretrain-epochs", "0", "--logger", "none"]
    result = invoke(*line, "--losses", "1e39*hinge,cross_entropy", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "cross_entropy" in result.stdout
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in result.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    assert "Error: seed 0, loss 1e39*hinge: inf at step 1 of 1. Lower the learning rate" in result.stderr
    alone = invoke(*line, "--losses", "1e39*hinge", "--out", tmp_path / "alone")
    assert alone.exit_code == 2
    assert "Error: seed 0, loss 1e39*hinge: inf at step 1" in alone.stderr
    assert not (tmp_path / "alone" / "report.html").exists()  # of nothing


def test_more_processes_than_images_are_refused_before_any_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("lovasz.lab.training.together", None)
    result = invoke("train", *TINY, "--model", "unet", "--devices", "100", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "devices: got 100, but there are 4 training images; use fewer processes" in result.stderr


def test_an_existing_folder_is_refused_and_left_alone(compared):
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    result = invoke("compare", *TINY, "--epochs", "1", "--out", out)
    assert result.exit_code == 2
    assert str(out) in result.stderr
    assert "--resume" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_resuming_a_finished_comparison_trains_nothing_again(compared):
    out, first = compared
    weights = sorted(out.rglob("model.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    result = invoke("compare", *TINY, "--epochs", "1", "--out", out, "--examples", "1", "--resume")
    assert result.exit_code == 0, result.output
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert result.stdout == first.stdout


def test_evaluate_gives_the_scores_that_the_run_wrote(compared):
    out, _ = compared
    weights = out / "lovasz_softmax" / "seed-0" / "model.safetensors"
    result = invoke("evaluate", *TINY[:-4], "--weights", weights, "--split", "test", "--json")
    assert result.exit_code == 0, result.output
    expected = json.loads((weights.parent / "run.json").read_text(encoding="utf-8"))["scores"]["test"]
    printed = json.loads(result.stdout)
    assert printed["scores"] == expected
    assert (printed["split"], printed["data"]) == ("test", "shapes")
    table = invoke("evaluate", *TINY[:-4], "--weights", weights, "--split", "test")
    assert f"{100 * expected['dataset_miou']:.1f}" in table.stdout
    assert "background" in table.stdout


def test_evaluate_counts_an_output_whose_class_the_masks_lack(tmp_path):
    from lovasz.lab.models import create_model, save_weights

    for name in "abcd":
        for place, values in (("images", np.zeros((16, 24, 3))), ("masks", np.arange(16 * 24).reshape(16, 24) % 2)):
            (tmp_path / "d" / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "d" / place / f"{name}.png")
    network = create_model("unet", 3)
    save_weights(
        network,
        tmp_path / "w.safetensors",
        model_name="unet",
        classes=["background", "foreground", "sky"],
        palette=None,
    )
    command = ("evaluate", "--weights", tmp_path / "w.safetensors", "--json", "--data")
    found = invoke(*command, f"folder:{tmp_path / 'd'}")
    said = invoke(*command, f"folder:{tmp_path / 'd'}?classes=background,foreground,sky")
    assert json.loads(found.stdout)["scores"] == json.loads(said.stdout)["scores"]
    assert "holds sky, but the weights know" in found.stderr
    assert "sky" not in said.stderr


def test_evaluate_scores_what_predict_writes_also_where_fewer_classes_are_named(tmp_path):
    from lovasz.lab.models import create_model, save_weights

    rng = np.random.default_rng(0)
    for name in "abcd":
        for place, shape in (("images", (16, 24, 3)), ("masks", (16, 24))):
            (tmp_path / place).mkdir(exist_ok=True)
            values = rng.integers(0, 256 if place == "images" else 2, shape)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / place / f"{name}.png")
    weights = tmp_path / "w.safetensors"
    save_weights(create_model("unet", 3), weights, model_name="unet", classes=["sea", "sky", "road"], palette=None)
    scored = invoke("evaluate", "--weights", weights, "--json", "--data", f"folder:{tmp_path}?classes=sky,sea")
    assert "The weights also know road, which the data do not name" in scored.stderr
    invoke("predict", tmp_path / "images", "--weights", weights, "--out", tmp_path / "p")
    sample = open_dataset(f"folder:{tmp_path}?classes=sky,sea", "val")[0]
    with Image.open(tmp_path / "p" / "masks" / f"{sample.name}.png") as mask:
        answers, true = np.array(mask), sample.mask.numpy()
    assert (answers == 2).any()
    right = ((answers == 1) & (true == 0)) | ((answers == 0) & (true == 1))
    assert json.loads(scored.stdout)["scores"]["pixel_accuracy"] == right.mean()


def test_predict_takes_weights_that_evaluate_takes_named_or_not(tmp_path):
    from lovasz.lab.models import create_model
    from lovasz.lab.models.layouts import LAYOUTS

    edgenets = next(layout for layout in LAYOUTS if layout.unused)
    state, weights = create_model("espnetv2", 2).state_dict(), tmp_path / "w.safetensors"
    save_file({theirs: state[ours].contiguous() for theirs, ours in edgenets.keys.items()}, weights)
    weights.with_suffix(".json").write_text('{"classes": ["background", "foreground"]}')
    for name in "abcd":
        write_pair(tmp_path, name)
    for more in ((), ("--model", "espnetv2")):
        scored = invoke("evaluate", "--data", f"folder:{tmp_path}", "--weights", weights, *more)
        assert scored.exit_code == 0, scored.output
        done = invoke("predict", tmp_path / "images", "--weights", weights, "--out", tmp_path / "p", *more)
        assert done.exit_code == 0, done.output
        assert len(list((tmp_path / "p" / "masks").iterdir())) == 4
        shutil.rmtree(tmp_path / "p")
    refused = invoke("predict", tmp_path / "images", "--weights", weights, "--out", tmp_path / "p", "--model", "unet")
    assert "it holds 'espnetv2' and not the weights of 'unet'; give a file of 'unet'" in refused.stderr


def write_pair(folder, name):
    """An image of noise and a mask of 0 and 1 below a folder."""
    for place, shape in (("images", (16, 24, 3)), ("masks", (16, 24))):
        (folder / place).mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).integers(0, 256 if place == "images" else 2, shape)
        Image.fromarray(values.astype(np.uint8)).save(folder / place / f"{name}.png")


def test_weights_are_asked_at_the_size_they_were_trained_at(tmp_path, asked_at):
    from lovasz.lab.models import create_model, save_weights

    weights = tmp_path / "w.safetensors"
    extra = {"size": [24, 40]}
    save_weights(
        create_model("unet", 10),
        weights,
        model_name="unet",
        classes=open_dataset("shapes", "val").info.classes,
        palette=None,
        extra=extra,
    )
    Image.fromarray(np.zeros((17, 23, 3), np.uint8)).save(tmp_path / "a.png")
    for more, sizes in (((), {(24, 40)}), (("--size", "16x16"), {(16, 16)}), (("--size", "whole"), {None})):
        for number, command in enumerate((("evaluate", *TINY[:-4]), ("predict", tmp_path / "a.png", "--overwrite"))):
            asked_at.clear()
            line = (*command, "--weights", weights, *more) + (("--out", tmp_path / "p") if number else ())
            result = invoke(*line)
            assert result.exit_code == 0, result.output
            own = (17, 23) if number else (32, 32)
            assert set(asked_at) == {own if size is None else size for size in sizes}
    with Image.open(tmp_path / "p" / "masks" / "a.png") as mask:
        assert mask.size == (23, 17)


def test_train_writes_weights_that_predict_can_use(tmp_path, compared):
    out = tmp_path / "one"
    result = invoke("train", *TINY, "--loss", "lovasz_softmax", "--epochs", "1", "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "model.safetensors").is_file()
    image = compared[0] / json.loads((compared[0] / "comparison.json").read_text())["examples"][0]["image"]
    done = lovasz("predict", image, "--weights", out / "model.safetensors", "--out", tmp_path / "p")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p" / "masks" / "image.png").is_file()
    again = invoke("predict", image, "--weights", out / "model.safetensors", "--out", tmp_path / "p")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_a_folder_of_images_of_several_sizes_needs_no_option(tmp_path):
    rng = np.random.default_rng(0)
    for number, size in enumerate([(20, 33), (41, 24)] * 5):
        for kind, pixels in (("images", rng.integers(0, 256, (*size, 3))), ("masks", rng.integers(0, 3, size))):
            (tmp_path / "mine" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "mine" / kind / f"{number}.png")
    line = ["compare", "--data", f"folder:{tmp_path / 'mine'}", "--model", "unet"]
    line += ["--epochs", 1, "--batch-size", 2, "--threads", 1]
    result = invoke(*line, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "crops of 41 x 33 pixels" in result.stderr
    assert (tmp_path / "out" / "report.html").is_file()


def test_ctrl_c_in_a_real_run_says_how_to_go_on_and_the_rest_is_done(tmp_path):
    out = tmp_path / "interrupted"
    line = [
        "compare",
        *TINY,
        "--epochs",
        "200",
        "--losses",
        "cross_entropy",
        "--pretrain-epochs",
        "0",
        "--out",
        str(out),
    ]
    line += ["--validate-every", "0", "--logger", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lovasz", *line],
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: a shell has its background jobs ignore the signal, this test and its children among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoint = out / "cross_entropy" / "seed-0" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 600
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=600)
    assert process.returncode == 130, message
    assert "Traceback" not in message
    assert message.strip().splitlines()[-1].strip() == shlex.join(["lovasz", *line, "--resume"])
    assert checkpoint.is_file()
    assert not (out / "cross_entropy" / "seed-0" / "run.json").exists()
