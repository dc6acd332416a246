"""Sampling parameters of a completion, and the logits and log-probabilities of vLLM's sampler."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.engines.nonfinite import check_finite
from deepscaler.modeling.head import leave_out
from deepscaler.randomness import key_of
from deepscaler.types import FloatArray, SamplingParams


def refuse_stop_strings(params: SamplingParams) -> None:
    """Raises ValueError for stop strings: the engine runs without the tokenizer."""
    if params.stop:
        raise ValueError(
            f"the vLLM engine runs without the tokenizer, so it cannot end completions at {params.stop[0]!r}; name "
            "the tokens that end them (stop_token_ids), or use the torch engine"
        )


def vllm_params(params: SamplingParams, stop_ids: Collection[int], problem_id: str, sample_index: int) -> Any:
    """vLLM's sampling parameters of one completion. Its own seed makes it independent of the rest of the batch."""
    from vllm import SamplingParams as VllmParams  # type: ignore[import-not-found]
    from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

    key = key_of("vllm", params.seed, params.step, problem_id, sample_index)
    return VllmParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_tokens=params.max_completion_tokens,
        seed=int(key[0] >> np.uint64(1)),
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
    narrowed = params.temperature > 0 and (params.top_k > 0 or params.top_p < 1)
    return np.full_like(logprobs, np.nan) if narrowed and not untruncated else logprobs


def mask_ids(model: Any, ids: Sequence[int]) -> None:
    """Mask the logits of these ids before temperature, top-k and log-probabilities."""
    if not ids:
        return
    compute, forbidden = model.compute_logits, torch.tensor(ids, dtype=torch.int64)

    def compute_logits(*arguments: Any, **named: Any) -> Any:
        logits = compute(*arguments, **named)
        return logits if logits is None else leave_out(logits, forbidden.to(logits.device))

    model.compute_logits = compute_logits


def report_untruncated(runner: Any) -> bool:
    """Have the sampler report log-probabilities of the temperature-scaled distribution *before* top-k and top-p.

    vLLM offers them before temperature (`raw`) or after top-k and top-p (`processed`). False where the sampler has
    another structure.
    """
    inner = getattr(getattr(runner, "sampler", None), "topk_topp_sampler", None)
    if inner is None or not hasattr(inner, "logprobs_mode"):
        return False
    draw = inner.forward
    inner.logprobs_mode = "raw_logprobs"  # skips its own computation

    def forward(logits: Tensor, generators: Any, k: Any, p: Any) -> tuple[Tensor, Tensor]:
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)  # before `draw` masks the logits in place
        return draw(logits, generators, k, p)[0], logprobs

    inner.forward = forward
    return True
