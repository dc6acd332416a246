"""How many processes work on a run, and their start and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from deepscaler import cpu
from deepscaler.config import Recipe
from deepscaler.engines.torch.stops import Decode
from deepscaler.orchestration.parallel import EngineSettings, Team, Worker
from deepscaler.training.gradients import GradientComputer


def num_processes(recipe: Recipe, device: torch.device) -> int:
    """Processes that share the work: one per core on CPU unless the recipe says otherwise, one on a GPU."""
    if device.type != "cpu":
        return 1
    return recipe.training.processes or cpu.available_cores()


@contextmanager
def make_team(
    recipe: Recipe,
    computer: GradientComputer,
    engine_model: Any,
    stop_ids: frozenset[int],
    decode: Decode | None = None,
) -> Iterator[Team]:
    """This process and as many workers as the recipe asks for; the workers end with the context."""
    settings = EngineSettings(stop_ids, recipe.rollout.max_active, decode, recipe.model.float32_head)
    count = num_processes(recipe, next(engine_model.parameters()).device)
    with start_team(computer, engine_model, settings, count=count) as team:
        yield team


@contextmanager
def start_team(
    computer: GradientComputer, engine_model: Any, settings: EngineSettings, *, count: int, trains: bool = True
) -> Iterator[Team]:
    """At most `count` processes, this one among them, that together decode `settings.max_active` sequences at once.

    Workers sample from the weights that `computer` has: an engine with a copy of its own, in half precision, has none.
    trains: whether they will be asked for gradients.
    """
    count = count if engine_model is computer.model else 1
    settings = replace(settings, max_active=-(-settings.max_active // count))
    workers = [Worker(computer, settings, trains=trains) for _ in range(count - 1)]
    team = Team(computer, settings.start(engine_model), workers)
    try:
        yield team
    finally:
        team.close()
