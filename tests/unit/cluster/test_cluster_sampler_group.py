"""A group samples everything once when samplers die, and only with verified weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from deepscaler.cluster.assignment import Assignment, FixedAssignment, LengthAwareAssignment
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.types import FinishReason, Request, Rollout, RunError, SamplingParams
from fake_remotes import FakeEngine, Handle, Process, rollout

PARAMS = SamplingParams(max_completion_tokens=100)
ASSIGNMENTS = [FixedAssignment, LengthAwareAssignment]


def requests(count: int = 6, size: int = 4) -> list[Request]:
    return [Request(f"p{i}", np.arange(5, dtype=np.int32), size, 3 * i) for i in range(count)]


class Started:
    """The processes of one member, in order: each start takes the next."""

    def __init__(self, name: str, *processes: Process, most_restarts: int = 3) -> None:
        self.processes, self.reports = list(processes), []
        self.used: list[Process] = []
        self.remote = SupervisedRemote(name, self._start, most_restarts=most_restarts, report=self.reports.append)

    def _start(self) -> Process:
        self.used.append(self.processes.pop(0) if self.processes else Process())
        return self.used[-1]


def group(
    *members: Started, own: FakeEngine | None = None, kind: Callable[[], Assignment] = FixedAssignment
) -> SamplerGroup:
    made = SamplerGroup(own, [m.remote for m in members], assignment=kind())
    made.load_weights(Handle(1))
    return made


def sample(sampler: SamplerGroup, asked: list[Request] | None = None) -> list[Rollout]:
    """What it yields, each completion once and none left out."""
    asked = requests() if asked is None else asked
    rollouts = list(sampler.generate(asked, PARAMS))
    wanted = {(r.problem_id, i) for r in asked for i in range(r.first_sample_index, r.first_sample_index + 4)}
    assert Counter((r.problem_id, r.sample_index) for r in rollouts) == dict.fromkeys(wanted, 1)
    return rollouts


@pytest.mark.parametrize("kind", ASSIGNMENTS)
@pytest.mark.parametrize("own", [FakeEngine, lambda: None])
def test_everything_is_sampled_once(kind, own):
    sampler = group(Started("a"), Started("b"), own=own(), kind=kind)
    for _ in range(3):
        assert {r.policy_version for r in sample(sampler)} == {1}


@pytest.mark.parametrize("kind", ASSIGNMENTS)
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_sampler_that_dies_is_replaced_and_nothing_is_lost(kind, after):
    one, other = Started("a", Process(dies_after=after)), Started("b")
    sampler = group(one, other, own=FakeEngine(), kind=kind)
    assert {r.policy_version for r in sample(sampler)} == {1}, "the new process has the published weights"
    assert [len(one.used), len(other.used)] == [2, 1]
    assert one.reports == ["a was started again: it died; its last line"]
    sample(sampler)


def test_an_exact_assignment_samples_a_lost_share_again_as_a_whole():
    member = Started("a", Process(dies_after=5))
    sample(group(member, own=FakeEngine()))
    first, second = member.used
    assert second.shares == first.shares
    assert second.sampled[:5] == first.sampled


def test_by_length_only_the_rest_is_sampled_again():
    one, other = Started("a", Process(dies_after=5), most_restarts=0), Started("b")
    sample(group(one, other, kind=LengthAwareAssignment))
    assert not {*one.used[0].sampled} & {*other.used[0].sampled}


@pytest.mark.parametrize("kind", ASSIGNMENTS)
def test_the_group_goes_on_without_one_that_is_lost_too_often(kind):
    weak = Started("weak", *[Process(dies_after=0) for _ in range(9)], most_restarts=2)
    sampler = group(weak, Started("b"), kind=kind)
    sample(sampler)
    assert len(weak.used) == 3
    sample(sampler)
    sampler.load_weights(Handle(2))
    assert len(weak.used) == 3, "and is not asked again"


def test_the_run_ends_with_the_last_lines_where_nobody_is_left():
    sampler = group(Started("a", Process(dies_after=2), most_restarts=0))
    with pytest.raises(RunError, match="22 completions cannot be sampled: no sampler is left: it died; its last"):
        list(sampler.generate(requests(), PARAMS))


def test_losses_are_counted_from_the_last_finished_share():
    member = Started("a", *[Process(dies_after=30) for _ in range(9)], most_restarts=1)
    sampler = group(member)
    for _ in range(4):
        sample(sampler)
    assert len(member.used) > 2


@pytest.mark.parametrize("process", [Process(wrong=True), Process(dies_after=0)])
def test_nobody_samples_with_other_weights(process):
    member = Started("a", process, Process(wrong=True))
    with pytest.raises(RunError, match="a reports weights of version 1"):
        sample(group(member, own=FakeEngine()))


def test_a_process_that_was_replaced_between_generations_loads_the_weights_first():
    member = Started("a", Process(dies_in="logprobs"))
    sampler = group(member)
    member.remote.call("logprobs").result()
    assert [p.version for p in member.used] == [1, 0]
    assert {r.policy_version for r in sample(sampler)} == {1}


def test_a_process_that_dies_while_it_loads_weights_is_replaced():
    member = Started("a", Process(dies_in="load_weights"))
    assert {r.policy_version for r in sample(group(member))} == {1}


def test_an_engine_that_stops_early_is_an_error():
    class Lazy(FakeEngine):
        def generate(self, requests, params):
            return iter(())

    with pytest.raises(RunError, match="cannot be sampled: the sampler ended early"):
        list(group(own=Lazy()).generate(requests(), PARAMS))


def test_an_abandoned_generation_ends_every_stream():
    members = [Started("a"), Started("b")]
    sampler = group(*members, own=FakeEngine())
    next(iter(sampler.generate(requests(), PARAMS)))
    sample(sampler)


def test_one_sampler_gets_the_requests_as_they_are():
    asked = requests()
    assert LengthAwareAssignment().divide(asked, 1, 100) == ([asked], [])


def test_shares_are_equal_in_expected_length():
    assignment = LengthAwareAssignment()
    for sampled in group(own=FakeEngine(), kind=lambda: assignment).generate(requests(12), PARAMS):
        assert sampled.num_tokens
    shares, rest = assignment.divide(requests(12), 3, 1000)
    expected = [sum(r.num_samples * (1 + 10 * int(r.problem_id[1:])) for r in share) for share in shares]
    assert max(expected) < 1.15 * min(expected)
    longest_left = max(int(r.problem_id[1:]) for share in rest for r in share)
    assert longest_left <= min(int(r.problem_id[1:]) for share in shares for r in share), "the short ones are kept back"


def test_a_single_group_is_split_for_all_samplers():
    shares, rest = LengthAwareAssignment().divide(requests(1, size=16), 4, 100)
    assert all(shares)
    assert sum(r.num_samples for share in [*shares, *rest] for r in share) == 16


@pytest.mark.parametrize("kind", ASSIGNMENTS)
@pytest.mark.parametrize("dies_after", [None, 2])
def test_an_interrupted_generation_yields_everything_as_it_is_and_another_one_goes_on(kind, dies_after):
    sampler = group(Started("a", Process(dies_after=dies_after)), Started("b"), kind=kind)
    rollouts = sampler.generate(requests(), PARAMS)
    found = [next(rollouts)]
    sampler.interrupt()
    found += rollouts
    assert Counter((r.problem_id, r.sample_index) for r in found) == dict.fromkeys(
        ((r.problem_id, i) for r in requests() for i in range(r.first_sample_index, r.first_sample_index + 4)), 1
    )
    interrupted = [r for r in found if r.finish_reason is FinishReason.CANCELLED]
    assert interrupted and any(r.num_tokens for r in interrupted) and len(interrupted) < len(found)
    rest = [Request(r.problem_id, r.prompt_ids, 1, r.sample_index, begun=r) for r in interrupted]
    again = list(sampler.generate(rest, PARAMS))
    assert {r.finish_reason for r in again} == {FinishReason.STOP}
    assert {(r.problem_id, r.sample_index) for r in again} == {(r.problem_id, r.sample_index) for r in interrupted}


def test_requests_that_were_begun_are_never_joined() -> None:
    """Each carries its own tokens, and a lost sampler's rest is made of ranges of sample indices."""
    one, prompt = Started("a", Process(dies_after=0), most_restarts=0), np.arange(5, dtype=np.int32)
    asked = [Request("p1", prompt, 1, i, begun=rollout(Request("p1", prompt, 1), i, 1)) for i in range(4)]
    other = Started("b")
    list(group(one, other, kind=LengthAwareAssignment).generate(asked, PARAMS))
    shares = [request for share in other.used[0].shares for request in share]
    assert all(r.num_samples == 1 and r.begun is not None for r in shares)
    assert sorted(r.begun.sample_index for r in shares if r.begun is not None) == [0, 1, 2, 3]


def test_every_sampler_of_a_group_is_asked_by_itself_and_one_that_is_lost_is_started_again() -> None:
    lost = Started("b", Process(dies_after=0), Process())
    sampler = group(Started("a"), lost, Started("c"), own=FakeEngine())
    asked = Request("p0", np.arange(5, dtype=np.int32), 1)
    named = sampler.generate_on_each(asked, PARAMS)
    assert [name for name, _ in named] == ["the engine", "a", "c"]
    assert {(r.problem_id, r.policy_version) for _, r in named} == {("p0", 1)}
    assert len(lost.used) == 2 and len(sample(sampler)) == 24
    assert [name for name, _ in sampler.generate_on_each(asked, PARAMS)] == ["the engine", "a", "b", "c"]


def test_a_new_process_is_no_canary_before_it_has_the_weights() -> None:
    waiting = Started("b", Process(dies_after=0), Process())
    sampler = group(Started("a"), waiting)
    asked = Request("p0", np.arange(5, dtype=np.int32), 1)
    for _ in range(2):  # lost in the first; its successor was told of no weights in the second
        assert [name for name, _ in sampler.generate_on_each(asked, PARAMS)] == ["a"]
    assert waiting.used[1].sampled == []
