"""A small recipe as text, to be written to a file and changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.load import RecipeError, load_recipe
from sound_recipe import SOUND

SMALL = SOUND.replace('name = "sound"\npreset = "justrl"', 'name = "small"')  # no preset


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)
