"""Sampling ahead on fakes: it overlaps with updates, keeps its lag, loses and repeats nothing, ends with its faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.rollout import ClusterSection
from deepscaler.loop.ahead import Ahead
from deepscaler.loop.loop import train
from deepscaler.loop.resume import restore
from deepscaler.loop.run import Run
from deepscaler.loop.step_batch import INDICES_PER_STEP
from deepscaler.observability.run_directory import read_metrics, read_rollouts
from deepscaler.training.checkpoint import newest_checkpoint
from deepscaler.types import (
    FinishReason,
    GradeItem,
    Request,
    Rollout,
    RunError,
    SamplingParams,
    TrainSample,
    UpdateStats,
    Verdict,
)
from fake_workers import FakeGrader, FakeLearner, FakeSampler, fake_run, recipe

LIMIT_S = 20.0  # of every wait for the other thread: a test that fails does not hang


@contextmanager
def opened(*arguments: Any, **named: Any) -> Iterator[Run]:
    """A run that samples ahead; its thread has ended afterwards."""
    run = fake_run(*arguments, **named)
    assert isinstance(run.experience, Ahead)
    try:
        yield run
    finally:
        run.experience.close()
    names = {thread.name for thread in threading.enumerate()}
    assert "sampling" not in names


def steps(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "step"]


def rollouts(path: Path, step: int) -> list[dict[str, Any]]:
    return read_rollouts(path / "rollouts" / f"step-{step:06d}.parquet").to_pylist()


def problems(path: Path, num_steps: int) -> list[list[str]]:
    """Of every step, in order."""
    rows = [rollouts(path, step) for step in range(1, num_steps + 1)]
    return [list(dict.fromkeys(row["problem_id"] for row in of_step)) for of_step in rows]


def awaited(event: threading.Event, what: str) -> None:
    if not event.wait(LIMIT_S):
        raise RunError(f"{what} did not happen")


@dataclass
class InterruptibleFake(FakeSampler):
    """An interrupted completion has half of its tokens, and goes on with those that it would have had anyway."""

    interrupted: threading.Event = field(default_factory=threading.Event)

    def interrupt(self) -> None:
        self.interrupted.set()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        self.interrupted.clear()
        for request in requests:
            for whole in super().generate([request], params):
                yield self.as_far_as_it_comes(joined(request.begun, whole))

    def as_far_as_it_comes(self, whole: Rollout) -> Rollout:
        return half(whole) if self.interrupted.is_set() else whole


def joined(begun: Rollout | None, whole: Rollout) -> Rollout:
    if begun is None:
        return whole
    ids = np.concatenate([begun.completion_ids, whole.completion_ids[begun.num_tokens :]])
    logprobs = np.concatenate([begun.rollout_logprobs, whole.rollout_logprobs[begun.num_tokens :]])
    return replace(whole, completion_ids=ids, rollout_logprobs=logprobs)


def half(whole: Rollout) -> Rollout:
    count = whole.num_tokens // 2
    return replace(
        whole,
        completion_ids=whole.completion_ids[:count],
        rollout_logprobs=whole.rollout_logprobs[:count],
        finish_reason=FinishReason.CANCELLED,
    )


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_every_step_has_its_problems_in_their_order_and_no_token_is_too_old(lag: int, tmp_path: Path) -> None:
    train(fake_run(tmp_path / "in turns", recipe(num_steps=6)))
    with opened(tmp_path / "ahead", recipe(num_steps=6, max_policy_lag=lag), InterruptibleFake()) as run:
        assert train(run) == 6
    assert problems(tmp_path / "ahead", 6) == problems(tmp_path / "in turns", 6)
    lags = [row["policy_lag"] for row in steps(tmp_path / "ahead")]
    assert max(lags) <= lag and lags[0] == 0
    assert run.weights.version == 6
    for step in range(1, 7):
        rows = rollouts(tmp_path / "ahead", step)
        assert sorted(row["sample_index"] for row in rows) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_with_a_lag_of_one_the_next_step_is_sampled_with_the_weights_before_the_update(tmp_path: Path) -> None:
    with opened(tmp_path, recipe(num_steps=5, max_policy_lag=1)) as run:
        train(run)
    # The third step begins another stage, so what was sampled ahead of it is forgotten.
    assert [row["policy_lag"] for row in steps(tmp_path)] == [0, 1, 0, 1, 1]
    versions = [{row["policy_version"] for row in rollouts(tmp_path, step)} for step in range(1, 6)]
    assert versions == [{0}, {0}, {2}, {2}, {3}]


def test_a_new_stage_samples_under_its_own_budget(tmp_path: Path) -> None:
    with opened(tmp_path, recipe(num_steps=4, max_policy_lag=1)) as run:
        train(run)
    assert [max(row["num_tokens"] for row in rollouts(tmp_path, step)) for step in range(1, 5)] == [6, 6, 10, 10]


@dataclass
class Meeting:
    update_began: threading.Event = field(default_factory=threading.Event)
    next_sampled: threading.Event = field(default_factory=threading.Event)


@dataclass
class MeetingSampler(FakeSampler):
    """Samples the second step only while the first one is updated."""

    meeting: Meeting = field(default_factory=Meeting)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        for number, rollout in enumerate(super().generate(requests, params)):
            if number == 12:  # the first of the second step
                awaited(self.meeting.update_began, "the update of the first step")
            yield rollout
        self.meeting.next_sampled.set()


@dataclass
class MeetingLearner(FakeLearner):
    """Ends the first update only when the second step is sampled."""

    meeting: Meeting = field(default_factory=Meeting)

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        self.meeting.update_began.set()
        awaited(self.meeting.next_sampled, "sampling during the update")
        return super().update(mini_batches)


def test_sampling_and_updating_really_overlap(tmp_path: Path) -> None:
    meeting = Meeting()
    sampler, learner = MeetingSampler(meeting=meeting), MeetingLearner(meeting=meeting)
    with opened(tmp_path, recipe(num_steps=2, max_policy_lag=1), sampler, learner) as run:
        assert train(run) == 2


@dataclass
class SlowGroup(FakeSampler):
    """The last group goes on only when the first one was graded."""

    graded: threading.Event = field(default_factory=threading.Event)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        for number, rollout in enumerate(super().generate(requests, params)):
            if number == 11:
                awaited(self.graded, "the grading of the first group")
            yield rollout


def test_a_group_is_graded_while_others_are_sampled(tmp_path: Path) -> None:
    sampler = SlowGroup()

    class Grader(FakeGrader):
        def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
            sampler.graded.set()
            return super().grade(items)

    with opened(tmp_path, recipe(num_steps=1, max_policy_lag=1), sampler, grader=Grader()) as run:
        assert train(run) == 1


@dataclass
class Stubborn(InterruptibleFake):
    """The last completion of the second step does not end before it is interrupted."""

    seen: list[Request] = field(default_factory=list)

    def as_far_as_it_comes(self, whole: Rollout) -> Rollout:
        if whole.sample_index == 2 * INDICES_PER_STEP + 3 and self.version == 0:
            awaited(self.interrupted, "the interruption")
        return super().as_far_as_it_comes(whole)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        self.seen += [request for request in requests if request.begun is not None]
        yield from super().generate(requests, params)


def test_an_interrupted_completion_keeps_its_tokens_and_goes_on_with_the_new_weights(tmp_path: Path) -> None:
    sampler = Stubborn()
    with opened(tmp_path, recipe(num_steps=2, max_policy_lag=2), sampler) as run:
        learner = run.cluster.learner
        assert isinstance(learner, FakeLearner)
        train(run)
    rows = rollouts(tmp_path, 2)
    changed = [{"first_token": 3, "policy_version": 1}]
    assert rows[3]["later_versions"] == changed  # the one that did not end
    for row in rows:
        assert row["later_versions"] in ([], changed)
        assert (row["policy_version"], row["finish_reason"], row["num_tokens"]) == (0, "stop", 6)
    assert steps(tmp_path)[1]["policy_lag"] == 1
    begun = {request.begun.completion_ids.tobytes() for request in sampler.seen if request.begun is not None}
    trained = {sample.completion_ids[:3].tobytes() for sample in learner.updates[1][0]}
    assert begun and begun <= trained


def test_the_version_of_every_token_is_known() -> None:
    ids, prompt = np.arange(6, dtype=np.int32), np.array([1], np.int32)
    logprobs = np.zeros(6, np.float32)
    rollout = Rollout("p", 0, prompt, ids, logprobs, FinishReason.STOP, 3, ((2, 4), (5, 7)))
    assert rollout.token_versions.tolist() == [3, 3, 4, 4, 4, 7]


def test_a_sampler_that_cannot_be_interrupted_is_refused_from_a_lag_of_two_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rollout.max_policy_lag = 2 .* set rollout.max_policy_lag = 1"):
        fake_run(tmp_path, recipe(max_policy_lag=2))


def test_groups_without_signal_are_replaced_and_the_order_of_problems_has_no_gap(tmp_path: Path) -> None:
    algorithm = AlgorithmSection(dynamic_sampling=True)
    path = tmp_path / "run"
    with opened(path, recipe(num_steps=4, max_policy_lag=1, algorithm=algorithm)) as run:
        train(run)
    drawn = [problem for step in problems_drawn(path, 4) for problem in step]
    assert drawn == [p.id for p in fake_run(tmp_path / "order", recipe()).stream.take(len(drawn))]
    assert run.stream.position == len(drawn)
    assert sum(row["num_refills"] for row in steps(path)) > 0


@pytest.mark.parametrize("lag", [0, 1])
def test_groups_outside_the_band_of_accuracy_are_replaced(tmp_path: Path, lag: int) -> None:
    path, (low, high) = tmp_path / "run", (0.25, 0.5)
    chosen = recipe(num_steps=3, max_policy_lag=lag, algorithm=AlgorithmSection(accuracy_band=(low, high)))
    if lag:
        with opened(path, chosen) as run:
            train(run)
    else:
        run = fake_run(path, chosen)
        train(run)
    assert sum(row["num_refills"] for row in steps(path)) > 0
    for step, row in enumerate(steps(path), start=1):
        rates = [sum(r["reward"] for r in group) / 4 for group in groups_drawn(path, step)]
        assert sum(low <= rate <= high for rate in rates) == row["num_trained_groups"]
        if row["num_refills"] < chosen.algorithm.max_refills:
            assert row["num_trained_groups"] == chosen.rollout.prompts_per_step


def groups_drawn(path: Path, step: int) -> list[list[dict[str, Any]]]:
    drawn = rollouts(path, step)
    return [drawn[start : start + 4] for start in range(0, len(drawn), 4)]


def problems_drawn(path: Path, num_steps: int) -> list[list[str]]:
    """One per group, so that a problem drawn twice in a step is there twice."""
    rows = [rollouts(path, step)[::4] for step in range(1, num_steps + 1)]
    return [[row["problem_id"] for row in of_step] for of_step in rows]


def test_a_resumed_run_draws_again_what_was_under_way_and_loses_no_problem(tmp_path: Path) -> None:
    train(fake_run(tmp_path / "whole", recipe(num_steps=6)))
    path = tmp_path / "parts"
    with opened(path, recipe(num_steps=3, max_policy_lag=2), InterruptibleFake()) as run:
        train(run)
    with opened(path, recipe(num_steps=6, max_policy_lag=2), InterruptibleFake()) as run:
        found = newest_checkpoint(path / "checkpoints")
        assert found is not None and found.state["step"] == 3
        restore(run, found)
        assert train(run) == 6
    assert problems(path, 6) == problems(tmp_path / "whole", 6)


@dataclass
class Faulty(FakeSampler):
    """Fails in the second step."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        for number, rollout in enumerate(super().generate(requests, params)):
            if number == 14:
                raise RunError("the engine died")
            yield rollout


def test_a_fault_of_the_sampler_ends_the_run_with_it(tmp_path: Path) -> None:
    with opened(tmp_path, recipe(max_policy_lag=1), Faulty()) as run, pytest.raises(RunError, match="the engine died"):
        train(run)
    events = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "event"]
    assert (events[-1]["event"], events[-1]["reason"]) == ("stop", "the engine died")


def test_a_fault_of_the_grader_ends_the_run_with_it(tmp_path: Path) -> None:
    class Broken(FakeGrader):
        def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
            raise ValueError("the grader pool is closed")

    made = recipe(max_policy_lag=1)
    with opened(tmp_path, made, grader=Broken()) as run, pytest.raises(ValueError, match="pool is closed"):
        train(run)


def test_an_interrupted_update_ends_the_thread(tmp_path: Path) -> None:
    class Pressed(FakeLearner):
        def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
            raise KeyboardInterrupt

    made = recipe(max_policy_lag=1)
    with pytest.raises(KeyboardInterrupt), opened(tmp_path, made, learner=Pressed()) as run:
        train(run)


def test_a_sampler_that_reports_older_weights_than_the_lag_allows_stops_the_run(tmp_path: Path) -> None:
    class Late(FakeSampler):
        def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
            for rollout in super().generate(requests, params):
                yield replace(rollout, policy_version=0)

    made = recipe(num_steps=4, max_policy_lag=1)
    with opened(tmp_path, made, Late()) as run, pytest.raises(RunError, match="step 3 would train on weights 2 ver"):
        train(run)


def test_silence_is_an_error_that_says_what_was_waited_for(tmp_path: Path) -> None:
    held = threading.Event()

    class Silent(InterruptibleFake):
        def as_far_as_it_comes(self, whole: Rollout) -> Rollout:
            awaited(held, "the end of the test")
            return super().as_far_as_it_comes(whole)

    made = recipe(max_policy_lag=1, cluster=ClusterSection().model_copy(update={"stall_s": 0.2}))
    with opened(tmp_path, made, Silent()) as run:
        try:
            with pytest.raises(RunError, match="waited for the completions of step 1"):
                train(run)
        finally:
            held.set()
