"""What may change when a run goes on: one list, on the page as in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepscaler.config import Recipe, changed_keys, load_recipe, recipe_hash
from deepscaler.config.resume import BY_CONTENT, FREE, ROUNDING, changed_rounding, may_change
from deepscaler.config.schema import all_keys

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "recipes" / "quickstart.toml"


def page_lists() -> list[list[str]]:
    """The keys of each bullet list of the page's section, in order."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    section = text.split("## Going on with a run\n")[1].split("\n### ")[0]
    lists, current = [], ""
    for line in section.splitlines():
        if line.startswith(("- ", "  ")):
            current += line + "\n"
        elif line.strip():
            lists += [current] if current else []
            current = ""
    listed = [*lists, current] if current else lists
    return [re.findall(r"`([a-z0-9_.*]+)`", re.sub(r"\([^)]*\)", "", part)) for part in listed]


def test_the_page_lists_exactly_what_the_code_lets_change() -> None:
    assert [sorted(keys) for keys in page_lists()] == [sorted(FREE), sorted(ROUNDING), sorted(BY_CONTENT)]


def test_every_listed_key_is_a_setting() -> None:
    known = set(all_keys(Recipe))
    sections = {key.rpartition(".")[0] for key in known}
    for key in (*FREE, *ROUNDING, *BY_CONTENT):
        assert key.replace(".*", "") in known | sections, key


def dumped(*overrides: str) -> dict:
    return load_recipe(SHIPPED, overrides).model_dump(mode="json")


@pytest.mark.parametrize(
    "override",
    [
        "training.processes=7",
        "training.tokens_per_micro_batch=65536",
        "training.logprob_chunk_tokens=64",
        "rollout.max_active=8",
        "model.activation_checkpointing=true",
    ],
)
def test_what_changes_rounding_only_may_change_with_a_note(override: str) -> None:
    assert changed_keys(dumped(), dumped(override)) == []
    assert changed_rounding(dumped(), dumped(override)) == [override.partition("=")[0]]
    assert recipe_hash(load_recipe(SHIPPED, [override])) == recipe_hash(load_recipe(SHIPPED))


@pytest.mark.parametrize(
    "override",
    ["optimizer.learning_rate=1e-3", "grader.wall_s=99.0", "grader.memory_mib=77", "stages.0.steps=3", "seed=9"],
)
def test_what_changes_a_step_is_named(override: str) -> None:
    key = override.partition("=")[0]
    assert changed_keys(dumped(), dumped(override)) == [key]
    assert changed_rounding(dumped(), dumped(override)) == []
    assert recipe_hash(load_recipe(SHIPPED, [override])) != recipe_hash(load_recipe(SHIPPED))


def test_a_key_stands_for_what_is_below_it_and_a_star_for_a_number() -> None:
    assert may_change("checkpoint.keep") and may_change("data.sources.3.path") and may_change("alarms.window")
    for key in ("checkpoints", "nam", "data.sources.3.weight", "data.sources.x.path", "grader.cpu_s", "sft.steps"):
        assert not may_change(key), key
