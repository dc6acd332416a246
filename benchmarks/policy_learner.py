"""A policy learner in this process for benchmarks, as the local construction makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepscaler.cluster.replica import GradientHelper, SharedReplica
from deepscaler.config import Recipe
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.replica import adamw, policy_computer


def make_learner(
    model: Any, recipe: Recipe, computer: GradientComputer | None = None, helpers: Sequence[GradientHelper] = ()
) -> PolicyLearner:
    """helpers: processes that were started with this computer."""
    computer = computer or policy_computer(model, recipe)
    replica = SharedReplica(computer, adamw(recipe.optimizer), helpers)
    return PolicyLearner(replica, recipe.algorithm, recipe.optimizer)
