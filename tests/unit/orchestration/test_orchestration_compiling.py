"""What is compiled is compiled once, and not without a word."""

from __future__ import annotations

import pytest

from deepscaler import compiled
from deepscaler.orchestration import compiling

needs_numba = pytest.mark.skipif(not compiled.has_numba(), reason="numba is not installed")


@needs_numba
def test_nothing_is_said_once_everything_is_on_disk():
    compiling.compile_all()
    said: list[str] = []
    compiling.compile_once(said.append)
    assert said == []


@needs_numba
@pytest.mark.parametrize("missing", compiling.SOURCES)
def test_what_is_missing_is_announced_before_it_is_made(monkeypatch, missing):
    from deepscaler.compiled import vectors

    assert (compiling.PACKAGE / missing).is_file()
    events: list[str] = []
    monkeypatch.setattr(vectors, "is_kept", lambda source: source != compiling.PACKAGE / missing)
    monkeypatch.setattr(compiling, "compile_all", lambda: events.append("made"))
    compiling.compile_once(events.append)
    assert events[0].startswith("compiling for this processor")
    assert events[1:] == ["made"]


def test_without_numba_training_goes_on(monkeypatch):
    monkeypatch.setattr(compiled, "has_numba", lambda: False)
    monkeypatch.setattr(compiling, "compile_all", lambda: pytest.fail("nothing can be compiled"))
    compiling.compile_once(lambda text: pytest.fail(text))
