"""The site that `make docs` builds: strict, with every public name, nothing from elsewhere, readable in a browser."""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.lab import chromium
from tests.lab.chromium import Chromium
from tests.lab.readable import text_pieces

import lovasz

REPOSITORY = Path(__file__).resolve().parents[1]
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: the extra docs has it")
PROGRAM = chromium.find()
SCHEMES = {"light": "default", "dark": "slate"}  # as Material calls them
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no browser on the path")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a server of its own: browsers refuse search on files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running


def defined(module: str) -> set[str]:
    """The public functions and classes that a module of the package defines, by their full names."""
    tree = ast.parse((REPOSITORY / "src" / "lovasz" / f"{module}.py").read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {f"lovasz.{module}.{name}" for name in names if not name.startswith("_")}


def test_every_public_name_has_its_entry(site: Path) -> None:
    entries = {
        name for page in (site / "api").glob("*.html") for name in re.findall(r'id="([\w.]+)"', page.read_text("utf-8"))
    }
    assert set(lovasz.__all__) <= {name.rpartition(".")[2] for name in entries}
    modules = ("functional", "modules", "sampling", "metrics", "confusion", "cityscapes", "set_functions", "baselines")
    ports = ("compat", "compat_tensorflow", "jax", "tensorflow", "keras")
    public = set().union(*map(defined, modules + ports))
    assert public - entries == {"lovasz.set_functions.resolve"}  # what the losses call


def test_no_markup_of_docstrings_is_left_over(site: Path) -> None:
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r":(?:func|class|meth|mod):|::</p>", text), page.name


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"', text)
        fetched += re.findall(r'<link[^>]*\brel="(?:stylesheet|icon|preconnect)"[^>]*\bhref="([^"]+)"', text)
        fetched += re.findall(r'<link[^>]*\bhref="([^"]+)"[^>]*\brel="(?:stylesheet|icon|preconnect)"', text)
        assert fetched
        assert [url for url in fetched if re.match(r"(?:https?:)?//", url)] == [], page.name


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
@pytest.mark.parametrize("page_name", ["index.html", "mathematics.html"])
def test_a_page_is_readable_whole_and_quiet(
    browser: Chromium, address: str, page_name: str, width: int, scheme: str, tmp_path: Path
) -> None:
    page = browser.open(f"{address}/{page_name}", width=width, scheme=scheme, phone=width == 400)
    browser.wait(page, "[...document.images].every((image) => image.complete)")
    assert browser.evaluate(page, "document.body.dataset.mdColorScheme") == SCHEMES[scheme]
    assert page.console == []
    assert page.failures == []
    assert [url for url in page.requests if not url.startswith((address, "data:"))] == []
    widths = "[...document.querySelectorAll('article img')].map((image) => image.naturalWidth)"
    pictures = browser.evaluate(page, widths)
    assert pictures
    assert all(pictures)

    pieces = text_pieces(browser, page, "article")
    assert len(pieces) > 40
    assert {text: contrast for text, contrast, _ in pieces if contrast < 4.5} == {}
    assert {text: size for text, _, size in pieces if size < 11} == {}
    assert browser.evaluate(page, "document.querySelector('h1').getBoundingClientRect().width") > 100
    assert browser.evaluate(page, "document.documentElement.scrollWidth") <= width

    browser.screenshot(page, tmp_path / "page.png", whole=False)
    image = pytest.importorskip("PIL.Image").open(io.BytesIO((tmp_path / "page.png").read_bytes())).convert("L")
    ground, ink = image.getextrema() if scheme == "dark" else image.getextrema()[::-1]
    assert abs(ground - ink) > 150
    assert len(set(image.resize((64, 64)).tobytes())) > 20  # not one colour, nor two


@needs_browser
def test_every_page_fits_a_phone_and_has_its_pictures(browser: Chromium, address: str, site: Path) -> None:
    faults = {}
    for path, scheme in zip(sorted(site.rglob("*.html")), itertools.cycle(SCHEMES), strict=False):
        name = path.relative_to(site).as_posix()
        page = browser.open(f"{address}/{name}", width=400, scheme=scheme, phone=True)
        browser.wait(page, "[...document.images].every((image) => image.complete)")
        found = [*page.console, *page.failures]
        found += browser.evaluate(page, "[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
        found += [text for text, contrast, _ in text_pieces(browser, page, "article") if contrast < 4.5]
        if browser.evaluate(page, "Math.max(innerWidth, document.documentElement.scrollWidth)") > 400:
            found.append("wider than the window")
        if found:
            faults[name] = found
        browser.close(page)
    assert faults == {}
