"""Log-probabilities of given tokens, and the likeliest alternatives at each position.

T: tokens scored, V: vocabulary, A: alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.modeling.attention import cast_to_value_dtype, causal, forward_hidden
from deepscaler.modeling.generic import is_generic, own_logits
from deepscaler.modeling.head import forbidden_ids, leave_out
from deepscaler.types import FloatArray, IntArray, RunError

CHUNK_TOKENS = 256  # rows of logits in memory at once


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of the last T tokens of a sequence. logprobs: float32 [T].

    top_ids int32 [T,A] and top_logprobs float32 [T,A]: the likeliest tokens at each position, likeliest first.
    """

    logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray


class _Causal:
    """Causal attention of one sequence without a cache."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        query, key = cast_to_value_dtype(query, key, value)
        return causal(query, key, value, scaling, window)


@torch.inference_mode()
def score_tokens(model: Any, ids: NDArray[np.int32], temperatures: FloatArray, num_alternatives: int) -> TokenScores:
    """Score the last T of `ids`, each given the tokens before it, under the distribution of logits / temperature.

    temperatures: float32 [T], T < len(ids); 0 counts as 1, as in sampling. Raises RunError for non-finite logits.
    """
    weight = model.get_input_embeddings().weight
    first = len(ids) - len(temperatures)
    assert first > 0, "the first token has no context"
    tokens = torch.from_numpy(ids.astype(np.int64)).to(weight.device)
    divisors = torch.from_numpy(np.where(temperatures == 0, 1.0, temperatures).astype(np.float32)).to(weight.device)
    logits = _logits(model, tokens, first - 1)
    rows = zip(logits, tokens[first:].split(CHUNK_TOKENS), divisors.split(CHUNK_TOKENS), strict=True)
    parts = [_scores(*chunk, num_alternatives) for chunk in rows]
    logprobs, top_logprobs, top_ids = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    if not np.isfinite(logprobs).all():
        raise RunError("the model returned non-finite logits for these tokens; its weights or activations overflowed")
    return TokenScores(logprobs, top_ids.astype(np.int32), top_logprobs)


def _logits(model: Any, tokens: Tensor, first: int) -> Iterator[Tensor]:
    """Logits [at most CHUNK_TOKENS,V] after each token from `first` on but the last, in order."""
    dtype = model.get_input_embeddings().weight.dtype
    half = None if dtype == torch.float32 else dtype
    if is_generic(model):
        columns = torch.arange(first, len(tokens) - 1, device=tokens.device)
        all_logits, _ = own_logits(
            model, tokens.unsqueeze(0), torch.zeros_like(columns), columns, half=half, use_cache=False
        )
        yield from all_logits.split(CHUNK_TOKENS)
        return
    positions = torch.arange(len(tokens), device=tokens.device).unsqueeze(0)
    hidden = forward_hidden(model, tokens.unsqueeze(0), positions, _Causal(), half=half)[0, first:-1]
    head = model.get_output_embeddings()
    for chunk in hidden.split(CHUNK_TOKENS):
        yield leave_out(head(chunk.to(head.weight.dtype)), forbidden_ids(model))


def _scores(
    logits_TV: Tensor, tokens_T: Tensor, divisors_T: Tensor, num_alternatives: int
) -> tuple[Tensor, Tensor, Tensor]:
    logprobs_TV = torch.log_softmax(logits_TV.float() / divisors_T.unsqueeze(1), dim=-1)
    top = logprobs_TV.topk(min(num_alternatives, logprobs_TV.shape[1]), dim=-1)
    return logprobs_TV.gather(1, tokens_T.unsqueeze(1)).squeeze(1), top.values, top.indices
