"""A policy learner over a replica in this process, with its parts at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepscaler.config import Recipe
from deepscaler.modeling.weights import weights_digest
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.replica import ModelReplica, Optimizers, adamw, policy_computer


@dataclass(frozen=True)
class Parts:
    learner: PolicyLearner
    replica: ModelReplica
    computer: GradientComputer
    model: Any
    optimizers: list[torch.optim.Optimizer]  # all that the replica made, the one in use last

    def update(self, *mini_batches: Any) -> Any:
        return self.learner.update(list(mini_batches))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.optimizers[-1]

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()]).clone()

    def digest(self) -> str:
        return weights_digest(self.model.named_parameters())


def policy_learner(model: Any, recipe: Recipe, *, sgd: float | None = None) -> Parts:
    """sgd: its learning rate goes to plain SGD instead of AdamW, so that an update is the gradient."""
    computer = policy_computer(model, recipe)
    make = adamw(recipe.optimizer)
    if sgd is not None:
        factor = sgd / recipe.optimizer.learning_rate
        make = lambda model: [(torch.optim.SGD(model.parameters(), lr=1.0), factor)]  # noqa: E731
    made: list[torch.optim.Optimizer] = []

    def recorded(model: torch.nn.Module) -> Optimizers:
        ((optimizer, factor),) = make(model)
        made.append(optimizer)
        return [(optimizer, factor)]

    replica = ModelReplica(computer, recorded)
    return Parts(PolicyLearner(replica, recipe), replica, computer, model, made)


def loaded(parts: Parts, directory: Path) -> Parts:
    parts.learner.load(directory)
    return parts
