"""Correction for engine and trainer disagreeing on the log-probability of the same token.

T: tokens. Completions are drawn from what the engine computes; the loss takes the trainer's numbers.
Different kernels and precisions make the two differ a little, stale weights (`policy_lag` > 0) by more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def truncated_importance_weights(old_logprobs_T: Tensor, rollout_logprobs_T: Tensor, cap: float) -> Tensor:
    """min(exp(old_logprob - rollout_logprob), cap), float [T], without gradient: multiplies the policy loss.

    old_logprobs_T: trainer, at the start of the step; rollout_logprobs_T: engine, both of the untruncated,
    temperature-scaled distribution (nats). cap: at least 1; bounds the variance at the price of a bias for
    tokens the trainer finds much likelier (truncated importance sampling, Ionides 2008; for this use Yao et
    al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"). Raises ValueError for
    a cap below 1, which would scale down even tokens on which both agree.
    """
    if cap < 1.0:
        raise ValueError(
            f"the cap of importance weights is {cap}, below the weight 1 of equal log-probabilities; "
            "set algorithm.importance_cap to at least 1 (2 is usual), or to 0 to switch the correction off"
        )
    log_weight_T = (old_logprobs_T - rollout_logprobs_T).detach()
    return torch.exp(log_weight_T.clamp(max=math.log(cap)))
