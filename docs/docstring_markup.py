"""A hook of mkdocs: docstrings are written for `help()` too, in plain markup; this shows it as a web page does.

It is run by mkdocs (see mkdocs.yml) and no part of the package.
"""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|mod):<code>([^<]*)</code>")
BEFORE_CODE = re.compile(r"::</p>")
ONLY_COLONS = re.compile(r"<p>\s*::\s*</p>")


def on_page_content(html: str, **_: Any) -> str:
    """``:func:`lovasz_softmax` `` becomes the name in code letters, and ``::`` before a formula a single colon."""
    html = ONLY_COLONS.sub("", ROLE.sub(r"<code>\1</code>", html))
    return BEFORE_CODE.sub(":</p>", html)
