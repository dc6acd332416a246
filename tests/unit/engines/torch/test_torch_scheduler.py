"""Sequences join and leave a scheduler at any step, and none affects the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import OpenScheduler, Sequence
from deepscaler.types import FinishReason, Request, SamplingParams

PARAMS = SamplingParams(max_completion_tokens=20, temperature=0.9, seed=5)


def sequence(index: int, **changes: Any) -> Sequence:
    prompt = np.random.default_rng(index).integers(2, 40, 4 + index % 5).astype(np.int32)
    return Sequence(Request(f"p{index}", prompt, 1), 0, replace(PARAMS, **changes))


def new_scheduler(model: Any, slots: int) -> OpenScheduler:
    return TorchEngine(model, stop_ids=frozenset({1}), max_active=slots).open_scheduler(60)


def run(scheduler: OpenScheduler) -> list[Sequence]:
    finished = []
    while scheduler.has_unfinished:
        finished += scheduler.step()
    return finished


def alone(model: Any, index: int, **changes: Any) -> list[int]:
    scheduler, one = new_scheduler(model, 1), sequence(index, **changes)
    scheduler.add(one)
    run(scheduler)
    return one.tokens


def test_different_settings_share_a_batch_and_change_nothing(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    settings = [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {"max_completion_tokens": 7}, {}, {"seed": 9}]
    sequences = [sequence(i, **changes) for i, changes in enumerate(settings)]
    scheduler = new_scheduler(model, 4)
    for one in sequences[:3]:
        scheduler.add(one)
    finished = [s for _ in range(5) for s in scheduler.step()]
    for one in sequences[3:]:  # join while the others are half done
        scheduler.add(one)
    finished += run(scheduler)
    assert len(finished) == len(sequences)
    for index, (one, changes) in enumerate(zip(sequences, settings, strict=True)):
        assert one.tokens == alone(model, index, **changes)


def test_a_cancelled_sequence_leaves_at_the_next_step_and_the_others_go_on(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    scheduler, sequences = new_scheduler(model, 2), [sequence(i) for i in range(4)]
    for one in sequences:
        scheduler.add(one)
    early = scheduler.step()
    sequences[0].cancelled = sequences[3].cancelled = True  # one under way, one still waiting
    gone = scheduler.step()
    assert {id(s) for s in (sequences[0], sequences[3])} <= {id(s) for s in [*early, *gone]}
    assert scheduler.finish_reason(sequences[3]) is FinishReason.CANCELLED and sequences[3].tokens == []
    run(scheduler)
    for index in (1, 2):
        assert sequences[index].tokens == alone(model, index)


def test_temperature_zero_takes_the_likeliest_token(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    assert alone(model, 0, temperature=0.0) == alone(model, 0, temperature=0.0, seed=77) == alone(model, 0, top_k=1)


def test_an_engine_told_to_stop_yields_what_is_under_way_as_it_is(tiny_model: Callable[..., Any]) -> None:
    told: list[bool] = []
    engine = TorchEngine(tiny_model(), stop_ids=frozenset(), max_active=2, is_cancelled=lambda: bool(told))
    requests = [sequence(i).request for i in range(6)]
    rollouts = engine.generate(requests, PARAMS)
    whole = [next(rollouts)]
    told.append(True)
    rest = list(rollouts)
    whole += [r for r in rest if r.finish_reason is not FinishReason.CANCELLED]
    assert len(whole) <= 2  # what had finished in the same step
    assert len({r.problem_id for r in [*whole, *rest]}) == 6
    assert engine.cache.allocator.num_used == 0


@pytest.mark.parametrize("num_steps", [0, 1, 7])
def test_an_interrupted_completion_goes_on_as_if_it_had_not_been(
    tiny_model: Callable[..., Any], num_steps: int
) -> None:
    model, requests = tiny_model(), [sequence(i).request for i in range(3)]
    whole = {r.problem_id: r for r in TorchEngine(model, stop_ids=frozenset({1})).generate(requests, PARAMS)}
    steps = iter([False] * num_steps)
    engine = TorchEngine(model, stop_ids=frozenset({1}), is_cancelled=lambda: next(steps, True))
    parts = {r.problem_id: r for r in engine.generate(requests, PARAMS)}
    begun = [r for r in parts.values() if r.finish_reason is FinishReason.CANCELLED]
    assert begun and all((r.num_tokens > 0) == (num_steps > 0) for r in begun)
    steps = iter([False] * 100)
    again = [Request(r.problem_id, r.prompt_ids, 1, begun=r) for r in begun]
    parts |= {r.problem_id: r for r in engine.generate(again, PARAMS)}
    for name, rollout in whole.items():
        assert parts[name].completion_ids.tolist() == rollout.completion_ids.tolist()
        assert parts[name].finish_reason is rollout.finish_reason
        np.testing.assert_allclose(parts[name].rollout_logprobs, rollout.rollout_logprobs, atol=1e-5)


def test_the_prompt_of_sequences_that_were_cancelled_is_never_taken_for_anothers(
    tiny_model: Callable[..., Any],
) -> None:
    """Prompts go by the identity of their request, and a new request may get that of one which is gone."""
    engine = TorchEngine(tiny_model(), stop_ids=frozenset({1}), max_active=1)
    scheduler, allocator = engine.open_scheduler(60), engine.cache.allocator
    for prompt in ([5, 6, 7], [8, 9, 10, 11]):
        request = Request("p", np.array(prompt, np.int32), 2)
        first, second = (Sequence(request, index, PARAMS) for index in range(2))
        scheduler.add(first)
        scheduler.add(second)
        scheduler.step()  # the second one waits for a row, and its prompt is there
        second.cancelled = True
        assert scheduler.step() == [second]
        assert allocator.num_used == 1, "the block of the first sequence; that of the prompt is free"
        first.cancelled = True
        scheduler.step()
        assert not scheduler.has_unfinished and not allocator.num_used
