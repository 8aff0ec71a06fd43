"""What the page's own scripts do, in a real browser: filter, sort, choose. The page itself is `test_html`'s."""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_html import RECIPE, full_cohort, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Iterator["Page"]:
    """The report of twelve scans, one failed and one outlying, in a browser without a network."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no chromium; install it by apt")
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    store = full_cohort(tmp_path_factory.mktemp("cohort"), n=12)
    path = write_report(store, title="Scripts", recipes={"ventricles": RECIPE})
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        yield page
        browser.close()
    refused = [line for line in said if "violates the following Content Security Policy" in line]
    assert said == refused  # of the script that a test adds
    assert len(said) <= 1


@pytest.fixture
def page(opened) -> "Page":
    opened.reload()
    return opened


def shown(page: "Page") -> list[str]:
    """Names of the scans on the contact sheet, in the order in which they are seen."""
    return page.eval_on_selector_all(
        "#sheet > li",
        "them => them.filter(each => each.offsetParent).map(each => each.dataset.name)",
    )


def test_the_sheet_is_filtered_by_state_flag_recipe_and_words_and_counts(page):
    everybody = shown(page)
    assert len(everybody) == 12
    count = page.locator("#sheet-count")
    assert count.inner_text() == "12 of 12 scans shown"
    page.select_option("#sheet-state", "failed")
    assert shown(page) == ["sub-0003_ses-1_T1"]
    assert count.inner_text() == "1 of 12 scans shown"
    page.select_option("#sheet-state", "")
    page.select_option("#sheet-flag", "far from the others")
    assert shown(page) == ["sub-0006_ses-1_T1"]
    page.select_option("#sheet-state", "failed")
    assert shown(page) == []
    page.click("#sheet-reset")
    assert shown(page) == everybody
    page.fill("#sheet-text", "SES-1 0007")
    assert shown(page) == ["sub-0007_ses-1_T1"]
    page.fill("#sheet-text", "no voxel below")
    assert shown(page) == ["sub-0003_ses-1_T1"]
    page.fill("#sheet-text", "")
    page.select_option("#sheet-recipe", "ventricles")
    page.select_option("#sheet-state", "done")
    assert set(shown(page)) == {*everybody} - {"sub-0003_ses-1_T1"}


def test_the_sheet_is_sorted_by_name_and_by_any_measurement_missing_ones_last(page):
    assert shown(page)[:2] == ["sub-0003_ses-1_T1", "sub-0006_ses-1_T1"]
    page.select_option("#sheet-by", "name")
    assert shown(page) == sorted(shown(page))
    page.select_option("#sheet-by", label="ventricles: csf_ml [mL]")
    page.select_option("#sheet-way", "down")
    ordered = shown(page)
    assert (ordered[0], ordered[-1]) == ("sub-0006_ses-1_T1", "sub-0003_ses-1_T1")
    values = page.locator("#sheet .cell-value").all_inner_texts()
    assert (values[0], values[-1]) == ("140", "no value")
    assert (np.diff([float(value) for value in values[:-1]]) <= 0).all()
    page.select_option("#sheet-way", "up")
    assert shown(page) == [*ordered[-2::-1], ordered[-1]]


def chosen(page: "Page") -> list[str]:
    """Names that the page says are chosen, which are those of the pictures that are marked."""
    names = page.locator(".chosen-bar a").all_inner_texts()
    marked = page.eval_on_selector_all(
        "#sheet > li[aria-current]", "a => a.map(e => e.dataset.name)"
    )
    assert sorted(names) == sorted(marked)
    return names


def test_an_outlier_that_is_chosen_by_the_keyboard_is_marked_in_every_place(page):
    outlier = page.locator("svg a[data-scan]").first
    assert "outlier sub-0006_ses-1_T1, 140 mL" in outlier.get_attribute("aria-label")
    outlier.focus()
    page.keyboard.press("Enter")
    assert chosen(page) == ["sub-0006_ses-1_T1"]
    assert "#" not in page.url  # the distribution stays in view
    lines = page.locator("svg .picked path")
    assert lines.count() == page.locator("svg").count() == 2
    assert page.locator("svg .picked text").first.text_content() == "140"
    assert page.locator("tr.chosen th").first.text_content() == "sub-0006_ses-1_T1"
    page.keyboard.press("Escape")
    assert chosen(page) == []
    assert lines.count() == 0
    assert page.locator(".chosen").count() == 0


def test_rows_and_pictures_choose_too_and_control_chooses_several(page):
    page.click("#measurements summary")
    row = page.locator("tr[data-scan]", has_text="sub-0009_ses-1_T1").first
    row.locator("td").nth(1).click()
    assert chosen(page) == ["sub-0009_ses-1_T1"]
    page.locator("#sheet > li", has_text="sub-0002_ses-1_T1").click(modifiers=["Control"])
    assert sorted(chosen(page)) == ["sub-0002_ses-1_T1", "sub-0009_ses-1_T1"]
    page.locator("#sheet > li", has_text="sub-0004_ses-1_T1").click()
    assert chosen(page) == ["sub-0004_ses-1_T1"]
    page.click(".chosen-bar button")
    assert chosen(page) == []


def test_a_chosen_scan_that_is_filtered_away_is_said_to_be_hidden(page):
    page.locator("#sheet > li", has_text="sub-0002_ses-1_T1").click()
    said = page.locator(".chosen-bar p")
    assert said.inner_text() == "Chosen: sub-0002_ses-1_T1"
    page.fill("#sheet-text", "0004")
    assert said.inner_text() == "Chosen: sub-0002_ses-1_T1 (hidden by the filter)"
    page.click("#sheet-reset")
    assert said.inner_text() == "Chosen: sub-0002_ses-1_T1"


def test_the_bar_of_what_is_chosen_covers_nothing_at_the_end_of_the_page(page):
    page.locator("#sheet > li", has_text="sub-0002_ses-1_T1").click()
    page.evaluate("window.scrollTo({ top: document.body.scrollHeight, behavior: 'instant' })")
    end = page.locator("footer p").last.bounding_box()
    assert end["y"] + end["height"] <= page.locator(".chosen-bar").bounding_box()["y"]


def test_six_numbers_of_the_summary_stand_in_a_row_and_print_has_one_left_edge(page):
    page.set_viewport_size({"width": 1200, "height": 900})
    tiles = page.locator(".tiles .tile")
    tops = [tiles.nth(i).bounding_box()["y"] for i in range(min(6, tiles.count()))]
    assert len(tops) >= 5
    page.evaluate(
        "const list = document.querySelector('.tiles');"
        "while (list.children.length > 6) list.lastElementChild.remove();"
        "while (list.children.length < 6) list.append(list.firstElementChild.cloneNode(true));"
    )
    assert len({tiles.nth(i).bounding_box()["y"] for i in range(6)}) == 1
    page.emulate_media(media="print")
    left = [page.locator(s).first.bounding_box()["x"] for s in ("h1", "main h2", "footer p")]
    page.emulate_media(media="screen")
    assert max(left) - min(left) < 1


def test_a_table_is_sorted_by_its_exact_numbers_and_comes_back_as_it_was(page):
    page.click("#measurements summary")
    table = page.locator("#measurements details table")
    cells = table.locator("tbody tr td:nth-of-type(3)")
    before = cells.all_inner_texts()
    heading = table.locator("th", has_text="csf_ml")
    for aria in ("ascending", "descending"):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == aria
        values = cells.all_inner_texts()
        assert values[-1] == "\N{EN DASH}"  # the scan that failed
        steps = np.diff([float(value) for value in values[:-1]])
        assert (steps * (1 if aria == "ascending" else -1) >= 0).all()
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") is None
    assert cells.all_inner_texts() == before


def test_a_script_that_somebody_adds_does_not_run_and_nothing_is_fetched(page):
    ran = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener("securitypolicyviolation", e => done(e.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
        })"""
    )
    assert ran == "script-src-elem"
    assert page.title() != "ran"


def test_without_scripts_the_page_has_no_dead_controls(opened):
    context = opened.context.browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(opened.url)
    assert not page.is_visible("#sheet-controls")
    assert page.locator("#sheet > li").count() == 12
    page.click("svg a[data-scan]")
    assert page.url.endswith("#scan-2")
    context.close()
