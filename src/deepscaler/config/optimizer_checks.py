"""Rules on the learning rate's schedule and on several passes over a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deepscaler.config.derived import updates_per_step
from deepscaler.config.models import Recipe
from deepscaler.config.sections.training import OptimizerSection


def schedule_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    section = recipe.optimizer
    yield from idle_schedule(section)
    if section.schedule == "constant":
        return
    if section.decay_steps is None:
        yield (
            f"optimizer.schedule = {section.schedule!r} needs optimizer.decay_steps, the step at which the learning "
            f"rate has fallen to its floor; num_steps = {recipe.num_steps} does not say so, as it may be raised later: "
            f"set optimizer.decay_steps = {recipe.num_steps} for the whole run, or schedule = 'constant'"
        )
    elif section.warmup_updates >= (updates := section.decay_steps * updates_per_step(recipe)):
        yield (
            f"optimizer.warmup_updates = {section.warmup_updates} is not below the updates of "
            f"optimizer.decay_steps = {section.decay_steps}, which are {updates}; lower the first or raise the second"
        )


def idle_schedule(section: OptimizerSection) -> Iterator[str]:
    """Settings of a decay where there is none."""
    if section.schedule != "constant":
        return
    for key, value, off in (
        ("decay_steps", section.decay_steps, None),
        ("min_learning_rate_ratio", section.min_learning_rate_ratio, 0.0),
    ):
        if value != off:
            yield (
                f"optimizer.{key} = {value} does nothing with optimizer.schedule = 'constant'; set schedule = "
                f"'cosine' or 'linear', or remove optimizer.{key}"
            )


def passes_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    passes = recipe.optimizer.num_iterations
    if passes > 1 and recipe.algorithm.loss == "reinforce":
        yield (
            f"optimizer.num_iterations = {passes} with algorithm.loss = 'reinforce': from the second pass on the "
            "policy is another one than sampled, and this loss has no ratio that corrects it; set num_iterations = 1, "
            "or loss = 'clipped_surrogate'"
        )
