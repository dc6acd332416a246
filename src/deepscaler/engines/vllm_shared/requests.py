"""What vLLM gets of a request: its seed, its limits, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepscaler.observability.counts import counted
from deepscaler.randomness import key_of
from deepscaler.types import Request, SamplingParams


def refuse_stop_strings(params: SamplingParams) -> None:
    """Raises ValueError for stop strings: the engine runs without the tokenizer."""
    if params.stop:
        raise ValueError(
            f"the vLLM engine runs without the tokenizer, so it cannot end completions at {params.stop[0]!r}; name "
            "the tokens that end them (stop_token_ids), or use the torch engine"
        )


def seed_of(params: SamplingParams, problem_id: str, sample_index: int, num_begun: int = 0) -> int:
    """The seed of one completion, below 2**63: its own makes it independent of the rest of the batch.

    num_begun: tokens of an interrupted completion that is continued: they were drawn with the seed of 0.
    """
    begun = (num_begun,) if num_begun else ()
    key = key_of("vllm", params.seed, params.step, problem_id, sample_index, *begun)
    return int(key[0] >> np.uint64(1))


def is_narrowed(params: SamplingParams) -> bool:
    """Whether top-k or top-p removes tokens."""
    return params.temperature > 0 and (params.top_k > 0 or params.top_p < 1)


def check_lengths(requests: Sequence[Request], params: SamplingParams, *, context: int, limit: int) -> None:
    """Raises ValueError for a prompt and budget beyond the model's context or the engine's limit (tokens)."""
    for request in requests:
        prompt = counted(len(request.prompt_ids), "token")
        need = f"problem {request.problem_id}: prompt of {prompt} plus a budget of {params.max_completion_tokens}"
        tokens = len(request.prompt_ids) + params.max_completion_tokens
        if tokens > context:
            raise ValueError(
                f"{need} exceeds the model's context of {context}; lower max_completion_tokens or choose a model with "
                "a longer context"
            )
        if tokens > limit:
            raise ValueError(
                f"{need} exceeds the engine's limit of {counted(limit, 'token')}; lower max_completion_tokens or start "
                "the engine with a higher limit"
            )
