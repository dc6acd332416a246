"""The schedules that scaling.py compares: how sampling and learning take turns, or overlap. All give seconds a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scaling_costs import OPTIMIZER_S, Costs, Floats, Lengths
from scaling_engines import admit, complete, completion_times, interrupt, make_engines, most_loaded


@dataclass(frozen=True, slots=True)
class Workload:
    costs: Costs
    lengths: Lengths
    groups: int
    group_size: int

    def draw(self, rng: np.random.Generator) -> Floats:
        return self.lengths.draw(rng, self.groups, self.group_size)


def sampling_time(work: Workload, completions: Floats, engines: int) -> float:
    """Until the last completion of a step is there, all of them started together."""
    pool = make_engines(work.costs, engines, work.lengths.prompt)
    return float(completion_times(pool, completions.ravel()).max())


def learning_time(work: Workload, completions: Floats, ranks: int) -> float:
    seconds = work.costs.learning(completions.ravel() + work.lengths.prompt)
    return float(most_loaded(seconds, ranks)) + OPTIMIZER_S


def colocated(work: Workload, gpus: int, rng: np.random.Generator, steps: int) -> float:
    """All GPUs sample, then all learn. Sleep and wake of the engines are free here."""
    return float(np.mean([_turns(work, work.draw(rng), gpus, gpus) for _ in range(steps)]))


def split_in_turns(work: Workload, engines: int, ranks: int, rng: np.random.Generator, steps: int) -> float:
    """Separate GPUs for both, policy lag 0: one part waits while the other works."""
    return float(np.mean([_turns(work, work.draw(rng), engines, ranks) for _ in range(steps)]))


def _turns(work: Workload, completions: Floats, engines: int, ranks: int) -> float:
    return sampling_time(work, completions, engines) + learning_time(work, completions, ranks) + work.costs.publish


def one_step_off(work: Workload, engines: int, ranks: int, rng: np.random.Generator, steps: int) -> float:
    """Policy lag 1: step k is sampled, with the weights that step k - 2 left, while step k - 1 is learned."""
    publish = work.costs.publish
    sampled = learned = published = 0.0  # ends of the latest sampling, update and publish
    for _ in range(steps):
        completions = work.draw(rng)
        begin = max(sampled, published) + publish  # the engines load what was published last
        published = learned + publish
        sampled = begin + sampling_time(work, completions, engines)
        learned = max(sampled, published) + learning_time(work, completions, ranks)
    return learned / steps


@dataclass(frozen=True, slots=True)
class Interruptible:
    """Policy lag n: engines never wait for a step's end. New weights interrupt them, and completions continue.

    A group whose first token was sampled by version s is learned by version s + n at the latest: no more than
    (n + 1) steps of groups are under way. in_order: a step's groups are those that were drawn for it, as in
    loop/ahead.py; else it takes the oldest that are complete, and waits where it would leave too old a one behind.
    recompute: interrupted completions continue with a new cache, as the torch engine does; else the cache is kept.
    """

    work: Workload
    engines: int
    ranks: int
    max_lag: int
    in_order: bool = True
    recompute: bool = True

    def run(self, rng: np.random.Generator, warm_up: int, steps: int) -> tuple[float, NDArray[np.int64]]:
        """Mean seconds between updates after so many of them, and the lag of every group that was learned."""
        work = self.work
        drawn = work.lengths.draw(rng, (warm_up + steps + self.max_lag + 2) * work.groups, work.group_size)
        learning = work.costs.learning(drawn + work.lengths.prompt)
        pool = make_engines(work.costs, self.engines, work.lengths.prompt)
        how = self.max_lag, self.in_order, self.recompute
        counts = work.groups, self.ranks, warm_up, steps
        seconds, lags = _interruptible(pool, drawn, learning, counts, how, work.costs.publish)
        return float(seconds), lags


@njit
def _interruptible(engines, tokens, learning, counts, how, publish):
    """tokens, learning: [groups drawn, group size] tokens, and seconds to learn them."""
    groups, ranks, warm_up, steps = counts
    max_lag, in_order, recompute = how
    size, flat = tokens.shape[1], tokens.ravel()
    pending = np.full(len(tokens), size)
    versions = np.zeros(len(tokens), np.int64)  # of the policy when a group was started
    lags = np.full(len(tokens), -1)  # of the groups that were learned
    admitted = started = version = 0
    now = begin = 0.0
    updated = math.inf  # when the running update will be published
    news = False
    while True:
        admitted = admit(engines, flat, admitted, started * size, now)
        while admitted == started * size and started - version * groups < (max_lag + 1) * groups:
            versions[started] = version
            started += 1
            admitted = admit(engines, flat, admitted, started * size, now)
        if news and updated == math.inf:
            news = False
            batch = _batch(pending, versions, lags, started, (groups, version, max_lag, in_order))
            if len(batch) > 0:
                lags[batch] = version - versions[batch]
                updated = now + most_loaded(learning[batch].ravel(), ranks) + OPTIMIZER_S + publish
        e = engines.following.argmin()
        if engines.following[e] < updated:
            now = engines.following[e]
            group = complete(engines, e) // size
            pending[group] -= 1
            news = news or pending[group] == 0
            continue
        now, updated, news = updated, math.inf, True
        version += 1
        interrupt(engines, now, publish, recompute)
        if version == warm_up:
            begin = now
        if version == warm_up + steps:
            return (now - begin) / steps, lags[lags >= 0]


@njit
def _batch(pending, versions, lags, started, limits):
    """The groups to learn from, the oldest first; empty where they are not complete."""
    groups, version, max_lag, in_order = limits
    batch = np.zeros(groups, np.int64)
    found = 0
    for group in range(started):
        if lags[group] < 0 and pending[group] == 0 and found < groups:
            batch[found] = group
            found += 1
    if found < groups or (in_order and batch[-1] != (version + 1) * groups - 1):
        return batch[:0]
    left = place = 0
    for group in range(started):  # those left behind, by age: as many as the updates until they are too old can take
        if place < groups and batch[place] == group:
            place += 1
        elif lags[group] < 0:
            left += 1
            if left > (versions[group] + max_lag - version) * groups:
                return batch[:0]
    return batch
