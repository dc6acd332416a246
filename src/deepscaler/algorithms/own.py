"""Losses and advantages by name, or of the user's own by import path, checked when they are loaded.

A function of one's own has the signature of `losses.Loss` or `advantages.Advantage`. A loss may return the tensor
loss_T alone. It runs in the learner's processes, without limits of time and memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from deepscaler.algorithms.advantages import ADVANTAGES, Advantage
from deepscaler.algorithms.losses import LOSSES, Loss, PolicyLoss
from deepscaler.algorithms.own_laws import broken_advantage_law, broken_loss_law
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.own_code import LoadError, find, import_place


@cache
def loss_of(name: str) -> Loss:
    """The loss of a recipe's `algorithm.loss`. Raises ValueError for one of the user's own that breaks a law."""
    if name in LOSSES:
        return LOSSES[name]
    loss = _with_clip(_load("algorithm.loss", name))
    _refuse("algorithm.loss", name, broken_loss_law(loss))
    return loss


@cache
def advantage_of(name: str) -> Advantage:
    """The function of `algorithm.advantage`. Raises ValueError for one of the user's own that breaks a law."""
    if name in ADVANTAGES:
        return ADVANTAGES[name]
    advantage: Advantage = _load("algorithm.advantage", name)
    _refuse("algorithm.advantage", name, broken_advantage_law(advantage))
    return advantage


def check_algorithm(section: AlgorithmSection) -> None:
    """Load loss and advantage of a recipe, before anything expensive begins. Raises ValueError."""
    loss_of(section.loss)
    advantage_of(section.advantage)


def _with_clip(loss: Any) -> Loss:
    """The loss with the `PolicyLoss` of a tensor that it returned alone: no token is clipped."""

    def with_clip(
        logprobs_T: Tensor,
        old_logprobs_T: Tensor,
        advantages_T: Tensor,
        segments_T: Tensor,
        *,
        clip_low: float,
        clip_high: float,
    ) -> PolicyLoss:
        given = loss(logprobs_T, old_logprobs_T, advantages_T, segments_T, clip_low=clip_low, clip_high=clip_high)
        if isinstance(given, Tensor):
            return PolicyLoss(given, torch.zeros_like(given, dtype=torch.bool))
        return given

    return with_clip


def _load(key: str, path: str) -> Any:
    place, _, name = path.rpartition(":")
    try:
        return find(import_place(place), place, name)
    except LoadError as error:
        trace = f"\n{error.trace.rstrip()}" if error.trace else ""
        raise ValueError(f"{key} = {path!r}: {error}{trace}") from error


def _refuse(key: str, path: str, broken: str | None) -> None:
    if broken is not None:
        raise ValueError(f"{key} = {path!r}: {broken}. docs/algorithms.md lists what such a function must keep")
