"""Warnings about a recipe that can run: stages never reached, settings without effect."""

from __future__ import annotations

from collections.abc import Iterator

from deepscaler.config.checks import Origins, Rule, written
from deepscaler.config.models import Recipe


def warnings_for(recipe: Recipe, origins: Origins) -> list[str]:
    """One line per warning, empty when there is none. origins: as in `Resolved.origins`."""
    return [line for rule in _WARNINGS for line in rule(recipe, origins)]


def _unreached(recipe: Recipe, _: Origins) -> Iterator[str]:
    if recipe.curriculum.kind != "schedule":
        return
    start = 0
    for index, stage in enumerate(recipe.stages):
        if start >= recipe.num_steps:
            yield (
                f"stages.{index} ({stage.name}) is never reached: num_steps = {recipe.num_steps}, "
                f"it would begin after step {start}"
            )
        elif stage.steps is not None and start + stage.steps > recipe.num_steps:
            yield (
                f"stages.{index} ({stage.name}) ends early: num_steps = {recipe.num_steps} leaves "
                f"{recipe.num_steps - start} of its {stage.steps} steps"
            )
        start += stage.steps or 0


_SYNTHETIC_ONLY = [
    "data.num_problems",
    "data.min_operations",
    "data.max_operations",
    "evaluation.num_problems",
    "evaluation.set_operations",
]


def _idle(recipe: Recipe, origins: Origins) -> Iterator[str]:
    """Settings that a person wrote but this recipe does not use. A warning only, since --set may disable a part."""
    algorithm = recipe.algorithm
    curriculum = [key for key in origins if key.startswith("curriculum.") and key != "curriculum.kind"]
    bounds = ["algorithm.importance_low", "algorithm.importance_high"]
    idle = (
        (recipe.data.source != "synthetic", "data.source is not 'synthetic'", _SYNTHETIC_ONLY),
        (recipe.curriculum.kind == "schedule", "curriculum.kind = 'schedule'", curriculum),
        (recipe.model.dtype == "float32", "model.dtype = 'float32'", ["model.float32_head"]),
        (algorithm.kl.coefficient == 0, "algorithm.kl.coefficient = 0", ["algorithm.kl.estimator"]),
        (recipe.cluster.kind != "local", f"cluster.kind = {recipe.cluster.kind!r}", ["training.processes"]),
        (recipe.cluster.kind == "local", "cluster.kind = 'local'", ["training.cpu_offload"]),
        (not algorithm.refills, "algorithm.dynamic_sampling = false", ["algorithm.max_refills"]),
        (algorithm.importance_mask == "none", "algorithm.importance_mask = 'none'", bounds),
    )
    for applies, reason, keys in idle:
        for key in keys if applies else ():
            where = written(origins, key)
            if where:
                yield f"{key} is set in {where} but not used, because {reason}"


def _off_policy(recipe: Recipe, _: Origins) -> Iterator[str]:
    mini, algorithm = recipe.optimizer.mini_batch_prompts, recipe.algorithm
    if algorithm.loss == "reinforce" and mini is not None and mini < recipe.rollout.prompts_per_step:
        yield (
            "algorithm.loss = 'reinforce' has no importance ratio, so updates after the first of a step are biased; "
            f"optimizer.mini_batch_prompts = {mini} makes several updates per step"
        )
    lag = recipe.rollout.max_policy_lag
    if lag > 0 and not algorithm.corrects_importance:
        yield (
            f"rollout.max_policy_lag = {lag} trains on completions of older weights, and no importance correction is "
            "set; algorithm.importance_cap = 2 is usual"
        )
    if algorithm.loss == "gspo" and algorithm.reduction != "sequence_mean":
        yield (
            f"algorithm.loss = 'gspo' with algorithm.reduction = {algorithm.reduction!r}: longer sequences weigh more; "
            "the paper uses 'sequence_mean'"
        )


def _instruction(recipe: Recipe, _: Origins) -> Iterator[str]:
    if "boxed" not in recipe.grader.answer_rules and "\\boxed" in recipe.data.instruction:
        yield (
            f"data.instruction asks for \\boxed{{}}, which grader.answer = {recipe.grader.answer!r} does not read; say "
            "in data.instruction where the answer goes, or add 'boxed' to grader.answer"
        )


_WARNINGS: tuple[Rule, ...] = (_unreached, _idle, _off_policy, _instruction)
