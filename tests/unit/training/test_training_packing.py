"""Packing changes nothing: no sequence sees another, no token is lost, no budget is broken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.modeling.attention import forward_hidden
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.training.packing import pack, plan_micro_batches

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 200))
@settings(max_examples=60, deadline=None)
def test_every_sequence_lands_in_exactly_one_batch_within_budget(lengths, budget):
    plan = plan_micro_batches(lengths, budget)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= budget for batch in plan)
    assert len(plan) <= 2 * (sum(lengths) // budget + 1)


def test_a_sequence_over_the_budget_is_refused_by_name():
    with pytest.raises(ValueError, match=r"training\.tokens_per_micro_batch = 10"):
        plan_micro_batches([4, 11], 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_logprobs(tiny_model, make_samples_of, family):
    model = tiny_model(family)
    samples = make_samples_of([5, 17, 1, 9])
    batch = pack(samples, CPU)
    with torch.no_grad():
        hidden = forward_hidden(model, batch.input_ids, batch.position_ids, batch.attention)[0]
        packed = torch.log_softmax(model.lm_head(hidden[batch.predictor_index]), -1)
    packed = packed.gather(1, batch.targets.unsqueeze(1)).squeeze(1)

    longest = max(s.num_tokens for s in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, s in enumerate(samples):
        ids[row, : s.num_tokens] = torch.tensor([*s.prompt_ids, *s.completion_ids])
        mask[row, : s.num_tokens] = 1
    model.set_attn_implementation("eager")
    with torch.no_grad():
        padded = torch.log_softmax(model(ids, attention_mask=mask).logits, -1)
    expected = [
        padded[row, t - 1, ids[row, t]] for row, s in enumerate(samples) for t in range(len(s.prompt_ids), s.num_tokens)
    ]
    torch.testing.assert_close(packed, torch.stack(expected), atol=2e-5, rtol=1e-5)


def test_changing_one_sequence_leaves_the_others_bit_identical(tiny_model, make_samples_of):
    model = tiny_model()
    first, second = make_samples_of([6, 6, 6], seed=1), make_samples_of([6, 6, 6], seed=2)
    mixed = [first[0], second[1], first[2]]
    results = []
    for samples in (first, mixed):
        batch = pack(samples, CPU)
        with torch.no_grad():
            results.append(forward_hidden(model, batch.input_ids, batch.position_ids, batch.attention)[0])
    outside = batch.num_tokens - first[2].num_tokens
    torch.testing.assert_close(results[0][outside:], results[1][outside:], atol=0, rtol=0)
