"""One evaluation from missing samples to stored, graded ones; what was stored before is not generated again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from deepscaler.evaluation.completions import Completion, Key, Plan, Source
from deepscaler.evaluation.estimators import Estimate, combine_sets, estimate
from deepscaler.evaluation.grading import Grader, GradingPipeline
from deepscaler.evaluation.store import SampleStore
from deepscaler.types import RunError, Verdict

GRADE_ON_S = 10.0  # after an error or Ctrl-C, for what has arrived: the partial result is then more than nothing
MIN_RATED = 20  # new samples that a rate is judged by
UPDATES = 50  # the running estimate is computed so often at most: its interval costs milliseconds


@dataclass(slots=True)
class State:
    """Where an evaluation stands, for whoever shows it.

    num_before: samples found at the start. running: Pass@1 so far, None until every problem has a verdict: before, the
    problems with short answers stand for all, and an interval over them means nothing.
    """

    num_completions: int
    num_before: int
    num_done: int = 0
    num_graded: int = 0
    num_right: int = 0
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
    def seconds_left(self) -> float | None:
        """None before MIN_RATED new samples: the first ones say how long the shortest take."""
        new, left = self.num_done - self.num_before, self.num_completions - self.num_done
        if not left:
            return 0.0
        return left / self.per_second if new >= MIN_RATED else None


class Tally:
    """Rewards so far, per problem: enough for the running Pass@1."""

    def __init__(self, num_problems: int) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}
        self._num_problems, self.num_right = num_problems, 0

    def add(self, key: Key, verdict: Verdict) -> None:
        self.num_right += verdict.reward > 0
        pair = self._sums.setdefault((key.benchmark, key.problem_id), [0.0, 0.0])
        pair[0] += verdict.reward
        pair[1] += 1

    def by_benchmark(self) -> dict[str, tuple[Estimate, int]]:
        """(Pass@1 over the problems that have a sample, number of samples) of each benchmark that has one."""
        means: dict[str, list[list[float]]] = {}
        counts: Counter[str] = Counter()
        for (name, _), (total, count) in self._sums.items():
            means.setdefault(name, []).append([total / count])
            counts[name] += int(count)
        return {name: (estimate(np.array(rows)), counts[name]) for name, rows in means.items()}

    def running(self) -> Estimate | None:
        """Each benchmark with the same weight; None while a problem of the plan has no verdict."""
        if len(self._sums) < self._num_problems:
            return None
        return combine_sets([e for e, _ in self.by_benchmark().values()])


def run_session(
    plan: Plan,
    source: Source | None,
    grader: Grader,
    store: SampleStore,
    *,
    thinking_prefilled: bool,
    show: Callable[[State], None],
) -> State:
    """Generate what is missing, store every sample as it arrives, grade beside it; without source, only grade.

    An error or Ctrl-C leaves everything that arrived in the store, graded as far as the grader had come.
    """
    missing = [key for key in plan.samples() if key not in store]
    tally = Tally(len(plan.problems))
    for key, verdict in store.verdicts():
        tally.add(key, verdict)
    state = State(plan.num_completions, num_before=len(store), num_done=len(store), num_graded=store.num_graded)
    every = max(1, plan.num_completions // UPDATES)
    pipeline = GradingPipeline(grader, thinking_prefilled=thinking_prefilled)

    def take(verdicts: Iterable[tuple[Key, Verdict]]) -> None:
        for key, verdict in verdicts:
            store.add_verdict(key, verdict)
            tally.add(key, verdict)
            state.num_graded += 1
            state.num_right = tally.num_right
            if state.num_graded % every == 0:
                state.running = tally.running()
            show(state)

    def arrived(completion: Completion) -> None:
        pipeline.submit(completion, plan.problem(completion.key))
        take(pipeline.ready())

    try:
        for completion in store.ungraded():
            arrived(completion)
        if source is not None and missing:
            with closing(source.complete(plan, missing)) as completions:
                for completion in completions:
                    store.add(completion)
                    state.num_done += 1
                    state.num_tokens += completion.num_tokens or 0
                    arrived(completion)
                    show(state)
        take(pipeline.finish())
    except (KeyboardInterrupt, RunError):
        take(pipeline.finish_some(GRADE_ON_S))
        raise
    finally:
        pipeline.close()
        store.sync()
    return state
