"""The soft overlong penalty: what a completion loses for coming close to its budget.

P: prompts, G: completions per prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepscaler.observability.counts import counted


def soft_overlong_penalty(num_tokens_PG: Tensor, max_tokens: int, soft_tokens: int) -> Tensor:
    """Added to the reward, float64 [P, G]: 0 to max_tokens - soft_tokens, then linear to -1 at max_tokens.

    DAPO, Yu et al. 2025, arXiv:2503.14476, equation 13 (there 16384 + 4096 tokens, soft_tokens = 4096, and
    rewards of +1 and -1). num_tokens_PG: int, completion tokens; max_tokens: the budget. A right answer that
    ends on its last token therefore earns as much as a wrong short one. Raises ValueError unless 0 <
    soft_tokens <= max_tokens.
    """
    if not 0 < soft_tokens <= max_tokens:
        raise ValueError(
            f"the soft overlong penalty spans {soft_tokens} of {counted(max_tokens, 'token')}; set "
            f"algorithm.soft_penalty_tokens between 1 and {max_tokens}, a fifth of the budget is usual"
        )
    over_PG = num_tokens_PG.to(torch.float64) - (max_tokens - soft_tokens)
    return -(over_PG / soft_tokens).clamp(0.0, 1.0)
