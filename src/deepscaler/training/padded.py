"""Log-probabilities of a micro-batch under a model without a family: right-padded rows through its own forward.

Padding lies behind every token, so a causal model computes nothing from it. A prompt that several completions share is
computed with each of them. S samples, T tokens of the longest, C completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepscaler.modeling.attention import PackedAttention
from deepscaler.modeling.generic import own_logits
from deepscaler.observability.counts import counted
from deepscaler.training.packing import PackedBatch


def plan_padded(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices per micro-batch, so that rows times the longest is within `budget`; deterministic, longest first.

    Raises ValueError for a sequence over budget.
    """
    plans: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > budget:
            raise ValueError(
                f"a sequence of {counted(lengths[index], 'token')} exceeds training.tokens_per_micro_batch = {budget}; "
                "raise it or lower the completion budget"
            )
        if not plans or (len(plans[-1]) + 1) * lengths[plans[-1][0]] > budget:
            plans.append([])
        plans[-1].append(index)
    return [sorted(members) for members in plans]


def padded_token_values(
    model: Any, batch: PackedBatch, temperature: float, half: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (nats) of every completion token, float32 [C], as `logprobs.token_logprobs`."""
    attention = batch.attention
    assert isinstance(attention, PackedAttention), "a model without a family is not divided over a sequence's tokens"
    parts = batch.input_ids[0].split(attention.lengths)
    sequences = [torch.cat([parts[i] for i in members]) for members in attention.sequences]
    device = batch.input_ids.device
    lengths_S = torch.tensor([len(sequence) for sequence in sequences], device=device)
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    mask = (torch.arange(ids.shape[1], device=device) < lengths_S[:, None]).to(torch.int64)
    counts_S = torch.bincount(batch.segments, minlength=len(sequences))
    # Of sample s the tokens from length - count on are predicted, each by the one before it.
    starts_C = (torch.cumsum(counts_S, 0) - counts_S)[batch.segments]
    place_C = torch.arange(len(batch.targets), device=device) - starts_C
    columns_C = (lengths_S - counts_S)[batch.segments] + place_C - 1
    logits_CV, _ = own_logits(model, ids, batch.segments, columns_C, half=half, attention_mask=mask, use_cache=False)
    logp_CV = torch.log_softmax(logits_CV.float() / temperature, dim=-1)
    entropy_C = -(logp_CV.exp() * logp_CV).sum(-1)
    return logp_CV.gather(1, batch.targets.unsqueeze(1)).squeeze(1), entropy_C
