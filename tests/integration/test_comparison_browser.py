"""The page of a comparison in a real browser, at a desk's and a phone's width, from disk and without network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chromium import open_page, start_chromium
from made_comparison import write_made_comparison

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from start_chromium()


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(browser: Any, comparison: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from open_page(browser, comparison, request.param)


def test_nothing_is_wider_than_the_window(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    card = page.locator("#result .card").first.bounding_box()
    table = page.locator("#result table").first.bounding_box()
    assert table["x"] + table["width"] <= card["x"] + card["width"]


def test_exactly_one_forest_plot_is_visible_and_readable(page: Any) -> None:
    boxes = [b for b in (f.bounding_box() for f in page.locator("svg.forest").all()) if b]
    assert len(boxes) == 1
    text = page.locator("svg.forest:visible text").first.bounding_box()
    assert text["height"] >= 9


def test_a_link_of_the_table_leads_to_the_completions(page: Any) -> None:
    link = page.locator("#problems details[open] a").first
    target = link.get_attribute("href")
    link.click()
    place = page.locator(target).bounding_box()
    assert -5 <= place["y"] <= page.viewport_size["height"]
    assert page.locator(f"{target} pre").count() >= 2


def test_a_long_question_unfolds_within_its_card(page: Any) -> None:
    question = page.locator("#problems details[open] details.question").first
    assert not question.locator("pre").is_visible()
    question.locator("summary").click()
    card = page.locator("#problems details.card").first.bounding_box()
    text = question.locator("pre").bounding_box()
    assert text["height"] > 20 and text["x"] + text["width"] <= card["x"] + card["width"]
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_hostile_text_is_shown_and_not_run(page: Any) -> None:
    assert page.evaluate("document.documentElement.dataset.hacked === undefined")
    assert page.evaluate("document.querySelectorAll('img, script').length") == 0
    assert "onerror" in page.inner_text("#completions")
