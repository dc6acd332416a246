"""The engine in this process, with its workers, over an opened model directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deepscaler import cpu
from deepscaler.config.evaluation import EngineSection
from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.data.templates import decoder
from deepscaler.model_directory import ModelDirectory
from deepscaler.orchestration.parallel import EngineSettings, Team
from deepscaler.orchestration.team import start_team
from deepscaler.rollout.stops import plain_decode
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import SamplingParams


@contextmanager
def embedded_team(
    files: ModelDirectory, engine: EngineSection, *, capacity: int, params: SamplingParams
) -> Iterator[tuple[Team, Callable[[Any], str]]]:
    """The engine with its workers, and what turns its ids into text.

    capacity: tokens of prompt and completion. params: what ends a completion.
    """
    model = files.load(capacity)
    count = 1 if files.device.type != "cpu" else engine.processes or cpu.available_cores()
    slots = files.slots(capacity=capacity, most=engine.max_active)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    stop_ids = files.stop_ids(params.stop_token_ids)
    settings = EngineSettings(stop_ids, slots, plain_decode(files.tokenizer))
    with start_team(computer, model, settings, count=count, trains=False) as team:
        yield team, decoder(files.tokenizer, stop_ids, params.stop)
