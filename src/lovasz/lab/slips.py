"""What is easily typed otherwise than the commands want it, and what their messages then say: the names that other
programs give an option, blanks for commas, a shell's *.jpg. Apart from the options, which are declarations alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

JOINED = "--losses"  # of which Typer would keep the last alone
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, which newer versions of Typer bring along

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "--lr": ("--learning-rate", "--learning-rates"),
    "--bs": ("--batch-size", "--batch-sizes"),
    "--wd": ("--weight-decay",),
    "--gpu": ("--device",),
    "--gpus": ("--devices",),
    "--cuda": ("--device",),
    "--net": ("--model",),
    "--network": ("--model",),
    "--arch": ("--model",),
    "--checkpoint": ("--weights",),
    "--ckpt": ("--weights",),
    "--output": ("--out",),
    "--output-dir": ("--out",),
}
BETWEEN: Mapping[str, str] = {"--crop": "x", "--size": "x"}  # of others it is a comma
SEVERAL = {*BETWEEN, JOINED, "--seeds", "--scale", "--scales", "--classes", "--learning-rates", "--batch-sizes"}
SEVERAL |= {"--samplers", "--rules", "--radius", "--parts"}


class Command(TyperCommand):
    """A command whose usage errors name the remedy, and which takes --losses several times as once, with commas."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's."""
        typed = list(args)  # which the parser empties
        try:
            return super().parse_args(ctx, _all_of(JOINED, args))
        except _UsageError as error:
            slip: Any = error
            own = {name for param in self.params for name in param.opts}
            if getattr(slip, "possibilities", ...) is not ...:  # an option that is not there
                meant = [name for name in OTHER_NAMES.get(slip.option_name, ()) if name in own]
                slip.possibilities = meant or slip.possibilities
            elif str(slip.message).startswith("Got unexpected extra argument"):
                remedy = _joined(typed, own) or self._one_place(ctx, typed)
                slip.message = f"{str(slip.message).removesuffix('.')}. {remedy}".rstrip()
            raise

    def _one_place(self, ctx: Any, typed: Sequence[str]) -> str:
        """Of a command with an argument: that it takes one."""
        names = [str(param.name) for param in self.params if param.param_type_name == "argument"]
        if len(names) != 1:
            return ""
        given, extra, _ = self.make_parser(ctx).parse_args(args=list(typed))
        folders = {str(Path(path).parent) for path in (given[names[0]], *extra)}
        one = len(folders) == 1
        folder = f": {ctx.command_path} {shlex.quote(folders.pop())} ..." if one else " that holds them"
        return f"It takes one image, or one folder; for several images give the folder{folder}"


def _joined(typed: Sequence[str], own: set[str]) -> str:
    """An option of several values, with what belongs between them; "" where none was given more than one word."""
    for place, name in enumerate(typed):
        words: list[str] = []
        for word in typed[place + 1 :]:
            if word.startswith("-"):
                break
            words.append(word)
        if name not in own or name not in SEVERAL or len(words) < 2:
            continue
        between = BETWEEN.get(name, ",")
        parts = [part for word in words if (part := word.strip(",")) and part != between]
        return f"Values of one option have no blank between them: {shlex.join([name, between.join(parts)])}"
    return ""


def _all_of(option: str, args: Sequence[str]) -> list[str]:
    """The words with one such option, of the values of all, with commas between."""
    words, kept, values = iter(args), [], []
    for word in words:
        name, equals, value = word.partition("=")
        if name != option:
            kept.append(word)
        elif (text := value if equals else next(words, None)) is None:
            return list(args)  # the last one without a value, which Typer refuses
        else:
            values.append(text)
    return [*kept, option, ",".join(values)] if len(values) > 1 else list(args)
