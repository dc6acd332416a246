"""From logits to tokens: temperature, top-k, top-p, and a keyed uniform per (sequence, position).

N: sequences, V: vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepscaler.randomness import key_of, uniforms
from deepscaler.types import RunError, SamplingParams

BLOCK = 64  # uniforms drawn at once per sequence


class KeyedUniforms:
    """The uniform numbers of one completion: a function of (seed, step, problem id, sample index, position)."""

    def __init__(self, params: SamplingParams, problem_id: str, sample_index: int) -> None:
        self._key = key_of("sample", params.seed, params.step, problem_id, sample_index)
        self._block = -1
        self._values: np.ndarray = np.empty(0)

    def at(self, position: int) -> float:
        block, offset = divmod(position, BLOCK)
        if block != self._block:
            self._values = uniforms(self._key, block, BLOCK)
            self._block = block
        return float(self._values[offset])


def sample_tokens(logits_NV: Tensor, uniform_N: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling: (tokens int64 [N], logprobs float32 [N]).

    The log-probability is that of the untruncated, temperature-scaled distribution, which is what the loss uses,
    also when top-k or top-p narrowed the draw. `uniform_N` is in [0, 1). Temperature 0 takes the likeliest token; its
    log-probability is that at temperature 1. Raises RunError for non-finite logits.
    """
    scaled_NV = logits_NV.float() / (params.temperature or 1.0)
    logprobs_NV = torch.log_softmax(scaled_NV, dim=-1)
    if params.temperature == 0:
        best = logprobs_NV.max(dim=-1)
        if not bool(best.values.isfinite().all()):
            raise _not_finite()
        return best.indices, best.values
    weights_NV = logprobs_NV.exp()
    if params.top_k and params.top_k < weights_NV.shape[1]:
        least = weights_NV.topk(params.top_k, dim=-1).values[:, -1:]
        weights_NV = weights_NV.where(weights_NV >= least, 0.0)
    if params.top_p < 1.0:
        weights_NV = _nucleus(weights_NV, params.top_p)
    cumulative_NV = weights_NV.cumsum(dim=-1)
    total_N1 = cumulative_NV[:, -1:]
    if not bool(total_N1.isfinite().all()):
        raise _not_finite()
    # Strictly below the total, so that the first entry above the threshold exists and has weight > 0.
    threshold_N1 = torch.minimum(
        uniform_N.to(total_N1).unsqueeze(1) * total_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1))
    )
    tokens_N1 = torch.searchsorted(cumulative_NV, threshold_N1, right=True)
    return tokens_N1.squeeze(1), logprobs_NV.gather(1, tokens_N1).squeeze(1)


def _not_finite() -> RunError:
    return RunError(
        "the model returned non-finite logits while sampling; its weights or activations overflowed. Go back to "
        'an earlier checkpoint, lower optimizer.learning_rate, or use model.dtype = "float32"'
    )


def _nucleus(weights_NV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches `top_p` of what is left."""
    ordered, order = weights_NV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.where(before < top_p * ordered.sum(dim=-1, keepdim=True), 0.0)
    return torch.zeros_like(weights_NV).scatter(1, order, kept)
