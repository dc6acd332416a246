"""Settings that may change when a run goes on: the page lists what the declarations of the settings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepscaler.config import changed_settings, load_recipe, recipe_hash
from deepscaler.config.resume import changed_rounding, may_change, resume_rule
from deepscaler.config.schema import all_settings
from small_recipe import SMALL, write

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "recipes" / "quickstart.toml"


def page_lists() -> list[list[str]]:
    """The keys of each bullet list of the page's section, in order."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    section = text.split("## Resuming a run\n")[1].split("\n### ")[0]
    lists, current = [], ""
    for line in section.splitlines():
        if line.startswith(("- ", "  ")):
            current += line + "\n"
        elif line.strip():
            lists += [current] if current else []
            current = ""
    listed = [*lists, current] if current else lists
    return [re.findall(r"`([a-z0-9_.*]+)`", re.sub(r"\([^)]*\)", "", part)) for part in listed]


def settings_below(key: str) -> list[str]:
    """The setting of that name, or every setting of the section of that name."""
    return [name for name, _ in all_settings() if name == key or name.startswith(key + ".")]


def test_the_page_lists_exactly_what_the_declarations_let_change() -> None:
    page = [{name: settings_below(name.replace(".*", "")) for name in names} for names in page_lists()]
    for listed in page:
        for name, settings in listed.items():
            assert settings, f"docs/recipes.md lists {name}, which is no setting"
    said = [sorted(key for settings in listed.values() for key in settings) for listed in page]
    keys = sorted(key for key, _ in all_settings())
    declared = [[k for k in keys if resume_rule(k) == rule] for rule in ("nothing", "rounding", "content")]
    assert said == declared


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
    assert changed_settings(dumped(), dumped(override)) == []
    assert [one.key for one in changed_rounding(dumped(), dumped(override))] == [override.partition("=")[0]]
    assert recipe_hash(load_recipe(SHIPPED, [override])) == recipe_hash(load_recipe(SHIPPED))


@pytest.mark.parametrize(
    "override",
    ["optimizer.learning_rate=1e-3", "grader.wall_s=99.0", "grader.memory_mib=77", "stages.0.steps=3", "seed=9"],
)
def test_what_changes_a_step_is_named(override: str) -> None:
    key = override.partition("=")[0]
    assert [one.key for one in changed_settings(dumped(), dumped(override))] == [key]
    assert changed_rounding(dumped(), dumped(override)) == []
    assert recipe_hash(load_recipe(SHIPPED, [override])) != recipe_hash(load_recipe(SHIPPED))


def test_a_setting_added_later_counts_as_absent_at_its_default_only() -> None:
    before = dumped()
    del before["rollout"]["engine"], before["cluster"]
    assert changed_settings(before, dumped()) == changed_rounding(before, dumped()) == []
    assert [one.key for one in changed_settings(before, dumped("rollout.engine=vllm"))] == ["rollout.engine"]
    assert recipe_hash(load_recipe(SHIPPED, ["rollout.engine=vllm"])) != recipe_hash(load_recipe(SHIPPED))


def test_numbers_of_entries_do_not_matter_and_unknown_keys_may_not_change() -> None:
    assert may_change("checkpoint.keep") and may_change("data.sources.3.path") and may_change("alarms.window")
    for key in ("checkpoints", "nam", "data.sources.3.weight", "data.sources.x.path", "grader.cpu_s", "sft.steps"):
        assert not may_change(key), key


def test_the_hash_is_stable_and_ignores_what_may_change_on_resume(small: Path, tmp_path: Path) -> None:
    digest = recipe_hash(load_recipe(small))
    shuffled = SMALL.replace("prompts_per_step = 8\ngroup_size = 4", "group_size = 4\nprompts_per_step = 8")
    assert recipe_hash(load_recipe(write(tmp_path, shuffled, "other.toml"))) == digest
    free = ["name=x", "num_steps=5", "checkpoint.every_steps=1", "alarms.stop=false", "grader.workers=2"]
    assert recipe_hash(load_recipe(small, free)) == digest
    assert recipe_hash(load_recipe(small, ["seed=2"])) != digest
    assert len(digest) == 64


def test_every_setting_that_is_not_free_moves_the_hash(small: Path) -> None:
    base = recipe_hash(load_recipe(small))
    for override in (
        "stages.0.steps=3",
        "optimizer.eps=1e-7",
        "data.num_problems=500",
        "model.dtype=bfloat16",
    ):
        assert recipe_hash(load_recipe(small, [override])) != base, override


def test_changed_settings_are_the_ones_that_may_not_change(small: Path) -> None:
    def dump(*overrides: str) -> dict:
        return load_recipe(small, overrides).model_dump(mode="json")

    def keys_changed(old: dict, new: dict) -> list[str]:
        return [changed.key for changed in changed_settings(old, new)]

    assert keys_changed(dump(), dump("num_steps=5", "checkpoint.keep=9", "evaluation.every_steps=2")) == []
    assert keys_changed(dump(), dump("seed=3", "stages.1.max_completion_tokens=65")) == [
        "seed",
        "stages.1.max_completion_tokens",
    ]
    without = dump()
    without["sft"] = None
    assert "sft.steps" in keys_changed(dump(), without)
    assert keys_changed(dump(), dump("preset=justrl")) == [
        "algorithm.clip_high",
        "algorithm.entropy_coefficient",
        "algorithm.kl.coefficient",
    ]


def test_hash_and_changed_settings_agree(small: Path) -> None:
    old = load_recipe(small)
    for override in ("grader.wall_s=2.0", "training.processes=1", "description=x", "num_steps=4"):
        new = load_recipe(small, [override])
        same = not changed_settings(old.model_dump(mode="json"), new.model_dump(mode="json"))
        assert same == (recipe_hash(old) == recipe_hash(new)), override
