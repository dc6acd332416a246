"""Sampling parameters of a completion for vLLM in this process, and the log-probabilities that it reports."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from deepscaler.engines.nonfinite import check_finite
from deepscaler.engines.vllm_shared.requests import is_narrowed, seed_of
from deepscaler.types import FloatArray, SamplingParams


def vllm_params(params: SamplingParams, stop_ids: Collection[int], problem_id: str, sample_index: int) -> Any:
    """vLLM's sampling parameters of one completion. Its own seed makes it independent of the rest of the batch."""
    from vllm import SamplingParams as VllmParams  # type: ignore[import-not-found]
    from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

    return VllmParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_tokens=params.max_completion_tokens,
        seed=seed_of(params, problem_id, sample_index),
        stop_token_ids=sorted({*stop_ids, *params.stop_token_ids}),
        ignore_eos=True,  # only the given ids stop
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def reported_logprobs(completion: Any, params: SamplingParams, *, untruncated: bool) -> FloatArray:
    """Log-probabilities of a completion's tokens, NaN where only those after top-k and top-p are known.

    untruncated: what `report_untruncated` returned. Raises RunError for values that are not finite.
    """
    logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
    assert len(logprobs) == len(completion.token_ids)
    check_finite(torch.from_numpy(logprobs))
    return np.full_like(logprobs, np.nan) if is_narrowed(params) and not untruncated else logprobs
