"""Corrections for completions sampled from another distribution than the trainer's: weights of the policy loss.

T: tokens. Completions are drawn from what the engine computes; the loss takes the trainer's numbers.
Different kernels and precisions make the two differ a little, stale weights (`policy_lag` > 0) by more.
    ratio  rho_t = exp(old_logprob_t - rollout_logprob_t)
    old_logprobs_T      float [T]  trainer, at the start of the step (nats)
    rollout_logprobs_T  float [T]  engine (nats); both of the untruncated, temperature-scaled distribution
    segments_T          int64 [T]  index of the completion the token belongs to; completions are never split
Every correction gives float [T] without gradient. Where trainer and engine agree, all of them are exactly 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepscaler.algorithms.losses import segment_mean
from deepscaler.config.sections.algorithm import AlgorithmSection

# Nats. Limits a token's log-ratio, so that sums of squared ratios stay finite.
LOG_RATIO_LIMIT = 20.0


def truncated_importance_weights(old_logprobs_T: Tensor, rollout_logprobs_T: Tensor, cap: float) -> Tensor:
    """min(rho_t, cap): truncated importance sampling.

    cap: at least 1; bounds the variance at the price of a bias for tokens the trainer finds much likelier (Ionides
    2008; for this use Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    Raises ValueError for a cap below 1, which would scale down even tokens on which both agree.
    """
    if cap < 1.0:
        raise ValueError(
            f"the cap of importance weights is {cap}, below the weight 1 of equal log-probabilities; "
            "set algorithm.importance_cap to at least 1 (2 is usual), or to 0 to switch the correction off"
        )
    log_weight_T = (old_logprobs_T - rollout_logprobs_T).detach()
    return torch.exp(log_weight_T.clamp(max=math.log(cap)))


def icepop_weights(old_logprobs_T: Tensor, rollout_logprobs_T: Tensor, low: float, high: float) -> Tensor:
    """rho_t where low <= rho_t <= high, else 0: tokens on which both disagree strongly are left out, either way.

    IcePop, Ling Team 2025, "Every Step Evolves" (Ring-1T), arXiv:2510.18855; bounds 0.5 and 5 are usual.
    Raises ValueError for bounds that do not enclose 1.
    """
    _check_bounds(low, high)
    log_ratio_T = (old_logprobs_T - rollout_logprobs_T).detach()
    kept_T = _inside(log_ratio_T, low, high)
    return torch.where(kept_T, torch.exp(log_ratio_T.clamp(max=math.log(high))), 0.0)


def sequence_mask(
    old_logprobs_T: Tensor, rollout_logprobs_T: Tensor, segments_T: Tensor, low: float, high: float
) -> Tensor:
    """1 for every token of a completion with low <= exp(mean_t log rho_t) <= high, else 0.

    The geometric mean of the ratios does not grow with the length, unlike their product. Liu, Li et al. 2025, "When
    speed kills stability" (geometric sequence masking); bounds 0.999 and 1.002 as in NeMo-RL. Raises ValueError for
    bounds that do not enclose 1.
    """
    _check_bounds(low, high)
    log_ratio_T = (old_logprobs_T - rollout_logprobs_T).detach()
    kept_T = _inside(segment_mean(log_ratio_T, segments_T), low, high)
    return kept_T.to(log_ratio_T.dtype)


def importance_weights(
    old_logprobs_T: Tensor, rollout_logprobs_T: Tensor, segments_T: Tensor, algorithm: AlgorithmSection
) -> Tensor | None:
    """What the recipe multiplies the policy loss with: the mask times the truncated ratio; None for no correction."""
    given = (old_logprobs_T, rollout_logprobs_T)
    low, high = algorithm.importance_bounds
    weights_T = None
    if algorithm.importance_cap > 0:
        weights_T = truncated_importance_weights(*given, algorithm.importance_cap)
    if algorithm.importance_mask == "icepop":
        weights_T = icepop_weights(*given, low, high)
    elif algorithm.importance_mask == "sequence":
        mask_T = sequence_mask(*given, segments_T, low, high)
        weights_T = mask_T if weights_T is None else mask_T * weights_T
    return weights_T


def ratio_sums(old_logprobs_T: Tensor, rollout_logprobs_T: Tensor) -> tuple[float, float]:
    """(sum of rho_t, sum of rho_t^2), of the uncorrected ratios, in float64; |log rho_t| is limited to 20 nats.

    Sums of several micro-batches add up; `types.TokenSums.effective_sample_size` is computed from them.
    """
    log_ratio_T = (old_logprobs_T - rollout_logprobs_T).detach().double().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return float(log_ratio_T.exp().sum()), float((2.0 * log_ratio_T).exp().sum())


def _inside(log_ratio_T: Tensor, low: float, high: float) -> Tensor:
    return (log_ratio_T >= math.log(low)) & (log_ratio_T <= math.log(high))


def _check_bounds(low: float, high: float) -> None:
    if not 0 < low <= 1 <= high:
        raise ValueError(
            f"the bounds of the importance ratio are {low:g} and {high:g}, but must enclose 1, the ratio of equal "
            "log-probabilities; set algorithm.importance_low in (0, 1] and algorithm.importance_high to at least 1"
        )
