"""One evaluation from missing samples to stored, graded ones; what was stored before is not generated again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from deepscaler.evaluation.completions import Completion, Key, Plan, Source
from deepscaler.evaluation.estimators import Estimate, combine_sets, estimate
from deepscaler.evaluation.grading import GradingLine, ManyGrader
from deepscaler.evaluation.store import SampleStore
from deepscaler.types import Verdict

UPDATES = 50  # the running estimate is computed so often at most: its interval costs milliseconds


@dataclass(slots=True)
class State:
    """Where an evaluation stands, for whoever shows it. `num_before`: samples found at the start."""

    num_completions: int
    num_before: int
    num_done: int = 0
    num_graded: int = 0
    num_tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    running: Estimate | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def per_second(self) -> float:
        return (self.num_done - self.num_before) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        return (self.num_completions - self.num_done) / max(self.per_second, 1e-9)


class Tally:
    """Rewards so far, per problem: enough for the running Pass@1."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sums: dict[tuple[str, str], list[float]] = {}

    def add(self, key: Key, verdict: Verdict) -> None:
        pair = self._sums.setdefault((key.benchmark, key.problem_id), [0.0, 0.0])
        pair[0] += verdict.reward
        pair[1] += 1

    def running(self) -> Estimate | None:
        """Over the problems that have a sample, each benchmark with the same weight; None before the first."""
        means: dict[str, list[list[float]]] = {}
        for (name, _), (total, count) in self._sums.items():
            means.setdefault(name, []).append([total / count])
        return combine_sets([estimate(np.array(rows)) for rows in means.values()]) if means else None


def run_session(
    plan: Plan,
    source: Source,
    grader: ManyGrader,
    store: SampleStore,
    *,
    thinking_prefilled: bool,
    show: Callable[[State], None],
) -> State:
    """Generate what is missing, store every sample as it arrives, grade beside it.

    An error or Ctrl-C leaves everything that arrived in the store, graded as far as the grader had come.
    """
    missing = [key for key in plan.samples() if key not in store]
    tally = Tally(plan)
    for key, verdict in store.verdicts():
        tally.add(key, verdict)
    state = State(plan.num_completions, num_before=len(store), num_done=len(store))
    every = max(1, plan.num_completions // UPDATES)
    line = GradingLine(grader, thinking_prefilled=thinking_prefilled)

    def take(verdicts: Iterable[tuple[Key, Verdict]]) -> None:
        for key, verdict in verdicts:
            store.add_verdict(key, verdict)
            tally.add(key, verdict)
            state.num_graded += 1
            if state.num_graded % every == 0:
                state.running = tally.running()
            show(state)

    def arrived(completion: Completion) -> None:
        line.submit(completion, plan.problem(completion.key))
        take(line.ready())

    try:
        for completion in store.ungraded():
            arrived(completion)
        completions = source.complete(plan, missing) if missing else iter(())
        for completion in completions:
            store.add(completion)
            state.num_done += 1
            state.num_tokens += completion.num_tokens or 0
            arrived(completion)
            show(state)
        take(line.finish())
    finally:
        take(line.ready())
        line.close()
        store.sync()
    return state
