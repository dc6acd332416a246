"""Micro-batches of models without a family: padded rows within the budget, and what such a model cannot do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bare_recipe import bare_recipe
from deepscaler.config.sections.training import TrainingSection
from deepscaler.modeling.head import forbid_ids
from deepscaler.training.padded import plan_padded
from policy_learners import policy_learner
from tiny_models import make_generic


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 200))
@settings(max_examples=60, deadline=None)
def test_every_sequence_is_in_one_batch_whose_padded_size_is_within_budget(lengths, budget):
    plan = plan_padded(lengths, budget)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= budget for batch in plan)


def test_a_sequence_over_the_padded_budget_is_refused_by_name():
    with pytest.raises(ValueError, match=r"training\.tokens_per_micro_batch = 10"):
        plan_padded([4, 11], 10)


def test_micro_batches_of_padded_rows_change_nothing(make_samples_of):
    results = []
    for budget in (1000, 40, 18):
        recipe = bare_recipe(sections={"training": TrainingSection(tokens_per_micro_batch=budget)})
        learner = policy_learner(make_generic("lfm2"), recipe, sgd=1.0)
        assert learner.computer.num_micro_batches(make_samples_of([9, 4, 12, 7])) == {1000: 1, 40: 2, 18: 4}[budget]
        learner.update(make_samples_of([9, 4, 12, 7]))
        results.append(learner.weights())
    torch.testing.assert_close(results[0], results[1], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(results[0], results[2], atol=2e-6, rtol=1e-5)


def test_ids_without_a_token_take_no_probability(make_samples_of):
    free, masked = make_generic("gpt2"), make_generic("gpt2")
    forbid_ids(masked, [38, 39])
    samples = [s for s in make_samples_of([6, 5]) if s.completion_ids.max() < 38]
    before, after = (policy_learner(m, bare_recipe()).computer.logprobs(samples) for m in (free, masked))
    assert samples and all((b < a).all() for b, a in zip(before, after, strict=True))


def test_what_its_own_forward_cannot_do_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"gpt2 has none .*; set it to false and lower"):
        policy_learner(make_generic("gpt2"), bare_recipe(activation_checkpointing=True))
    with pytest.raises(ValueError, match=r"set model\.float32_head = false"):
        policy_learner(make_generic("gpt2"), bare_recipe(float32_head=True, dtype="bfloat16"))
