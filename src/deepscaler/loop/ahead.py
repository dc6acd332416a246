"""Experience that is sampled and graded while the learner updates (`rollout.max_policy_lag` above 0).

Step k updates version k - 1. When it is collected, the problems of the steps up to k + max_policy_lag are drawn and
sampled, not more, so no token can be older than the lag allows. With a lag of 1 new weights are loaded when the
completions of the next step have ended (one step off); from 2 on at once, and completions under way go on with them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.data.requests import Encode
from deepscaler.data.stream import ProblemStream
from deepscaler.loop.experience import Collected, Reward, Step, params_of, trained_groups
from deepscaler.loop.sampling_thread import Round, SamplerInTurn, SamplingThread
from deepscaler.loop.step_batch import SampledGroup, StepBatch
from deepscaler.observability import liveness
from deepscaler.protocols import Grader, InterruptibleSampler, Sampler
from deepscaler.rewards.scoring import scored
from deepscaler.types import FinishReason, GradeItem, Group, Rollout, RunError, ScoredGroup


class Ahead:
    """Samples in a thread of its own; a group is graded as soon as its last completion is there.

    The run's stream moves when a step is collected, and problems are drawn ahead from a fork of it: a checkpoint holds
    the position behind what was trained on, so what was under way is drawn again. A new stage forgets it as well.

    num_steps: of the run; nothing is sampled for later ones. limit_s: longest wait without any progress. The other
    arguments are those of `OnPolicy`. Raises ValueError for a lag that needs interruptions with a sampler that cannot
    be interrupted.
    """

    def __init__(
        self,
        rollout: RolloutSection,
        algorithm: AlgorithmSection,
        seed: int,
        stream: ProblemStream,
        sampler: Sampler,
        grader: Grader,
        encode: Encode,
        to_items: Callable[[Sequence[Group]], list[GradeItem]],
        on_rollout: Callable[[Rollout], object] = lambda rollout: None,
        reward: Reward = list,
        *,
        num_steps: int,
        limit_s: float = 3600.0,
    ) -> None:
        self._rollout, self._algorithm, self._seed = rollout, algorithm, seed
        self._grader, self._encode, self._to_items = grader, encode, to_items
        self._on_rollout, self._reward, self._num_steps = on_rollout, reward, num_steps
        self._stream, self._drawn = stream, stream.fork()
        self._stage: StageSection | None = None
        self._first = self._last = 0  # steps between which problems may be drawn
        self._batches: deque[StepBatch] = deque()
        self._under_way: dict[tuple[str, int], tuple[StepBatch, SampledGroup]] = {}  # by problem and sample index
        self._arrived: deque[Rollout] = deque()  # not shown yet
        self._changed = threading.Condition()
        self._grading = ThreadPoolExecutor(1, thread_name_prefix="grading-ahead")
        at_boundary = None if _interrupts(rollout.max_policy_lag, sampler) else self._at_boundary
        self._thread = SamplingThread(sampler, self._changed, self._next_round, self._deliver, at_boundary, limit_s)
        self.sampler = SamplerInTurn(sampler, self._thread)

    def collect(self, step: Step) -> Collected:
        """The groups of this step. Raises what ended the sampling, and RunError for rollouts older than allowed."""
        if step.stage != self._stage or not self._batches or self._batches[0].number != step.number:
            self._restart(step)
        with self._changed:
            self._last = min(step.number + self._rollout.max_policy_lag, self._num_steps)
            self._draw()
            batch = self._batches[0]
        with step.clock.phase("sample"):
            self._thread.wait(lambda: batch.is_complete, f"the completions of step {step.number}", self._show)
        step.clock.add("sampler_busy", self._thread.take_busy_seconds())
        return self._take(batch)

    def close(self) -> None:
        self._thread.close()
        self._grading.shutdown(wait=False, cancel_futures=True)

    def _restart(self, step: Step) -> None:
        """Forget what was sampled ahead, if anything was, and draw from the run's stream."""
        with self._thread.turn("begin another stage"), self._changed:
            self._batches.clear()
            self._under_way.clear()
            self._stage, self._drawn = step.stage, self._stream.fork()
            self._first = step.number

    def _take(self, batch: StepBatch) -> Collected:
        with self._changed:
            self._batches.popleft()
        drawn = self._stream.take(len(batch.groups))
        assert [p.id for p in drawn] == [group.query.name for group in batch.groups]
        sampled = batch.scored
        assert sampled is not None
        lag = batch.number - 1 - min(r.policy_version for g in sampled for r in g.group.rollouts)
        if lag > self._rollout.max_policy_lag:
            raise RunError(
                f"step {batch.number} would train on weights {lag} versions old, rollout.max_policy_lag allows "
                f"{self._rollout.max_policy_lag}; this is a fault of the program, please report it"
            )
        return Collected(sampled, self._trained(sampled), batch.num_refills)

    def _trained(self, sampled: list[ScoredGroup]) -> list[ScoredGroup]:
        return trained_groups(sampled, self._algorithm)

    def _draw(self) -> None:
        """Draw what may be drawn; called with the lock held.

        Groups that replace others are drawn behind their step, so where they are replaced the next step waits for them.
        """
        refills = self._algorithm.refills
        number = self._batches[-1].number if self._batches else self._first - 1
        while number < self._last and not (refills and self._batches and not self._batches[-1].is_complete):
            number += 1
            self._batches.append(StepBatch(number))
            self._add(self._batches[-1], self._rollout.prompts_per_step)
        self._changed.notify_all()

    def _add(self, batch: StepBatch, count: int) -> None:
        assert self._stage is not None
        for group in batch.add(self._drawn.take(count), self._stage.group_size or self._rollout.group_size):
            for index in group.query.indices:
                self._under_way[group.query.name, index] = batch, group

    def _at_boundary(self) -> bool:
        """All that was drawn is sampled and graded, so that which version sampled what does not depend on the time."""
        return all(batch.is_complete for batch in self._batches)

    def _next_round(self) -> Round | None:
        """All that is not sampled, the oldest step first."""
        groups = [group for batch in self._batches for group in batch.groups if not group.is_sampled]
        if not groups or self._stage is None:
            return None
        params = params_of(self._rollout, self._stage, seed=self._seed, step=0)  # steps differ in the sample indices
        return Round([request for group in groups for request in group.requests(self._encode)], params)

    def _deliver(self, rollout: Rollout) -> None:
        with self._changed:
            batch, group = self._under_way[rollout.problem_id, rollout.sample_index]
            group.take(rollout)
            if rollout.finish_reason is not FinishReason.CANCELLED:
                del self._under_way[rollout.problem_id, rollout.sample_index]
                self._arrived.append(rollout)
        if group.is_sampled:
            self._grading.submit(self._grade, batch, group)

    def _grade(self, batch: StepBatch, group: SampledGroup) -> None:
        try:
            whole = [group.whole]
            items = self._to_items(whole)
            (found,) = self._reward(scored(whole, items, self._grader.grade(items)))
        except Exception as error:  # raised in the loop's thread, at its next wait
            self._thread.fail(error)
            return
        with self._changed:
            liveness.beat()
            group.scored = found
            self._finish(batch)

    def _finish(self, batch: StepBatch) -> None:
        """Complete a step whose groups are all graded, or draw more for it; called with the lock held."""
        sampled = batch.scored
        if sampled is None or batch not in self._batches:  # or it was forgotten meanwhile
            return
        missing = self._rollout.prompts_per_step - len(self._trained(sampled))
        if self._algorithm.refills and missing > 0 and batch.num_refills < self._algorithm.max_refills:
            batch.num_refills += 1
            self._add(batch, missing)
        else:
            batch.is_complete = True
            self._draw()
        self._changed.notify_all()

    def _show(self) -> None:
        """In the loop's thread, which alone writes to the terminal."""
        while self._arrived:
            self._on_rollout(self._arrived.popleft())


def _interrupts(lag: int, sampler: Sampler) -> bool:
    if lag > 1 and not isinstance(sampler, InterruptibleSampler):
        raise ValueError(
            f"rollout.max_policy_lag = {lag} continues completions under new weights, which the sampler of this "
            "rollout.engine cannot; set rollout.max_policy_lag = 1, which loads weights between two steps"
        )
    return lag > 1
