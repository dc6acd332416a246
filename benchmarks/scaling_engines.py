"""Simulated engines that decode many sequences at once; time goes from one event to the next, not token by token."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator

from scaling_costs import CACHE_TOKENS, MAX_ROWS, Costs

ADMIT_TOKENS = 2048  # that the cache must still hold when a sequence is admitted


class Engine:
    """One GPU. `steps` counts its decode steps since the beginning, a real number; `clock` is when they were done."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self.clock = self.steps = 0.0
        self.context = 0.0  # tokens in the cache
        self.stamp = 0  # of the latest prediction of its next completion
        self._ends: list[tuple[float, int]] = []  # step at which a sequence ends, its number
        self._held: dict[int, float] = {}  # tokens that a sequence will hold at its end

    @property
    def rows(self) -> int:
        return len(self._ends)

    @property
    def has_room(self) -> bool:
        return self.rows < MAX_ROWS and self.context + ADMIT_TOKENS <= CACHE_TOKENS

    def admit(self, number: int, prompt: int, tokens: float) -> None:
        heapq.heappush(self._ends, (self.steps + tokens, number))
        self._held[number] = prompt + tokens
        self.context += prompt

    def run_until(self, time: float) -> None:
        """Decode up to this time; a pause may have put the clock beyond it already."""
        if time <= self.clock:
            return
        if self._ends:
            per_step, growth = self._rates()
            elapsed = time - self.clock
            steps = (math.sqrt(per_step**2 + 2 * growth * elapsed) - per_step) / growth
            self._advance(min(steps, self._ends[0][0] - self.steps))
        self.clock = time

    def pause(self, seconds: float, *, recompute: bool) -> None:
        """New weights: nothing is decoded for so long; with `recompute` the cache is made again."""
        self.clock += seconds + (self._costs.recompute * self.context if recompute else 0.0)

    def next_completion(self) -> float:
        per_step, growth = self._rates()
        steps = self._ends[0][0] - self.steps
        return self.clock + steps * (per_step + growth * steps / 2)

    def complete(self) -> int:
        """Number of the sequence that ends now."""
        end, number = heapq.heappop(self._ends)
        self.context += (end - self.steps) * (self.rows + 1) - self._held.pop(number)
        self.steps = end
        return number

    def _rates(self) -> tuple[float, float]:
        """Seconds of the next step, and by how much each further one takes longer."""
        costs, rows = self._costs, len(self._ends)
        return costs.step + costs.row * rows + costs.context * self.context, costs.context * rows

    def _advance(self, steps: float) -> None:
        self.steps += steps
        self.context += steps * self.rows


class Engines:
    """Several engines and one queue: a sequence goes to the engine with the fewest, as soon as one has room."""

    def __init__(self, costs: Costs, count: int, prompt: int) -> None:
        self._costs, self._prompt = costs, prompt
        self._engines = [Engine(costs) for _ in range(count)]
        self._loads = [(0, index) for index in range(count)]
        self._predictions: list[tuple[float, int, int]] = []  # time, engine, its stamp
        self.waiting: deque[tuple[int, float]] = deque()  # numbers and tokens

    def fill(self, now: float) -> None:
        """Admit what waits."""
        if not self.waiting:
            return
        changed: set[int] = set()
        while self.waiting and (index := self._least_loaded(now)) is not None:
            engine = self._engines[index]
            engine.run_until(now)
            engine.admit(*self._numbered())
            heapq.heappush(self._loads, (engine.rows, index))
            changed.add(index)
        for index in changed:
            self._predict(index)

    def _numbered(self) -> tuple[int, int, float]:
        number, tokens = self.waiting.popleft()
        return number, self._prompt, tokens

    def _least_loaded(self, now: float) -> int | None:
        while self._loads:
            rows, index = self._loads[0]
            if rows == self._engines[index].rows:
                if not self._engines[index].has_room:
                    return None
                heapq.heappop(self._loads)
                return index
            heapq.heappop(self._loads)  # an engine is listed again whenever its number of rows changes
        return None

    def interrupt(self, now: float, *, recompute: bool) -> None:
        for index, engine in enumerate(self._engines):
            engine.run_until(now)
            engine.pause(self._costs.publish, recompute=recompute)
            self._predict(index)

    def _predict(self, index: int) -> None:
        engine = self._engines[index]
        engine.stamp += 1
        if engine.rows:
            heapq.heappush(self._predictions, (engine.next_completion(), index, engine.stamp))

    @property
    def next_time(self) -> float:
        """Of the next completion; infinite where nothing is decoded."""
        while self._predictions and self._predictions[0][2] != self._engines[self._predictions[0][1]].stamp:
            heapq.heappop(self._predictions)
        return self._predictions[0][0] if self._predictions else math.inf

    def complete_next(self) -> int:
        """Go on to the completion at `next_time`; returns its number."""
        time, index, _ = self._predictions[0]  # `next_time` has removed outdated ones
        engine = self._engines[index]
        engine.run_until(time)
        number = engine.complete()
        heapq.heappush(self._loads, (engine.rows, index))
        self._predict(index)
        return number

    def drain(self) -> Iterator[tuple[float, int]]:
        """(time, number) of every completion until nothing is left."""
        self.fill(0.0)
        while (time := self.next_time) < math.inf:
            yield time, self.complete_next()
            self.fill(time)
