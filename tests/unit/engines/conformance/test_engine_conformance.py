"""The conformance every engine must show: right logprobs, stop rules, keyed draws, cancellation, weight updates.

With vLLM installed (`make test-vllm`) the same laws are tested on it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.protocols import Sampler
from deepscaler.types import FinishReason, Request, Rollout, SamplingParams
from engines_under_test import ENGINES, EngineUnderTest

STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=24, temperature=0.9, seed=5, step=2)


def requests(count: int, samples: int = 3) -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 4 + i % 5).astype(np.int32), samples) for i in range(count)]


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineUnderTest:
    return request.param(tmp_path_factory)


def run(engine: Sampler, wanted: list[Request], params: SamplingParams = PARAMS) -> dict[tuple, Rollout]:
    rollouts = list(engine.generate(wanted, params))
    result = {(r.problem_id, r.sample_index): r for r in rollouts}
    assert len(result) == len(rollouts) == sum(r.num_samples for r in wanted)
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_equal_a_full_forward_of_transformers(kind, family):
    model = kind.model(family)
    rollouts = run(kind.start(model, stop_ids=STOP, max_active=5), requests(4))
    model.set_attn_implementation("eager")
    for rollout in rollouts.values():
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            logits = model(ids.unsqueeze(0)).logits[0].float() / PARAMS.temperature
        predicted = torch.log_softmax(logits, -1)[len(rollout.prompt_ids) - 1 : -1]
        expected = predicted.gather(1, ids[len(rollout.prompt_ids) :].unsqueeze(1)).squeeze(1)
        np.testing.assert_allclose(rollout.rollout_logprobs, expected.numpy(), atol=2e-5)


def test_completions_do_not_depend_on_batch_composition(kind):
    model, wanted = kind.model(), requests(6)
    together = run(kind.start(model, stop_ids=STOP, max_active=64), wanted)
    crowded = run(kind.start(model, stop_ids=STOP, max_active=4), wanted[::-1])
    alone = run(
        kind.start(model, stop_ids=STOP, max_active=2),
        [replace(wanted[3], num_samples=1, first_sample_index=2)],
    )
    for key, rollout in {**crowded, **alone}.items():
        np.testing.assert_array_equal(rollout.completion_ids, together[key].completion_ids)
        np.testing.assert_allclose(rollout.rollout_logprobs, together[key].rollout_logprobs, atol=1e-5)


def test_seed_step_problem_and_sample_index_each_change_the_draw(kind):
    engine = kind.start(kind.model(), stop_ids=frozenset())
    base = Request("p", np.array([3, 4, 5], np.int32), 1)

    def tokens(request: Request, params: SamplingParams) -> tuple[int, ...]:
        return tuple(next(iter(engine.generate([request], params))).completion_ids)

    variants = {
        tokens(base, PARAMS),
        tokens(base, replace(PARAMS, seed=6)),
        tokens(base, replace(PARAMS, step=3)),
        tokens(replace(base, problem_id="q"), PARAMS),
        tokens(replace(base, first_sample_index=1), PARAMS),
    }
    assert len(variants) == 5
    assert tokens(base, PARAMS) in variants


def test_stop_token_ends_a_completion_and_is_part_of_it(kind):
    rollouts = run(kind.start(kind.model(), stop_ids=STOP), requests(12, samples=8))
    reasons = {r.finish_reason for r in rollouts.values()}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    for rollout in rollouts.values():
        stopped = rollout.finish_reason is FinishReason.STOP
        assert (rollout.completion_ids[-1] == 1) == stopped
        assert 1 not in rollout.completion_ids[:-1]
        assert stopped or rollout.num_tokens == PARAMS.max_completion_tokens
        assert len(rollout.rollout_logprobs) == rollout.num_tokens


def test_top_k_of_one_is_greedy_and_reports_untruncated_logprobs(kind):
    model = kind.model()
    rollout = next(iter(kind.start(model, stop_ids=STOP).generate(requests(1, 1), replace(PARAMS, top_k=1))))
    model.set_attn_implementation("eager")
    ids = torch.tensor(rollout.prompt_ids, dtype=torch.int64)
    with torch.no_grad():
        logits = model(ids.unsqueeze(0)).logits[0, -1] / PARAMS.temperature
    assert rollout.completion_ids[0] == int(logits.argmax())
    assert rollout.rollout_logprobs[0] == pytest.approx(float(torch.log_softmax(logits, -1).max()), abs=1e-5)
    assert rollout.rollout_logprobs[0] < -1e-4


def test_prompt_and_budget_beyond_the_context_are_refused_with_a_remedy(kind):
    engine = kind.start(kind.model(), stop_ids=STOP)
    with pytest.raises(ValueError, match=r"context of 128; lower max_completion_tokens"):
        list(engine.generate(requests(1), replace(PARAMS, max_completion_tokens=200)))


def test_an_abandoned_generation_leaves_the_engine_usable(kind):
    engine = kind.start(kind.model(), stop_ids=STOP, max_active=4)
    expected = run(engine, requests(3))
    started = engine.generate(requests(6), PARAMS)
    next(started)
    started.close()
    for key, rollout in run(engine, requests(3)).items():
        np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)


def test_loaded_weights_are_the_ones_sampled_from(kind):
    engine = kind.start(kind.model(seed=0), stop_ids=STOP)
    other = kind.model(seed=9)
    before = run(engine, requests(4))
    held = engine.load_weights(LiveWeights(7, other.named_parameters))
    after = run(engine, requests(4))
    expected = run(kind.start(other, stop_ids=STOP), requests(4))
    assert (held.version, held.digest) == (7, weights_digest(other.named_parameters()))
    assert {r.policy_version for r in after.values()} == {7}
    assert any(not np.array_equal(before[k].completion_ids, after[k].completion_ids) for k in before)
    for key in after:
        np.testing.assert_array_equal(after[key].completion_ids, expected[key].completion_ids)


def test_a_request_may_name_more_stop_tokens(kind):
    model, wanted = kind.model(), requests(6, samples=6)
    engine = kind.start(model, stop_ids=STOP)
    free, found = run(engine, wanted), run(engine, wanted, replace(PARAMS, stop_token_ids=(7, 11)))
    for key, rollout in found.items():
        ids = free[key].completion_ids.tolist()
        end = next((i + 1 for i, token in enumerate(ids) if token in (7, 11)), len(ids))
        assert rollout.completion_ids.tolist() == ids[:end]
        stopped = rollout.completion_ids[-1] in (1, 7, 11)
        assert rollout.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
    assert any(rollout.completion_ids[-1] in (7, 11) for rollout in found.values())
