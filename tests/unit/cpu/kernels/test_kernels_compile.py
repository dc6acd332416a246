"""Kernels are compiled once, and not without a word."""

from __future__ import annotations

import pytest

from deepscaler import cpu
from deepscaler.cpu.kernels import disk_cache


def test_nothing_is_said_once_everything_is_on_disk():
    cpu.compile_kernels(lambda text: None)
    said: list[str] = []
    cpu.compile_kernels(said.append)
    assert said == []


@pytest.mark.parametrize("missing", disk_cache.SOURCES, ids=lambda source: source.stem)
def test_what_is_missing_is_announced_before_it_is_made(monkeypatch, tmp_path, missing):
    assert all(source.is_file() for source in disk_cache.SOURCES)
    monkeypatch.setenv(disk_cache.ROOT, str(tmp_path))
    for source in disk_cache.SOURCES:
        if source != missing:
            disk_cache.folder(source).mkdir()
    events: list[str] = []
    monkeypatch.setattr(disk_cache, "ensure", lambda given: events.append(f"made {len(given)}"))
    cpu.compile_kernels(events.append)
    assert events[0].startswith("compiling for this processor")
    assert events[1:] == [f"made {len(disk_cache.SOURCES)}"]


def test_nothing_is_compiled_where_acceleration_is_switched_off(without_acceleration, monkeypatch, tmp_path):
    monkeypatch.setenv(disk_cache.ROOT, str(tmp_path))
    cpu.compile_kernels(lambda text: pytest.fail(text))
    assert not list(tmp_path.iterdir())
