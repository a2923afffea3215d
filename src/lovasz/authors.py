"""Errors of the losses in the names of the authors' arguments, for `lovasz.compat` and `lovasz.compat_tensorflow`.

Apart from both, which share it: neither may import the other's framework.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

_WORDING = (
    (r" though from_logits=False promises probabilities(.*?); pass .* or apply ", r", no probabilities\1; apply "),
    (r"\bignore_index\b", "ignore"),
    (r"\btarget\b", "labels"),
    (r"\bpass axis=1\b", 'pass order="BCHW"'),
    (r"\bpass axis=-1\b", 'pass order="BHWC"'),
)


def in_their_names(scores: str, function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """``function`` with some arguments fixed, whose TypeError and ValueError speak of ``scores``, labels and ignore."""

    @functools.wraps(function)
    def renamed(*arguments: Any, **options: Any) -> Any:
        classes = options.get("classes")
        if isinstance(classes, bool):
            raise TypeError(
                f'classes must be "present", "all" or a list of class indices, got {classes}; what was only_present in '
                f'the first version of the authors\' file is classes="{"present" if classes else "all"}"'
            )
        try:
            return function(*arguments, **options, **fixed)
        except (TypeError, ValueError) as error:
            if type(error) not in (TypeError, ValueError):  # others may want more than a message
                raise
            message = re.sub(r"\binput\b", scores, str(error))
            for here, there in _WORDING:
                message = re.sub(here, there, message)
            raise type(error)(message) from None

    return renamed
