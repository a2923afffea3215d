"""The command that repeats an experiment, from the configuration in its result and the command's own options.

Apart from the tables, which print it: an option that is new, or whose default changes, is right in all of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import typer

from lovasz.lab import option_texts
from lovasz.lab.paper.commands import paper_app
from lovasz.lab.paper.result import number, spec_of


def command_line(name: str, config: Mapping[str, Any]) -> str:
    """`lovasz paper NAME` with every option whose value in `config` is not the command's default.

    config: by the parameters of the command. What is no field of it is left out: the machine's options, the folder.
    """
    command: Any = typer.main.get_command(paper_app)
    words = ["lovasz", "paper", name]
    for option in command.commands[name].params:
        if option.name not in config:
            continue
        value, default = config[option.name], option.default
        if option.name == "data":
            value = spec_of(value, config.get("data_options"))
        if isinstance(default, bool):
            if value != default:
                words.append((option.opts if value else option.secondary_opts)[0])
        elif option.name in READERS:
            read = READERS[option.name]
            if read(default) != _tuple(value):
                words += [option.opts[0], _text(option.name, value)]
        elif value != default:
            words += [option.opts[0], number(value)]
    return shlex.join(words)


def _several(kind: Callable[[str], Any]) -> Callable[[str | None], tuple[Any, ...] | None]:
    return lambda text: None if text is None else tuple(kind(part) for part in text.split(","))


# How the text behind an option is read, where it is more than one value.
READERS: Mapping[str, Callable[[Any], Any]] = {
    "crop": option_texts.parse_crop,
    "size": option_texts.parse_size,
    "scale": option_texts.parse_scale,
    "scales": option_texts.parse_scales,
    "seeds": option_texts.parse_seeds,
    **dict.fromkeys(("losses", "samplers", "rules", "classes"), _several(str)),
    **dict.fromkeys(("learning_rates", "radius"), _several(float)),
    "batch_sizes": _several(int),
}


def _text(name: str, value: Any) -> str:
    if value is None:
        return "whole"
    if name in ("crop", "size"):
        return f"{value[0]}x{value[1]}"
    if name == "seeds" and list(value) == list(range(len(value))):
        return str(len(value))
    return ",".join(map(number, value)) + ("," if name == "seeds" and len(value) == 1 else "")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
