"""How many processes work on a run, and their start and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deepscaler import cpu
from deepscaler.config import Recipe
from deepscaler.orchestration.parallel import Team, Worker
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.training.gradients import GradientComputer


def num_processes(recipe: Recipe, device: torch.device) -> int:
    """Processes that share the work: one per core on CPU unless the recipe says otherwise, one on a GPU."""
    if device.type != "cpu":
        return 1
    return recipe.training.processes or cpu.available_cores()


@contextmanager
def make_team(
    recipe: Recipe, computer: GradientComputer, engine_model: Any, stop_ids: frozenset[int]
) -> Iterator[Team]:
    """This process and as many workers as the recipe asks for; the workers end with the context."""
    count = num_processes(recipe, next(engine_model.parameters()).device)
    with start_team(
        computer,
        engine_model,
        stop_ids,
        count=count,
        max_active=recipe.rollout.max_active,
        float32_head=recipe.model.float32_head,
    ) as team:
        yield team


@contextmanager
def start_team(
    computer: GradientComputer,
    engine_model: Any,
    stop_ids: frozenset[int],
    *,
    count: int,
    max_active: int,
    float32_head: bool = False,
) -> Iterator[Team]:
    """`count` processes, this one among them, that together decode `max_active` sequences at once."""
    share = -(-max_active // count)
    shares_weights = engine_model is computer.model
    workers = [Worker(computer, stop_ids, share) for _ in range(count - 1)] if shares_weights else []
    engine = TorchEngine(engine_model, stop_ids=stop_ids, max_active=share, float32_head=float32_head)
    team = Team(computer, engine, workers)
    try:
        yield team
    finally:
        team.close()
