"""Recipes written to a file for one test."""

from __future__ import annotations

from pathlib import Path

import pytest

from small_recipe import SMALL, write
from sound_recipe import SOUND


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.toml"
    path.write_text(SOUND)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path, SMALL)
