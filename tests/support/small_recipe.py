"""A small recipe as text, to be written to a file and changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.load import RecipeError, load_recipe

SMALL = """
name = "small"
num_steps = 6
[sft]
[data]
source = "synthetic"
max_prompt_tokens = 64
[rollout]
prompts_per_step = 8
group_size = 4
[[stages]]
name = "short"
max_completion_tokens = 32
steps = 4
[[stages]]
name = "long"
max_completion_tokens = 64
"""


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)
