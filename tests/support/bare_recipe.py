"""A recipe that names no files: what a learner alone needs of one."""

from __future__ import annotations

from typing import Any

from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection


def bare_recipe(*, temperature: float = 1.0, sections: dict[str, Any] | None = None, **model: Any) -> Recipe:
    """sections: others than the model's; the rest are settings of the model."""
    return Recipe(
        name="t",
        num_steps=1,
        model=ModelSection(path="unused", **model),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=2, group_size=2, temperature=temperature),
        stages=(StageSection(name="s", max_completion_tokens=8),),
        **(sections or {}),
    )
