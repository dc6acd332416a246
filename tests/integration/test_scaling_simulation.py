"""Laws of the simulation behind docs/scaling.md: it agrees with decoding token by token and never beats the work."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
with mock.patch("numba.njit", lambda function: function):  # compiling would take longer than all tests here
    costs_module, engines, schedules = map(import_module, ("scaling_costs", "scaling_engines", "scaling_schedules"))
COSTS = costs_module.measured()
SHORT = costs_module.Lengths(median=40.0, cap=250)


def workload(groups: int = 8) -> object:
    return schedules.Workload(COSTS, SHORT, groups, 4)


def token_by_token(lengths: list[int], prompt: int) -> dict[int, float]:
    """When each of the sequences, decoded at once, ends."""
    clock, steps, ends = 0.0, 0, {}
    while alive := [n for n in lengths if n > steps]:
        context = sum(prompt + steps for _ in alive)
        clock += COSTS.step + COSTS.row * len(alive) + COSTS.context * context
        steps += 1
        ends.update({i: clock for i, n in enumerate(lengths) if n == steps})
    return ends


def test_events_agree_with_decoding_token_by_token() -> None:
    lengths = [5, 300, 2000, 2000, 7000]
    pool = engines.make_engines(COSTS, 1, 100)
    ended = dict(enumerate(engines.completion_times(pool, np.array(lengths, float))))
    assert ended == pytest.approx(token_by_token(lengths, 100), rel=2e-3)


def test_every_sequence_ends_once_and_the_cache_is_empty_afterwards() -> None:
    pool = engines.make_engines(COSTS, 3, 100)
    times = engines.completion_times(pool, 50.0 + np.arange(2000))
    assert (times > 0).all()
    assert (pool.rows == 0).all() and np.abs(pool.context).max() < 1e-3


def test_the_measured_step_of_a_gpu_is_predicted() -> None:
    """docs/benchmarks.md: 128 completions of 8,192 tokens were sampled in 126 s and learned in 68 s."""
    work = schedules.Workload(COSTS, costs_module.Lengths(prompt=1024), 16, 8)
    completions = np.full((16, 8), 8192.0)
    assert schedules.sampling_time(work, completions, 1) == pytest.approx(126, rel=0.05)
    assert schedules.learning_time(work, completions, 1) == pytest.approx(68, rel=0.1)


def test_no_schedule_takes_less_than_the_work() -> None:
    """Of the same draws, because the work of a few steps varies."""
    costs = replace(COSTS, publish=0.0)
    work = schedules.Workload(costs, SHORT, 32, 4)
    bound = costs_module.work_of(costs, SHORT, 128).total / 4
    rng = np.random.default_rng
    turns = schedules.colocated(work, 4, rng(0), 10)
    off = schedules.one_step_off(work, 3, 1, rng(0), 10)
    interruptible = schedules.Interruptible(work, 3, 1, 4).run(rng(0), 15, 20)[0]
    assert bound < interruptible < off
    assert bound < turns < schedules.split_in_turns(work, 3, 1, rng(0), 10)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_the_policy_lag_is_reached_and_never_exceeded(max_lag: int, in_order: bool) -> None:
    _, lags = schedules.Interruptible(workload(), 2, 1, max_lag, in_order).run(np.random.default_rng(3), 4, 20)
    assert lags.max() == max_lag
    assert len(lags) == 24 * 8
