"""A sampler over a copy of the weights, which may sample while the learner updates its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.processes import read_weights, start_helpers
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.modeling.weights import dtype_name
from deepscaler.protocols import PublishedWeights
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, Rollout, SamplingParams, WeightsInfo


class CopySampler:
    """model: the copy, in memory that this process shares with the group's processes, which sample from it."""

    def __init__(self, model: nn.Module, group: SamplerGroup) -> None:
        self._model, self._group = model, group

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        return self._group.generate(requests, params)

    def interrupt(self) -> None:
        self._group.interrupt()

    @torch.no_grad()
    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Copy them; every process reads back what it sees. Raises KeyError for an unknown name."""
        own = dict(self._model.named_parameters())
        for name, weight in weights.tensors(dtype_name(next(iter(own.values())).dtype)):
            own[name].copy_(weight)
        return self._group.load_weights(weights)

    def release_memory(self) -> None:
        """Nothing: it samples while the learner updates."""

    def close(self) -> None:
        self._group.close()


@contextmanager
def open_copy_sampler(
    model: nn.Module,
    settings: EngineSettings,
    count: int,
    report: Callable[[str], object] = lambda text: None,
    *,
    limits: WaitLimits | None = None,
    logs: Path | None = None,
) -> Iterator[CopySampler]:
    """Engines in `count` processes of their own. model: the copy. settings: of each engine. Others: `start_helpers`."""
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    starting = start_helpers(
        computer, settings, count, trains=False, report=report, limits=limits, logs=logs, role="sampler"
    )
    with starting as helpers:
        remotes = [helper.remote for helper in helpers]
        yield CopySampler(model, SamplerGroup(None, remotes, load_call=read_weights, report=report))
