"""One completion of a vLLM server: what is asked, and the answer as token ids and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepscaler.engines.nonfinite import check_finite
from deepscaler.engines.vllm_server.client import ServerClient
from deepscaler.engines.vllm_shared.requests import seed_of
from deepscaler.types import FinishReason, FloatArray, Request, SamplingParams

NO_LOGPROB = -9999.0  # what vLLM sends for NaN and infinity
FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.CANCELLED}


def sampling_body(
    params: SamplingParams, stop_ids: frozenset[int], request: Request, sample_index: int
) -> dict[str, Any]:
    """vLLM's `SamplingParams` of one completion, as JSON."""
    num_begun = 0 if request.begun is None else request.begun.num_tokens
    return {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "max_tokens": params.max_completion_tokens - num_begun,
        "seed": seed_of(params, request.problem_id, sample_index, num_begun),
        "stop_token_ids": sorted({*stop_ids, *params.stop_token_ids}),
        "ignore_eos": True,  # only the given ids stop
        "logprobs": 0,
        "detokenize": False,
    }


def only_choice(answer: Mapping[str, Any], client: ServerClient) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise client.failure(f"answered a request with {str(answer)[:200]}, which is no completion")
    return choices[0]


def logprobs_of(choice: Mapping[str, Any], ids: Sequence[int], client: ServerClient) -> FloatArray:
    """Raises RunError for values that are not finite, VllmServerError for those of other tokens."""
    content = (choice.get("logprobs") or {}).get("content") or []
    if [token.get("token_id") for token in content] != list(ids):
        raise client.failure("reported log-probabilities of other tokens than it sampled")
    values = np.array([token["logprob"] for token in content], dtype=np.float32)
    check_finite(torch.from_numpy(np.where(values <= NO_LOGPROB, np.nan, values)))
    return values
