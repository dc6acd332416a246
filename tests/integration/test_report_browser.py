"""The report in a real browser, from disk and without network: it shows, filters, and runs nothing it should not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chromium import open_page, start_chromium
from deepscaler.report import write_report
from synthetic_run import write_synthetic_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    run = write_synthetic_run(directory / "run", hostile=True)
    return write_report([run], directory / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from start_chromium()


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from open_page(browser, report, request.param)


def shown_verdicts(page: Any) -> set[str]:
    return set(page.eval_on_selector_all("#rollouts .groups [data-outcome]", "all => all.map(e => e.dataset.outcome)"))


def wait_for_count(page: Any, selector: str, count: int) -> None:
    """The search waits for a pause in typing. (The page's policy forbids Playwright's own `wait_for_function`.)"""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(count, timeout=10_000)


def test_it_fits_the_width_and_shows_its_charts(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    boxes = page.eval_on_selector_all("figure svg", "all => all.map(e => e.getBoundingClientRect().height)")
    assert len(boxes) >= 8
    assert min(boxes) > 80


def test_clicking_a_verdict_shows_only_it(page: Any) -> None:
    everything = shown_verdicts(page)
    assert {"correct", "wrong"} <= everything
    before = page.inner_text("#rollouts .count")
    page.click("#rollouts .verdicts button:has-text('truncated')")
    assert shown_verdicts(page) == {"truncated"}
    assert page.inner_text("#rollouts .count") != before


def test_searching_a_problem_shows_only_it(page: Any) -> None:
    page.fill("#search", "p-001-00")
    wait_for_count(page, "#rollouts .groups .group", 1)
    heads = page.locator("#rollouts .groups .group-head b").all_inner_texts()
    assert heads == ["p-001-00"]


def test_hostile_model_text_is_shown_and_not_run(page: Any) -> None:
    page.fill("#search", "onerror")
    wait_for_count(page, "#rollouts .groups .group", 8)  # one in every group of the first step
    assert 'onerror="document' in page.inner_text("#rollouts .groups")
    assert page.evaluate("document.documentElement.dataset.hacked === undefined")
    assert page.evaluate("document.querySelectorAll('#rollouts .groups img').length") == 0
