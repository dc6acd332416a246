"""Sequences join and leave a batch at any step, and none notices the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Batch, Sequence
from deepscaler.types import FinishReason, Request, SamplingParams

PARAMS = SamplingParams(max_completion_tokens=20, temperature=0.9, seed=5)


def sequence(index: int, **changes: Any) -> Sequence:
    prompt = np.random.default_rng(index).integers(2, 40, 4 + index % 5).astype(np.int32)
    return Sequence(Request(f"p{index}", prompt, 1), 0, replace(PARAMS, **changes))


def new_batch(model: Any, slots: int) -> Batch:
    return TorchEngine(model, stop_ids=frozenset({1}), max_active=slots).open_batch(60)


def run(batch: Batch) -> list[Sequence]:
    finished = []
    while not batch.is_empty:
        finished += batch.step()
    return finished


def alone(model: Any, index: int, **changes: Any) -> list[int]:
    batch, one = new_batch(model, 1), sequence(index, **changes)
    batch.add(one)
    run(batch)
    return one.tokens


def test_different_settings_share_a_batch_and_change_nothing(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    settings = [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {"max_completion_tokens": 7}, {}, {"seed": 9}]
    sequences = [sequence(i, **changes) for i, changes in enumerate(settings)]
    batch = new_batch(model, 4)
    for one in sequences[:3]:
        batch.add(one)
    finished = [s for _ in range(5) for s in batch.step()]
    for one in sequences[3:]:  # join while the others are half done
        batch.add(one)
    finished += run(batch)
    assert len(finished) == len(sequences)
    for index, (one, changes) in enumerate(zip(sequences, settings, strict=True)):
        assert one.tokens == alone(model, index, **changes)


def test_a_cancelled_sequence_leaves_at_the_next_step_and_the_others_go_on(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    batch, sequences = new_batch(model, 2), [sequence(i) for i in range(4)]
    for one in sequences:
        batch.add(one)
    early = batch.step()
    sequences[0].cancelled = sequences[3].cancelled = True  # one under way, one still waiting
    gone = batch.step()
    assert {id(s) for s in (sequences[0], sequences[3])} <= {id(s) for s in [*early, *gone]}
    assert batch.finish_reason(sequences[3]) is FinishReason.CANCELLED and sequences[3].tokens == []
    run(batch)
    for index in (1, 2):
        assert sequences[index].tokens == alone(model, index)


def test_temperature_zero_takes_the_likeliest_token(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    assert alone(model, 0, temperature=0.0) == alone(model, 0, temperature=0.0, seed=77) == alone(model, 0, top_k=1)


def test_an_engine_told_to_stop_abandons_what_is_under_way(tiny_model: Callable[..., Any]) -> None:
    told: list[bool] = []
    engine = TorchEngine(tiny_model(), stop_ids=frozenset(), max_active=2, is_cancelled=lambda: bool(told))
    requests = [sequence(i).request for i in range(6)]
    rollouts = engine.generate(requests, PARAMS)
    next(rollouts)
    told.append(True)
    assert len(list(rollouts)) <= 1  # what had finished in the same step


def test_the_prompt_of_sequences_that_were_cancelled_is_never_taken_for_anothers(
    tiny_model: Callable[..., Any],
) -> None:
    """Prompts go by the identity of their request, and a new request may get that of one which is gone."""
    batch = new_batch(tiny_model(), 1)
    for prompt in ([5, 6, 7], [8, 9, 10, 11]):
        request = Request("p", np.array(prompt, np.int32), 2)
        first, second = (Sequence(request, index, PARAMS) for index in range(2))
        batch.add(first)
        batch.add(second)
        batch.step()  # the second one waits for a row, and its prompt is there
        second.cancelled = True
        assert batch.step() == [second]
        assert not batch._prefixes._ready
        first.cancelled = True
        batch.step()
        assert batch.is_empty and not batch._cache.allocator.num_used
