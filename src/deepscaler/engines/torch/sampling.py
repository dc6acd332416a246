"""Sampling of tokens from logits: temperature, top-k, top-p, and a keyed uniform per (sequence, position).

N: sequences, V: vocabulary, C: chunks of the vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.cpu import fused_ops
from deepscaler.cpu.dispatch import can_accelerate
from deepscaler.randomness import key_of, uniforms
from deepscaler.types import SamplingParams

BLOCK = 64  # uniforms drawn at once per sequence
CHUNK = 64  # tokens of the vocabulary per chunk of the two-level search


class KeyedUniforms:
    """Uniform numbers of one completion: a function of (seed, step, problem id, sample index, position)."""

    def __init__(self, params: SamplingParams, problem_id: str, sample_index: int) -> None:
        self._key = key_of("sample", params.seed, params.step, problem_id, sample_index)

    def block(self, index: int) -> NDArray[np.float64]:
        """Uniforms of positions index * BLOCK to (index + 1) * BLOCK - 1, float64 [BLOCK]."""
        return uniforms(self._key, index, BLOCK)


def draw(logits_NV: Tensor, uniform_N: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling: (tokens int64 [N], logprobs float32 [N]).

    Log-probabilities are those of the temperature-scaled distribution before top-k and top-p, which is what the loss
    uses. `uniform_N` is in [0, 1). Temperature 0 takes the likeliest token and reports its log-probability at
    temperature 1. Non-finite logits give non-finite log-probabilities, which the scheduler refuses: a check here could
    not run inside a CUDA graph.
    """
    scaled_NV = logits_NV.float()
    if params.temperature not in (0.0, 1.0):
        scaled_NV = scaled_NV / params.temperature
    if can_accelerate(scaled_NV) and params.temperature and not params.top_k and params.top_p == 1.0:
        return fused_ops.sample(scaled_NV, uniform_N.float())
    probs_NV = scaled_NV.softmax(dim=-1)
    if params.temperature == 0:
        best = probs_NV.max(dim=-1)
        return best.indices, best.values.log()
    weights_NV = probs_NV
    if params.top_k and params.top_k < weights_NV.shape[1]:
        least = weights_NV.topk(params.top_k, dim=-1).values[:, -1:]
        weights_NV = weights_NV.where(weights_NV >= least, 0.0)
    if params.top_p < 1.0:
        weights_NV = _nucleus(weights_NV, params.top_p)
    tokens_N = _inverse_cdf(weights_NV, uniform_N)
    # A NaN or infinite logit makes the softmax of its whole row NaN, the chosen entry included.
    return tokens_N, probs_NV.gather(1, tokens_N.unsqueeze(1)).squeeze(1).log()


def _inverse_cdf(weights_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The token at which the cumulative sum of weights first exceeds uniform * total.

    Searched over chunks, then inside the chunk: two levels are faster than one long sum and round less.
    """
    count, vocabulary = weights_NV.shape
    if vocabulary % CHUNK:
        weights_NV = F.pad(weights_NV, (0, -vocabulary % CHUNK))
    chunks_NCc = weights_NV.view(count, -1, CHUNK)
    running_NC = chunks_NCc.sum(-1).cumsum(-1)
    threshold_N1 = _below(uniform_N.to(running_NC).unsqueeze(1) * running_NC[:, -1:], running_NC[:, -1:])
    chunk_N1 = torch.searchsorted(running_NC, threshold_N1, right=True).clamp_(max=running_NC.shape[1] - 1)
    inside_Nc = chunks_NCc.gather(1, chunk_N1.unsqueeze(2).expand(-1, 1, CHUNK)).squeeze(1).cumsum(-1)
    before_N1 = F.pad(running_NC, (1, 0)).gather(1, chunk_N1)
    threshold_N1 = _below(threshold_N1 - before_N1, inside_Nc[:, -1:])
    offset_N1 = torch.searchsorted(inside_Nc, threshold_N1, right=True).clamp_(max=CHUNK - 1)
    return (chunk_N1 * CHUNK + offset_N1).squeeze(1)


def _below(threshold: Tensor, total: Tensor) -> Tensor:
    """The threshold clamped to [0, total), so that a cumulative sum above it exists and its weight is positive."""
    return threshold.clamp_(min=0.0).minimum(torch.nextafter(total, torch.zeros_like(total)))


def _nucleus(weights_NV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches `top_p` of the total."""
    ordered, order = weights_NV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.where(before < top_p * ordered.sum(dim=-1, keepdim=True), 0.0)
    return torch.zeros_like(weights_NV).scatter(1, order, kept)
