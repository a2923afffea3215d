"""A headless Chromium for tests, driven by the DevTools protocol over two pipes: no port, no driver, no package.

It listens from before the first byte of a page: console messages, exceptions and every request are in `Page`.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {"Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
# Chromium reads commands from descriptor 3 and answers on 4; a process of ours puts the pipes there and becomes it.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    """The first browser of this family on the path."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """What a page did since it was opened."""

    session: str
    target: str
    console: list[str] = field(default_factory=list)  # console messages, exceptions and the browser's own complaints
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Chromium:
    """A running browser with its own empty profile; a context manager that ends it."""

    def __init__(self, program: str, profile: Path, *flags: str, timeout: float = 180.0) -> None:
        self.timeout, self._number, self._buffer = timeout, 0, b""
        self._pages: dict[str, Page] = {}
        commands_out, commands_in = os.pipe()
        answers_out, answers_in = os.pipe()
        # Above 9, so that putting one at 3 cannot overwrite the other.
        passed = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands_out, answers_in)]
        self._log = (profile.parent / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCH,
                *map(str, passed),
                program,
                *FLAGS,
                *flags,
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        for end in (commands_out, answers_in, *passed):
            os.close(end)
        self._in, self._out = commands_in, answers_out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(timeout=10)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._log.close()

    def open(self, url: str, *, width: int, height: int = 900, scheme: str = "light", phone: bool = False) -> Page:
        """A new tab of this size and colour scheme, loaded as by a first visitor: a site may remember the scheme."""
        visitor = self.call("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=visitor)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", page)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", page, **size)
        self.scheme(page, scheme)
        self.call("Page.navigate", page, url=url)
        self.wait(page, "location.href !== 'about:blank' && document.readyState === 'complete'")
        return page

    def close(self, page: Page) -> None:
        """End the tab and what its scripts are still about."""
        self.call("Target.closeTarget", targetId=page.target)

    def scheme(self, page: Page, scheme: str) -> None:
        """Switch between "light" and "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", page, features=[feature])

    def evaluate(self, page: Page, expression: str) -> Any:
        """The JSON value of an expression, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", page, expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, page: Page, condition: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + self.timeout
        while not self.evaluate(page, f"Boolean({condition})"):
            if time.monotonic() > end:
                raise RuntimeError(f"after {self.timeout} s not true: {condition}; console: {page.console}")
            time.sleep(0.05)

    def click(self, page: Page, selector: str) -> None:
        """A click on the first element that matches."""
        self.evaluate(page, f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, page: Page, key: str) -> None:
        """One of KEYS, into whatever has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", page, type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def screenshot(self, page: Page, path: Path, *, whole: bool = True) -> None:
        """A PNG of the whole page or of what the window shows."""
        path.write_bytes(
            base64.b64decode(self.call("Page.captureScreenshot", page, captureBeyondViewport=whole)["data"])
        )

    def pdf(self, page: Page) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", page, preferCSSPageSize=True)["data"])

    def call(self, method: str, page: Page | None = None, **params: Any) -> dict[str, Any]:
        """One DevTools command; events that arrive before its answer are noted."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params} | ({"sessionId": page.session} if page else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._in, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + self.timeout
        while b"\0" not in self._buffer:
            if not select.select([self._out], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError(f"Chromium has not answered for {self.timeout} s")
            chunk = os.read(self._out, 1 << 20)
            if not chunk:
                raise RuntimeError(f"Chromium ended with {self._process.wait()}; its messages are in {self._log.name}")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        page = self._pages.get(event.get("sessionId", ""))
        if page is None:
            return
        method, params = event["method"], event["params"]
        if method == "Runtime.consoleAPICalled":
            page.console.append(
                f"{params['type']}: {[arg.get('value', arg.get('description')) for arg in params['args']]}"
            )
        elif method == "Runtime.exceptionThrown":
            page.console.append(f"exception: {params['exceptionDetails']}")
        elif method == "Page.javascriptDialogOpening":
            page.console.append(f"dialog: {params['message']}")
        elif method == "Log.entryAdded":
            page.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            page.requests.append(params["request"]["url"][:200])  # an embedded picture's is as long as itself
        elif method == "Network.loadingFailed":
            page.failures.append(f"{params['type']}: {params['errorText']}")
