"""Behaviour of the web page in Chromium.

Skipped if no browser is installed; fails instead if ROBUST_EVAL_REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import board_rows
from support.synthetic_results import full

from robust_eval.leaderboard.page import html
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next((path for name in EXECUTABLES if (path := shutil.which(name))), None)
    if executable is None:
        missing = "no browser is installed: apt-get install chromium"
        if os.environ.get("ROBUST_EVAL_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def base() -> EvalResult:
    return board_rows.template()


@pytest.fixture(scope="module")
def address(base: EvalResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("site") / "index.html"
    path.write_text(html.render("Digits", board_rows.rows(base)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The opened page; afterwards checks for network requests, console messages and errors."""
    yield from opened(browser, address)


def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    context = browser.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.on("request", lambda request: messages.append(request.url) if remote(request.url) else None)
    page.goto(address)
    yield page
    context.close()
    assert messages == []


def remote(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


def names(page: Page) -> list[str]:
    return page.locator("tbody tr[data-row]:visible td.name a").all_inner_texts()


def sort_button(page: Page, title: str) -> str:
    return f'thead button:text-is("{title}")'


def test_sorting_by_a_column_and_back(page: Page) -> None:
    ranked = ["trades-awp", "at-awp", "trades", "at", "fgsm-rs", "other"]
    assert names(page) == ranked
    page.click(sort_button(page, "AutoAttack"))
    head = page.locator("th", has_text="AutoAttack").first
    assert head.get_attribute("aria-sort") == "descending"
    assert page.locator('th[aria-sort="none"]').count() == page.locator("th[aria-sort]").count() - 1
    assert names(page) == ranked
    page.click(sort_button(page, "AutoAttack"))
    assert head.get_attribute("aria-sort") == "ascending"
    # The row without a value stays last.
    assert names(page) == ["fgsm-rs", "at", "trades", "at-awp", "trades-awp", "other"]
    page.click(sort_button(page, "Model"))
    assert names(page) == sorted(ranked)
    page.click(sort_button(page, "#"))
    assert names(page) == ranked


def test_sorting_with_the_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(sort_button(page, "Model")).focus()
    page.keyboard.press("Enter")
    assert names(page)[0] == "at"
    page.keyboard.press("Space")
    assert names(page)[0] == "trades-awp"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_filters_hide_rows_and_show_the_count(page: Page) -> None:
    assert page.inner_text("#shown") == "6 rows"
    page.fill("#find", "TRADES")
    assert names(page) == ["trades-awp", "trades"]
    assert page.inner_text("#shown") == "2 of 6 rows"
    assert page.locator(".chart .mark.off").count() == 8
    page.fill("#find", "random-grad")
    assert names(page) == ["fgsm-rs"]
    page.check("#only-clean")
    assert names(page) == []
    assert page.is_visible(".empty")
    page.fill("#find", "")
    assert names(page) == ["trades-awp", "at-awp", "trades", "at", "other"]
    page.check("#only-ranked")
    assert names(page) == ["trades-awp", "at-awp", "trades", "at"]
    page.check("#only-verified")
    assert names(page) == []
    page.uncheck("#only-verified")
    page.select_option("#architecture", "digits-cnn")
    assert len(names(page)) == 4


def test_a_row_opens_and_closes_with_the_keyboard(page: Page) -> None:
    page.locator("td.name a", has_text="at-awp").first.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#row-at-awp")
    assert page.is_visible("#row-at-awp")
    assert page.evaluate("document.activeElement.id") == "row-at-awp"
    assert page.evaluate("document.getElementById('page').inert")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**#row-trades")
    assert page.locator(".detail:visible").count() == 1
    page.keyboard.press("Escape")
    page.wait_for_url("**#at-row-trades")
    assert page.locator(".detail:visible").count() == 0
    assert page.evaluate("document.activeElement.textContent") == "trades"
    assert not page.evaluate("document.getElementById('page').inert")


def test_a_row_opens_with_the_pointer_and_from_a_chart(page: Page) -> None:
    page.click("#at-row-at td.worst")
    page.wait_for_url("**#row-at")
    assert "Worst case" in page.inner_text("#row-at")
    page.click("#row-at .close")
    assert page.locator(".detail:visible").count() == 0
    page.locator('.chart a[data-row="row-fgsm-rs"] circle').first.click()
    page.wait_for_url("**#row-fgsm-rs")
    page.go_back()
    assert page.locator(".detail:visible").count() == 0


def test_an_address_opens_its_row(browser: Browser, address: str) -> None:
    for page in opened(browser, address + "#row-trades"):
        assert page.is_visible("#row-trades")
        assert page.locator(".detail:visible").count() == 1
    for page in opened(browser, address + "#%ff"):
        assert page.locator(".detail:visible").count() == 0


def test_light_and_dark_theme(browser: Browser, address: str) -> None:
    def paper(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    for page in opened(browser, address, color_scheme="light"):
        light = paper(page)
        page.click("#theme")
        dark = paper(page)
        assert dark != light
        assert page.get_attribute("#theme", "aria-pressed") == "true"
        # A reload may start a new process of the browser, which knows the choice only once it is stored.
        for _ in range(100):
            page.reload()
            if page.evaluate("localStorage.getItem('robust-eval-theme')") is not None:
                break
            page.wait_for_timeout(50)
        assert paper(page) == dark
    for page in opened(browser, address, color_scheme="dark"):
        assert paper(page) == dark
        page.click("#theme")
        assert paper(page) == light


@pytest.mark.parametrize("hash_", ["", "#row-fgsm-rs"])
def test_no_horizontal_overflow_on_a_phone(browser: Browser, address: str, hash_: str) -> None:
    for page in opened(browser, address + hash_, viewport={"width": 360, "height": 740}):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        if hash_:
            assert page.evaluate("document.querySelector(':target').scrollWidth") <= 360
        else:
            assert page.locator("td.worst").first.is_visible()


def test_the_paper_s_table_needs_no_scrolling_on_a_laptop(
    browser: Browser, base: EvalResult, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    rows = [Row(f"{name}.json", full(200 + k, name=name)) for k, name in enumerate(("trades", "trades-awp"))]
    path.write_text(html.render("Digits", rows), encoding="utf-8")
    for page in opened(browser, path.as_uri(), viewport={"width": 1280, "height": 800}):
        width, room = page.evaluate(
            "(() => { const t = document.querySelector('.table'); return [t.scrollWidth, t.clientWidth]; })()"
        )
        assert width <= room


def test_the_page_is_readable_without_scripts(browser: Browser, address: str) -> None:
    for page in opened(browser, address, java_script_enabled=False):
        assert not page.is_visible("#filters")
        page.click("td.name a >> nth=1")
        assert page.is_visible("#row-at-awp")
        page.click("#row-at-awp .close")
        assert not page.is_visible("#row-at-awp")


def test_csv_download(page: Page, tmp_path: Path) -> None:
    page.fill("#find", "trades")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "board.csv")
    with (tmp_path / "board.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["trades-awp", "trades"]
    assert rows[0]["worst case"] == "76.5"
    assert rows[0]["threat"] == "Linf 0.1"


def test_hostile_names_run_no_script(browser: Browser, base: EvalResult, tmp_path: Path) -> None:
    text = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onfocus=alert(3) autofocus"
    rows = [Row("results/a.json", board_rows.result(base, text, file="=HYPERLINK(1)"))]
    path = tmp_path / "index.html"
    path.write_text(html.render(text, rows), encoding="utf-8")
    for page in opened(browser, path.as_uri()):
        assert page.inner_text("h1") == text
        page.click("td.name a")
        assert page.inner_text("#row-a h2").startswith("</script><script>")
        page.keyboard.press("Escape")
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "board.csv")
        assert '"\'=HYPERLINK(1)"' in (tmp_path / "board.csv").read_text(encoding="utf-8")
