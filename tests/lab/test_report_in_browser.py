"""The report in a real headless browser: it draws, fetches nothing, complains of nothing and fits a phone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import chromium
from tests.lab.chromium import Chromium, Page
from tests.lab.comparison_folder import CLASSES, HOSTILE, LOSSES, comparison, draw_examples, write
from tests.lab.readable import text_pieces

from lovasz.lab.report import write_report

PROGRAM = chromium.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no browser: none of " + ", ".join(chromium.NAMES) + " is on the path"
)
EIGHT = (
    "cross_entropy",
    "weighted_cross_entropy",
    "lovasz_softmax",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "hinge",
    "soft_jaccard",
    f"cross_entropy>0.3>{HOSTILE}",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One process for all reports, which stay open: the charts' code is read and made quick once, not for each."""
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path_factory.mktemp("browser") / "profile", "--process-per-site") as running:
        yield running


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict[str, Any]]]:
    """Address and content of: a usual report, one with many losses and classes, a partial and an empty one."""
    contents = {
        "usual": comparison(),
        "many": comparison(losses=EIGHT, seeds=(0,), classes=tuple(f"class {i}" for i in range(21))),
        "partial": comparison(test=False),
        "empty": comparison(),
    }
    for run in contents["many"]["runs"]:
        run["scores"]["test"]["per_class_iou"]["class 3"] = None
    contents["partial"] |= {"initial": None, "runs": contents["partial"]["runs"][:4]}
    contents["empty"] |= {"runs": [], "initial": None}
    made = {}
    for name, content in contents.items():
        folder = tmp_path_factory.mktemp(name)
        if name in ("usual", "many"):
            draw_examples(folder, content, count=2, size=(480, 360) if name == "usual" else (64, 48))
        made[name] = write_report(write(folder, content)).as_uri(), content
    return made


def opened(browser: Chromium, address: str, **how: Any) -> Page:
    page = browser.open(address, **({"width": 1280} | how))
    browser.wait(page, "document.documentElement.hasAttribute('data-ready')")
    return page


def assert_quiet(page: Page, address: str) -> None:
    assert page.console == []
    assert page.failures == []
    assert [url for url in page.requests if not url.startswith("data:")] == [address]


def count(browser: Chromium, page: Page, selector: str) -> int:
    return browser.evaluate(page, f"document.querySelectorAll({selector!r}).length")


def bars_with_length(browser: Chromium, page: Page) -> int:
    paths = "[...document.querySelectorAll('#classes .barlayer .point path')]"
    return browser.evaluate(page, f"{paths}.filter(path => path.getBoundingClientRect().width > 1).length")


def expected_bars(content: dict[str, Any]) -> int:
    split = "test" if any(run["scores"]["test"] for run in content["runs"]) else "val"
    drawn = {
        (run["loss"], name)
        for run in content["runs"]
        for name, iou in run["scores"][split]["per_class_iou"].items()
        if iou is not None
    }
    return len(drawn)


def expected_marks(content: dict[str, Any]) -> dict[str, int]:
    """How many drawn lines and groups of bars the content must give, from its numbers alone."""
    by_loss = {loss: [run for run in content["runs"] if run["loss"] == loss] for loss in content["losses"]}
    finished = {loss: runs for loss, runs in by_loss.items() if runs}
    return {
        "#curves .scatterlayer .trace": sum(1 + len(runs) * (len(runs) > 1) for runs in finished.values()),
        "#classes .barlayer .trace": len(finished),
        "#classes .scatterlayer .trace": 2 if content["initial"] and finished else 0,
    }


@pytest.mark.parametrize("name", ["usual", "many", "partial", "empty"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_a_report_is_drawn_whole_and_quietly(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]], name: str, width: int, scheme: str
) -> None:
    address, content = reports[name]
    page = opened(browser, address, width=width, scheme=scheme, phone=width == 400)
    assert_quiet(page, address)
    for selector, expected in expected_marks(content).items():
        assert count(browser, page, selector) == expected, selector
    assert bars_with_length(browser, page) == expected_bars(content)
    images = browser.evaluate(page, "[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(images) == len(content["examples"]) * (2 + len(content["losses"]))
    assert all(images)
    # A phone widens its window for a page that is too wide, so the window's own width is compared too.
    assert browser.evaluate(page, "[innerWidth, document.documentElement.scrollWidth]") == [width, width]


def test_the_driver_sees_what_a_page_does_wrong(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "wrong.html"
    path.write_text(
        "<meta name=viewport content='width=device-width'><img src=absent.png><div style='width: 2000px'>wide</div>"
        "<script>console.error('one'); setTimeout(() => { throw new Error('two') })</script>"
    )
    page = browser.open(path.as_uri(), width=400, phone=True)
    browser.wait(page, "document.readyState === 'complete'")
    assert any("one" in message for message in page.console)
    assert any("two" in message for message in page.console)
    assert len(page.requests) == 2
    assert page.failures
    assert browser.evaluate(page, "document.images[0].naturalWidth") == 0
    assert browser.evaluate(page, "document.documentElement.scrollWidth") > 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_of_a_report_can_be_read(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]], scheme: str
) -> None:
    page = opened(browser, reports["usual"][0], scheme=scheme)
    pieces = text_pieces(browser, page, "body")
    assert len(pieces) > 100
    assert {text: contrast for text, contrast, _ in pieces if contrast < 4.5} == {}
    assert {text: size for text, _, size in pieces if size < 11} == {}


def test_text_that_is_pale_or_small_is_seen(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "pale.html"
    path.write_text(
        "<body style='background: #fff'><p style='color: #999'>pale</p><p style='font-size: 6px'>small</p>"
        "<div style='background: rgb(0 0 0 / 50%)'><b style='color: #777'>on grey</b></div><i hidden>unseen</i>"
    )
    pieces = {
        text: (contrast, size)
        for text, contrast, size in text_pieces(browser, browser.open(path.as_uri(), width=400), "body")
    }
    assert pieces.keys() == {"pale", "small", "on grey"}
    assert pieces["pale"][0] == pytest.approx(2.85, abs=0.01)  # as WebAIM's contrast checker has it
    assert pieces["small"] == (pytest.approx(21), 6)
    assert pieces["on grey"][0] < 1.3


def test_the_charts_follow_light_and_dark(browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]]) -> None:
    address, _ = reports["usual"]
    page = opened(browser, address, scheme="light")
    colour = "getComputedStyle(document.querySelector('#classes .barlayer .point path')).fill"
    variable = "getComputedStyle(document.querySelector('.scores .symbol')).fill"
    text = "getComputedStyle(document.querySelector('#classes .ytick text')).fill"
    light = browser.evaluate(page, colour)
    assert light == browser.evaluate(page, variable)
    browser.scheme(page, "dark")
    browser.wait(page, f"{colour} === {variable}")
    assert browser.evaluate(page, colour) != light
    assert browser.evaluate(page, text) == browser.evaluate(page, "getComputedStyle(document.body).color")
    assert_quiet(page, address)


def test_losses_can_be_hidden_and_classes_ordered(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    address, _ = reports["usual"]
    page = opened(browser, address)
    ticks = "[...document.querySelectorAll('#classes .ytick text')].map(text => text.textContent)"
    listed = browser.evaluate(page, ticks)
    assert listed == [name if len(name) <= 22 else name[:21] + "…" for name in CLASSES]
    browser.click(page, "#classes input[value=apart]")
    browser.wait(page, f"JSON.stringify({ticks}) !== JSON.stringify({json.dumps(listed)})")
    assert sorted(browser.evaluate(page, ticks)) == sorted(listed)
    browser.click(page, "#classes [data-group='1']")
    browser.wait(page, f"document.querySelectorAll('#classes .barlayer .trace').length === {len(LOSSES) - 1}")
    browser.click(page, "#curves input[value=pixel_accuracy]")
    browser.wait(page, "document.querySelector('#curves .ytitle').textContent === 'pixel accuracy, %'")
    assert_quiet(page, address)


def test_a_picture_enlarges_and_the_arrow_keys_step_through_its_example(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    address, _ = reports["usual"]
    page = opened(browser, address)
    alts = browser.evaluate(
        page, "[...document.querySelectorAll('.example')[1].querySelectorAll('img')].map(i => i.alt)"
    )
    shown = "document.querySelector('#viewer .stage img').alt"
    browser.evaluate(page, "document.querySelectorAll('.example')[1].querySelector('.enlarge').click()")
    assert browser.evaluate(page, shown) == alts[0]
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", -1)):
        browser.press(page, key)
        assert browser.evaluate(page, shown) == alts[place]
    browser.press(page, "Escape")
    browser.wait(page, "!document.getElementById('viewer').open")
    assert_quiet(page, address)


def test_only_small_pictures_are_enlarged_in_sharp_squares(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    rendering = "[...new Set([...document.images].map(image => getComputedStyle(image).imageRendering))]"
    for name, expected in (("usual", ["auto"]), ("many", ["pixelated"])):
        assert browser.evaluate(opened(browser, reports[name][0]), rendering) == expected


def test_paper_is_light_and_shows_every_table(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    address, _ = reports["usual"]
    page = opened(browser, address, scheme="dark")
    browser.evaluate(
        page,
        "addEventListener('beforeprint', () => { window.printed = [document.querySelectorAll('details[open]').length,"
        " getComputedStyle(document.documentElement).getPropertyValue('--panel'),"
        " document.querySelector('#curves .main-svg').getAttribute('width')] }); 0",
    )
    assert browser.pdf(page).startswith(b"%PDF")
    details = count(browser, page, "details")
    assert browser.evaluate(page, "window.printed") == [details, "#ffffff", "660"]
    browser.wait(page, "!document.querySelector('details[open]')")
    assert browser.evaluate(page, "document.documentElement.hasAttribute('data-printing')") is False
    assert_quiet(page, address)


def test_without_scripts_the_numbers_and_pictures_are_there(
    browser: Chromium, reports: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    address, content = reports["usual"]
    page = browser.open("about:blank#off", width=1280)
    browser.call("Emulation.setScriptExecutionDisabled", page, value=True)
    browser.call("Page.navigate", page, url=address)
    browser.wait(page, f"location.href === {address!r} && document.readyState === 'complete'")
    text = browser.evaluate(page, "document.body.innerText")
    assert "The chart needs JavaScript" in text
    assert "Lovász-Softmax" in text
    assert browser.evaluate(page, "[...document.images].every(image => image.naturalWidth > 0)")
    assert count(browser, page, "table.scores tbody tr") == 1 + len(content["losses"])
