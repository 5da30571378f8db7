"""The page as a browser shows it: offline, without an error, on a desk and a phone, in the dark and on paper."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from tasks.reporting.panel import read_panel
from tasks.reporting.panel_page import render_panel
from tasks.reporting.report import render_report
from tests.reporting.example_panel import NOW, SANDBOX, four_markets
from tests.reporting.example_report import example

LIMIT_MS = 600_000.0  # of every wait: a busy machine is no failure
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    # Here, and not where every worker of the suite imports it: it takes a second.
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH; set CHROMIUM to one")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=LIMIT_MS)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(example(6_000)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("panel")
    four_markets(store := ArtifactStore(str(folder / "models")))
    path = folder / "markets.html"
    path.write_text(render_panel(read_panel(store, SANDBOX, NOW), link=lambda ref: f"/{ref}"), encoding="utf-8")
    return path


def opened(browser, report: Path, drawn: str = "#explorer .main-svg", **options):
    """Return the page once `drawn` is there, and a list that fills with whatever goes wrong or asks another file."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(LIMIT_MS)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url != report.as_uri() else None)
    page.goto(report.as_uri())
    page.wait_for_selector(drawn)
    return page, wrong


def wait_until(page, holds: str) -> None:
    """Wait until an expression is true; the page forbids `eval`, which Playwright's own waiting needs."""
    deadline = time.monotonic() + LIMIT_MS / 1_000
    while not page.evaluate(holds):
        assert time.monotonic() < deadline, holds
        page.wait_for_timeout(50)


@pytest.mark.parametrize(("width", "scheme"), [(1_400, "light"), (768, "light"), (390, "light"), (390, "dark")])
def test_page_draws_offline_without_an_error_and_never_scrolls_sideways(browser, report, width, scheme) -> None:
    page, wrong = opened(browser, report, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    names = page.evaluate("[...document.querySelectorAll('#explorer .legendtext')].map(node => node.textContent)")
    assert {"this model", "LightGBM", "buy and hold", "long", "short", "exit"} == set(names)
    static = "[...document.querySelectorAll('figure > div > svg')]"
    assert page.evaluate(f"{static}.filter(svg => svg.clientWidth).length") == 11  # one of each pair
    assert wrong == []


def test_chart_zooms_and_shows_values_where_it_is_pointed_at(browser, report) -> None:
    page, wrong = opened(browser, report, viewport={"width": 1_400, "height": 900})
    page.locator("#explorer").scroll_into_view_if_needed()
    before = page.evaluate("document.getElementById('explorer').layout.xaxis.range.map(Number)")
    box = page.locator("#explorer .nsewdrag").first.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.wait_for_selector("#explorer .hoverlayer .hovertext")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    page.mouse.up()
    wait_until(page, "document.getElementById('explorer').layout.xaxis.autorange === false")
    after = page.evaluate("document.getElementById('explorer').layout.xaxis.range.map(day => +new Date(day + 'Z'))")
    assert after[1] - after[0] < 0.5 * (before[1] - before[0])
    prices = "document.getElementById('explorer').layout.yaxis.range"
    wait_until(page, f"{prices} && {prices}[1] - {prices}[0] < 12")  # of 100 to 88 in all, what is in sight
    assert wrong == []


def test_dark_page_is_dark_and_paper_is_light_and_hides_nothing(browser, report, tmp_path) -> None:
    page, wrong = opened(browser, report, color_scheme="dark")
    brightness = "name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    assert page.evaluate(brightness, "backgroundColor") < 150 < 600 < page.evaluate(brightness, "color")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate(brightness, "backgroundColor") > 600 > 150 > page.evaluate(brightness, "color")
    assert page.evaluate("[...document.querySelectorAll('details')].every(details => details.open)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert not page.evaluate("[...document.querySelectorAll('details')].some(details => details.open)")
    assert wrong == []


def test_first_column_stays_in_sight_when_a_table_is_scrolled_on_a_phone(browser, report) -> None:
    page, _ = opened(browser, report, viewport={"width": 390, "height": 844})
    table = page.locator("#baselines .scroll")
    table.evaluate("scroll => (scroll.scrollLeft = 300)")
    assert table.evaluate("scroll => scroll.scrollLeft") > 100
    name = table.locator("tbody th").first
    assert name.bounding_box()["x"] == pytest.approx(table.bounding_box()["x"], abs=1)


def test_button_copies_the_command_that_gives_the_numbers_again(browser, report) -> None:
    from playwright.sync_api import expect

    page, wrong = opened(browser, report, permissions=["clipboard-read", "clipboard-write"])
    page.click("button[data-copy]")
    expect(page.locator("button[data-copy]")).to_have_text("Copied", timeout=LIMIT_MS)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == (
        ".venv/bin/python -m flows.evaluate --version "
        "sandbox:1a2b3c4d/linear-SYNTHUSDT-5/20260104T100000Z-7f3c9a2e"
    )  # fmt: skip
    assert wrong == []


SYMBOLS = "[...document.querySelectorAll('tbody tr')].map(row => row.cells[0].dataset.sort.split(' ')[0])"


def test_markets_are_sorted_by_a_click_and_what_has_no_value_stays_last(browser, panel) -> None:
    page, wrong = opened(browser, panel, "table", viewport={"width": 1_400, "height": 900})
    assert page.evaluate(SYMBOLS) == ["1000PEPEUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"]
    page.get_by_role("button", name="lead over the best baseline").click()
    assert page.evaluate(SYMBOLS) == ["BTCUSDT", "SOLUSDT", "ETHUSDT", "1000PEPEUSDT"]
    assert page.evaluate("document.querySelector('[aria-sort]').textContent") == "lead over the best baseline"
    page.get_by_role("button", name="lead over the best baseline").click()
    assert page.evaluate(SYMBOLS) == ["ETHUSDT", "SOLUSDT", "BTCUSDT", "1000PEPEUSDT"]
    page.get_by_role("button", name="market").click()
    page.get_by_role("button", name="market").click()
    assert page.evaluate(SYMBOLS) == ["SOLUSDT", "ETHUSDT", "BTCUSDT", "1000PEPEUSDT"]
    assert wrong == []


@pytest.mark.parametrize("width", [1_400, 820, 390])
def test_table_of_markets_scrolls_by_itself_and_keeps_its_first_column_in_sight(browser, panel, width) -> None:
    page, wrong = opened(browser, panel, "table", viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    table = "document.querySelector('.scroll')"
    assert page.evaluate(f"{table}.scrollWidth > {table}.clientWidth") == (width < 1_000)
    page.evaluate(f"{table}.scrollLeft = 10_000")
    left = "document.querySelector('tbody th').getBoundingClientRect().left"
    assert page.evaluate(f"{left} == {table}.getBoundingClientRect().left")
    assert wrong == []
