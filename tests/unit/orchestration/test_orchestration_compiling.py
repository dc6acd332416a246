"""What is compiled is compiled once, and not without a word."""

from __future__ import annotations

import pytest

from deepscaler import compiled
from deepscaler.orchestration import compiling

needs_numba = pytest.mark.skipif(not compiled.has_numba(), reason="numba is not installed")


@needs_numba
def test_nothing_is_said_once_everything_is_on_disk():
    compiling.compile_once(lambda text: None)
    said: list[str] = []
    compiling.compile_once(said.append)
    assert said == []


@needs_numba
@pytest.mark.parametrize("missing", compiling.SOURCES)
def test_what_is_missing_is_announced_before_it_is_made(monkeypatch, tmp_path, missing):
    from deepscaler.compiled import disk_cache

    sources = [disk_cache.PACKAGE / source for source in compiling.SOURCES]
    assert all(source.is_file() for source in sources)
    monkeypatch.setenv(disk_cache.ROOT, str(tmp_path))
    for source in sources:
        if source != disk_cache.PACKAGE / missing:
            disk_cache.folder(source).mkdir()
    events: list[str] = []
    monkeypatch.setattr(disk_cache, "ensure", lambda given: events.append(f"made {len(given)}"))
    compiling.compile_once(events.append)
    assert events[0].startswith("compiling for this processor")
    assert events[1:] == [f"made {len(sources)}"]


def test_without_numba_training_goes_on(monkeypatch):
    monkeypatch.setattr(compiled, "has_numba", lambda: False)
    compiling.compile_once(lambda text: pytest.fail(text))
