"""The workers of a run on one machine: this process and helper processes that share one set of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from deepscaler import cpu
from deepscaler.cluster.helper import EngineSettings, Helper, trainable
from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.process import ProcessRemote
from deepscaler.cluster.replica import GradientHelper
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.supervised import MOST_RESTARTS, SupervisedRemote
from deepscaler.engines.registry import print_note
from deepscaler.protocols import PublishedWeights
from deepscaler.training.gradients import GradientComputer


def num_processes(configured: int | None, device: torch.device) -> int:
    """Processes that share the work: one per core on CPU unless the recipe says otherwise, one on a GPU."""
    if device.type != "cpu":
        return 1
    return configured or cpu.available_cores()


@contextmanager
def start_helpers(
    computer: GradientComputer,
    engine: EngineSettings | None,
    count: int,
    *,
    trains: bool = True,
    build: Callable[..., object] = Helper,
    most_restarts: int = MOST_RESTARTS,
    report: Callable[[str], object] = lambda text: None,
    limits: WaitLimits | None = None,
    logs: Path | None = None,
    role: str = "worker process",
) -> Iterator[list[GradientHelper]]:
    """`count` processes with the computer's weights in shared memory; they end with the context.

    trains: whether they will be asked for gradients. build: what each holds, a `Helper` or a subclass. most_restarts:
    of one that is lost, in a row; 0 where its answers are not functions of arguments and weights. report: told of them.
    logs: directory for what they write to standard error. role: with a number the name of each.
    """
    num_weights = sum(p.numel() for p in trainable(computer.model)) if trains else 0
    if count:
        for model in (computer.model, computer.reference):
            if model is not None:
                model.share_memory()
    helpers: list[GradientHelper] = []
    try:
        for number in range(1, count + 1):
            lent = torch.zeros(num_weights).share_memory_()
            name = f"{role} {number}"
            log = None if logs is None else logs / f"{name.replace(' ', '-')}.log"
            start = partial(ProcessRemote, partial(build, computer, engine, lent), name, limits=limits, log=log)
            remote = SupervisedRemote(name, start, most_restarts=most_restarts, report=report)
            helpers.append(GradientHelper(remote, lent))
        yield helpers
    finally:
        for helper in helpers:
            helper.remote.close()


def divided(settings: EngineSettings, count: int) -> EngineSettings:
    """For each of `count` engines that together decode `settings.max_active` sequences at once."""
    return replace(settings, max_active=-(-settings.max_active // count))


def sharded_sampler(
    computer: GradientComputer,
    settings: EngineSettings,
    helpers: Sequence[GradientHelper],
    report: Callable[[str], object] = lambda text: None,
) -> SamplerGroup:
    """An engine in this process beside those of the helpers, over the same weights."""
    remotes = [helper.remote for helper in helpers]
    return SamplerGroup(settings.start(computer.model), remotes, load_call=read_weights, report=report)


def read_weights(weights: PublishedWeights) -> tuple[str, int]:
    """Helpers see the weights already; they are told the version and report what they see."""
    return "read_weights", weights.version


@contextmanager
def open_sharded_engine(
    computer: GradientComputer, settings: EngineSettings, *, count: int, report: Callable[[str], object] = print_note
) -> Iterator[SamplerGroup]:
    """Engines in `count` processes, this one among them, that sample only. settings: of all of them together."""
    settings = divided(settings, count)
    with start_helpers(computer, settings, count - 1, trains=False, report=report) as helpers:
        yield sharded_sampler(computer, settings, helpers, report)
