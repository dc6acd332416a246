"""A real browser for pages on disk: offline, and every error, warning and request to elsewhere is a failure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def start_chromium() -> Iterator[Any]:
    """Body of a module's `browser` fixture."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs privileges a container often lacks; the page is our own file.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=60_000)
        yield started
        started.close()


def open_page(browser: Any, file: Path, width: int) -> Iterator[Any]:
    """Body of a `page` fixture; fails after the test if the page complained or asked for anything elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True, reduced_motion="reduce")
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("request", lambda r: problems.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    opened.goto(file.as_uri())
    yield opened
    assert problems == []
    context.close()
