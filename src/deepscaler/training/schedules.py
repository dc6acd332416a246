"""Learning-rate schedules as plain functions of how far a run is. Loads no torch."""

from __future__ import annotations

import math

from deepscaler.config.sections.training import LearningRateSchedule


def learning_rate_factor(
    schedule: LearningRateSchedule,
    *,
    update: int,
    num_updates: int | None,
    warmup_updates: int = 0,
    floor: float = 0.0,
) -> float:
    """The share of the peak learning rate that falls to its floor after the warm-up, without the warm-up's own factor.

    update: index of this update, from 0. num_updates: of the whole decay, warm-up included; None for `constant`. With
    t = (update - warmup) / (num_updates - warmup), kept in [0, 1]:

        constant  1
        linear    floor + (1 - floor) (1 - t)
        cosine    floor + (1 - floor) (1 + cos(pi t)) / 2        (Loshchilov & Hutter 2017, arXiv:1608.03983, §3)

    These are the schedules of transformers' `get_linear_schedule_with_warmup` and
    `get_cosine_with_min_lr_schedule_with_warmup`.
    """
    if schedule == "constant":
        return 1.0
    assert num_updates is not None
    done = (update - warmup_updates) / max(1, num_updates - warmup_updates)
    left = 1.0 - min(1.0, max(0.0, done))
    if schedule == "cosine":
        left = 0.5 * (1.0 - math.cos(math.pi * left))
    return floor + (1.0 - floor) * left


def warmup_factor(num_applied: int, warmup_updates: int) -> float:
    """The share of the learning rate in a linear warm-up: 1/n for the first of n updates, 1 from the n-th on."""
    return min(1.0, (num_applied + 1) / warmup_updates) if warmup_updates else 1.0
