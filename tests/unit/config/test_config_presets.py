"""Presets: one line switches to each, each cites its source, no two are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.advice import warnings_for
from deepscaler.config.load import load_recipe, resolve
from deepscaler.config.presets import PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_one_line_switch(sound: Path, name: str) -> None:
    """DAPO's penalty span belongs to its own budget, so it alone takes a second line with a small budget."""
    second = ["algorithm.soft_penalty_tokens=6"] if name == "dapo" else []
    resolved = resolve(sound, [f"preset={name}", *second])
    for key, value in PRESETS[name].algorithm.items():
        if key not in ("kl", "soft_penalty_tokens"):
            assert getattr(resolved.recipe.algorithm, key) == value
            assert resolved.origins[f"algorithm.{key}"].startswith(f"preset '{name}' (")
    assert not [w for w in warnings_for(resolved.recipe, resolved.origins) if "algorithm." in w]


def test_presets_cite_their_source_and_are_the_nine_promised() -> None:
    assert set(PRESETS) == {
        "deepscaler",
        "grpo-plus",
        "dr-grpo",
        "dapo",
        "rloo",
        "gspo",
        "cispo",
        "justrl",
        "scalerl",
    }
    assert all("20" in preset.source for preset in PRESETS.values())


def test_no_two_presets_are_the_same(sound: Path) -> None:
    second = ["algorithm.soft_penalty_tokens=6"]
    dumps = [
        load_recipe(sound, [f"preset={name}", *(second if name == "dapo" else [])]).algorithm.model_dump_json()
        for name in PRESETS
    ]
    assert len(set(dumps)) == len(dumps)
