"""The schedules that scaling.py compares: how sampling and learning take turns, or overlap. All give seconds a step."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from scaling_costs import OPTIMIZER_S, Costs, Floats, Lengths
from scaling_engines import Engines


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
    pool = Engines(work.costs, engines, work.lengths.prompt)
    pool.waiting.extend(enumerate(completions.ravel().tolist()))
    return max(time for time, _ in pool.drain())


def learning_time(work: Workload, completions: Floats, ranks: int) -> float:
    """Of the rank with the most to do; the longest sequences are dealt first, each to the least loaded rank."""
    seconds = work.costs.learning(completions.ravel() + work.lengths.prompt)
    loads = [0.0] * ranks
    for each in sorted(seconds.tolist(), reverse=True):
        heapq.heappushpop(loads, loads[0] + each)
    return max(loads) + OPTIMIZER_S


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


@dataclass(slots=True)
class _Group:
    """version: of the policy when its first completion was started. pending: completions that are not done."""

    tokens: Floats
    version: int
    pending: int


@dataclass(slots=True)
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
    version: int = 0
    lags: list[int] = field(default_factory=list)
    _groups: dict[int, _Group] = field(default_factory=dict)
    _done: set[tuple[int, int]] = field(default_factory=set)  # version, number of groups that are complete
    _news: bool = False  # since the latest look for a batch
    _learning: list[int] = field(default_factory=list)
    _started: int = 0

    def run(self, rng: np.random.Generator, warm_up: int, steps: int) -> float:
        """Mean seconds between updates, after so many of them."""
        pool = Engines(self.work.costs, self.engines, self.work.lengths.prompt)
        now = begin = 0.0
        updated = math.inf  # when the running update will be published
        while self.version < warm_up + steps:
            if pool.waiting or len(self._groups) < self._most_groups:
                self._start_groups(pool, now, rng)
            if self._news and not self._learning and (batch := self._batch()) is not None:
                updated = now + self._learn(batch) + self.work.costs.publish
            now = min(updated, pool.next_time)
            assert now < math.inf, "nothing is decoded and nothing learned"
            if now < updated:
                self._complete(pool.complete_next())
                continue
            self._publish(pool, now)
            updated = math.inf
            if self.version == warm_up:
                begin = now
        return (now - begin) / steps

    @property
    def _most_groups(self) -> int:
        return (self.max_lag + 1) * self.work.groups

    def _start_groups(self, pool: Engines, now: float, rng: np.random.Generator) -> None:
        pool.fill(now)
        while not pool.waiting and len(self._groups) < self._most_groups:
            tokens = self.work.lengths.draw(rng, 1, self.work.group_size)[0]
            self._groups[self._started] = _Group(tokens, self.version, len(tokens))
            first = self._started * self.work.group_size
            pool.waiting.extend((first + i, each) for i, each in enumerate(tokens.tolist()))
            self._started += 1
            pool.fill(now)

    def _complete(self, number: int) -> None:
        index = number // self.work.group_size
        group = self._groups[index]
        group.pending -= 1
        if not group.pending:
            self._done.add((group.version, index))
            self._news = True

    def _batch(self) -> list[int] | None:
        """The groups to learn from, or None where they are not complete."""
        self._news = False
        if len(self._done) < self.work.groups:
            return None
        if self.in_order:
            drawn = range(self.version * self.work.groups, (self.version + 1) * self.work.groups)
            return None if any(self._groups[index].pending for index in drawn) else list(drawn)
        batch = [index for _, index in heapq.nsmallest(self.work.groups, self._done)]
        left = Counter(group.version for group in self._groups.values())
        left.subtract(self._groups[index].version for index in batch)
        count = 0
        for version in range(self.version - self.max_lag, self.version + 1):
            count += left[version]
            if count > (version + self.max_lag - self.version) * self.work.groups:
                return None
        return batch

    def _learn(self, batch: list[int]) -> float:
        self._done -= {(self._groups[index].version, index) for index in batch}
        self._learning = batch
        self.lags += [self.version - self._groups[i].version for i in batch]
        return learning_time(self.work, np.stack([self._groups[i].tokens for i in batch]), self.ranks)

    def _publish(self, pool: Engines, now: float) -> None:
        self.version += 1
        for index in self._learning:
            del self._groups[index]
        self._learning, self._news = [], True
        pool.interrupt(now, recompute=self.recompute)
