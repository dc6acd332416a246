"""The recipes in the tree load, and the sizes that follow from them are those of the published run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from deepscaler.config.derived import Size, derived
from deepscaler.config.evaluation import is_evaluation_recipe
from deepscaler.config.explain import explain
from deepscaler.config.load import load_recipe, resolve

RECIPES = Path(__file__).parents[3] / "recipes"
FULL = RECIPES / "deepscaler-1.5b.toml"
QUICK = RECIPES / "quickstart.toml"


def sizes_of(path: Path, *overrides: str, world_size: int = 1) -> dict[tuple[str, str], int | None]:
    sizes = derived(load_recipe(path, overrides), world_size)
    return {(size.scope, size.name): size.value for size in sizes}


TRAINING_RECIPES = [path for path in sorted(RECIPES.glob("*.toml")) if not is_evaluation_recipe(path)]


@pytest.mark.parametrize("path", TRAINING_RECIPES, ids=lambda p: p.stem)
def test_every_recipe_in_the_tree_loads_and_explains_itself(path: Path) -> None:
    explanation = explain(resolve(path))
    assert explanation.name == path.stem
    assert explanation.warnings == ()
    assert all(row.doc and row.origin for row in explanation.settings)


def test_the_full_recipe_is_the_published_one() -> None:
    recipe = load_recipe(FULL)
    assert recipe.model.path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert recipe.data.source == "agentica-org/DeepScaleR-Preview-Dataset"
    assert [s.max_completion_tokens for s in recipe.stages] == [8192, 16384, 24576]
    assert [s.steps for s in recipe.stages] == [1040, 480, 230]
    assert [s.reset_reference for s in recipe.stages] == [False, True, True]
    assert [s.reset_optimizer for s in recipe.stages] == [False, True, True]
    assert [s.reshuffle for s in recipe.stages] == [False, True, True]
    algorithm, optimizer = recipe.algorithm, recipe.optimizer
    assert (algorithm.advantage, algorithm.reduction, algorithm.loss, algorithm.truncated) == (
        "group_normalized",
        "token_mean",
        "clipped_surrogate",
        "train",
    )
    assert (algorithm.clip_low, algorithm.clip_high) == (0.2, 0.2)
    assert (algorithm.kl.estimator, algorithm.kl.coefficient) == ("k3", 0.001)
    assert algorithm.entropy_coefficient == 0.001
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.eps) == (1e-6, 0.01, 1e-8)
    assert (recipe.rollout.temperature, recipe.rollout.top_p, recipe.rollout.top_k) == (0.6, 1.0, 0)
    evaluation = recipe.evaluation
    assert (evaluation.num_samples, evaluation.temperature, evaluation.top_p) == (16, 0.6, 0.95)
    assert evaluation.max_completion_tokens == 32768


def test_sizes_of_the_full_recipe() -> None:
    sizes = sizes_of(FULL)
    assert sizes["run", "updates per step"] == 2
    assert sizes["run", "updates in all"] == 3500
    assert [sizes[f"stage {s}", "sequences per step"] for s in ("8k", "16k", "24k")] == [1024, 2048, 2048]
    assert [sizes[f"stage {s}", "sequences per update"] for s in ("8k", "16k", "24k")] == [512, 1024, 1024]
    assert [sizes[f"stage {s}", "first step"] for s in ("8k", "16k", "24k")] == [1, 1041, 1521]
    assert [sizes[f"stage {s}", "last step"] for s in ("8k", "16k", "24k")] == [1040, 1520, 1750]
    assert sizes["stage 24k", "longest sequence"] == 25600
    assert sizes["stage 8k", "sequences per micro-batch"] == 3
    assert sizes["stage 8k", "micro-batches per update"] == 171
    assert sizes["stage 8k", "sampled per step, at most"] == 1024 * 8192


def test_numbers_per_rank_follow_from_the_world_size() -> None:
    sizes = sizes_of(FULL, world_size=8)
    assert sizes["stage 8k", "per rank: sampled"] == 128
    assert sizes["stage 8k", "per rank: per update"] == 64
    assert sizes["stage 8k", "per rank: micro-batches"] == 22
    with pytest.raises(ValueError, match="at least 1 rank"):
        sizes_of(FULL, world_size=0)


def test_ranks_that_share_a_sequence_count_as_one() -> None:
    recipe = load_recipe(FULL)
    shared = recipe.model_copy(update={"training": recipe.training.model_copy(update={"context_parallel": 2})})
    sizes = {(size.scope, size.name): size.value for size in derived(shared, 8)}
    assert sizes["stage 8k", "per rank: packed tokens"] == 16_384
    assert sizes["stage 8k", "per rank: per update"] == 128
    assert sizes["stage 8k", "per rank: sampled"] == 128
    with pytest.raises(ValueError, match=r"world size 7 is not a multiple of training\.context_parallel = 2"):
        derived(shared, 7)


def test_ranks_without_work_are_warned_about() -> None:
    resolved = resolve(FULL)
    assert any("some stay idle" in w for w in explain(resolved, 1024).warnings)
    assert explain(resolved, 512).warnings == ()


def test_the_quickstart_is_the_small_replica() -> None:
    recipe = load_recipe(QUICK)
    assert recipe.sft is not None
    assert recipe.model.path is None
    assert recipe.data.source == "synthetic"
    assert len(recipe.stages) == 3
    budgets = [stage.max_completion_tokens for stage in recipe.stages]
    assert budgets == sorted(set(budgets))
    assert recipe.evaluation.num_samples == 16
    assert len(recipe.evaluation.set_operations) == 5


def test_the_quickstart_shrinks_to_a_short_run() -> None:
    recipe = load_recipe(QUICK, ["num_steps=12", "checkpoint.every_steps=2"])
    assert (recipe.num_steps, recipe.checkpoint.every_steps) == (12, 2)


def test_a_run_cut_short_shows_the_steps_it_will_take() -> None:
    sizes = sizes_of(FULL, "num_steps=1500")
    assert sizes["stage 16k", "last step"] == 1500
    assert sizes["stage 16k", "steps"] == 460
    assert sizes["stage 24k", "first step"] is None
    assert sizes["stage 24k", "steps"] == 0


def test_under_the_measured_controller_no_step_is_promised() -> None:
    names = {name for _, name in sizes_of(FULL, "curriculum.kind=measured")}
    assert "first step" not in names
    assert "sequences per step" in names


def test_packing_in_order_never_needs_more_micro_batches_than_said() -> None:
    """Next-fit over random lengths, against the bound, which equal longest sequences reach."""
    draw = random.Random(0)
    sizes = sizes_of(QUICK)
    recipe = load_recipe(QUICK)
    stage = recipe.stages[-1]
    scope = f"stage {stage.name}"
    longest, count = sizes[scope, "longest sequence"], sizes[scope, "sequences per update"]
    bound = sizes[scope, "micro-batches per update"]
    assert longest is not None and count is not None and bound is not None

    def packed(lengths: list[int]) -> int:
        batches, room = 0, 0
        for length in lengths:
            if length > room:
                batches, room = batches + 1, recipe.training.tokens_per_micro_batch
            room -= length
        return batches

    assert packed([longest] * count) == bound
    for _ in range(50):
        assert packed([draw.randint(1, longest) for _ in range(count)]) <= bound


def test_every_size_says_how_it_comes_about() -> None:
    sizes: list[Size] = derived(load_recipe(QUICK), 2)
    assert all(size.unit and size.formula for size in sizes)
    assert len({(size.scope, size.name) for size in sizes}) == len(sizes)
