"""Policy-gradient losses, one value per token. Weighting (`reduction.py`) and summing happen outside.

T: completion tokens of one packed micro-batch. Every loss takes
    logprobs_T      float [T]  current policy, carries the gradient (nats)
    old_logprobs_T  float [T]  policy at the start of the step, a constant; logprobs_T.detach() on-policy
    advantages_T    float [T]  the completion's advantage, repeated for its tokens
    segments_T      int64 [T]  index of the completion the token belongs to; completions are never split
    clip_low, clip_high        distances from 1: the ratio's bounds are 1 - clip_low and 1 + clip_high
and gives a `PolicyLoss`. Minimising the weighted sum raises the log-probability of tokens with positive
advantage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """loss_T: float [T], to be weighted and summed. clipped_T: bool [T], tokens the clip had an effect on."""

    loss_T: Tensor  # noqa: N815  (shape letters)
    clipped_T: Tensor  # noqa: N815


class Loss(Protocol):
    def __call__(
        self,
        logprobs_T: Tensor,
        old_logprobs_T: Tensor,
        advantages_T: Tensor,
        segments_T: Tensor,
        *,
        clip_low: float,
        clip_high: float,
    ) -> PolicyLoss: ...


def clipped_surrogate(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    segments_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """max(-A * ratio, -A * clip(ratio, 1 - clip_low, 1 + clip_high)), ratio = exp(logprob - old_logprob).

    PPO, Schulman et al. 2017, arXiv:1707.06347, as in GRPO; separate bounds as in DAPO, arXiv:2503.14476.
    `clipped_T` marks tokens without gradient: above the bound with A > 0, below it with A < 0.
    """
    del segments_T
    return _clipped(torch.exp(logprobs_T - old_logprobs_T), advantages_T, clip_low, clip_high)


def gspo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    segments_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """The clipped surrogate with one ratio per completion: s = exp(mean_t (logprob_t - old_logprob_t)).

    GSPO, Zheng et al. 2025, arXiv:2507.18071, in the stop-gradient form of its GSPO-token: the token's ratio
    is sg[s] * exp(logprob - sg[logprob]), whose value is s on every token and whose gradient is s * grad
    logprob of that token alone. With equal weights inside a completion (`sequence_mean`) loss and gradient
    equal those of the sequence form, and no gradient crosses tokens. A completion is clipped as a whole.
    """
    log_ratio_T = (logprobs_T - old_logprobs_T).detach()
    log_sequence_ratio_T = segment_mean(log_ratio_T, segments_T)
    # exp(x + (l - sg[l])) in place of exp(x) * exp(l - sg[l]): one exponential, the same value and gradient.
    ratio_T = torch.exp(log_sequence_ratio_T + (logprobs_T - logprobs_T.detach()))
    return _clipped(ratio_T, advantages_T, clip_low, clip_high)


def cispo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    segments_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """-sg[clip(ratio, 1 - clip_low, 1 + clip_high)] * A * logprob: the clipped ratio is a constant weight.

    CISPO, MiniMax-M1 2025, arXiv:2506.13585. No token loses its gradient. The paper tunes the upper bound
    only: clip_low = 1 puts the lower one at 0, where it does nothing. Only the gradient has a meaning, not
    the value. `clipped_T` marks tokens whose weight was changed.
    """
    del segments_T
    ratio_T = torch.exp(logprobs_T.detach() - old_logprobs_T)
    weight_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    return PolicyLoss(-weight_T * advantages_T * logprobs_T, weight_T != ratio_T)


def reinforce(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    segments_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """-A * logprob: no ratio and no clip, so right only on-policy (one update per step).

    Williams 1992; with a leave-one-out baseline RLOO, arXiv:2402.14740. Only the gradient has a meaning.
    """
    del old_logprobs_T, segments_T, clip_low, clip_high
    return PolicyLoss(-advantages_T * logprobs_T, torch.zeros_like(logprobs_T, dtype=torch.bool))


def combine(
    policy_T: Tensor,
    *,
    importance_T: Tensor | None = None,
    kl_T: Tensor | None = None,
    kl_coefficient: float = 0.0,
    entropy_T: Tensor | None = None,
    entropy_coefficient: float = 0.0,
) -> Tensor:
    """Float [T]: policy * importance + kl_coefficient * kl - entropy_coefficient * entropy.

    Descending it raises expected reward, pulls towards the reference (plus sign) and raises entropy (minus
    sign). The importance weight corrects the policy term only. A term whose tensor is None or whose
    coefficient is 0 is left out. Raises ValueError for a coefficient without its tensor.
    """
    loss_T = policy_T if importance_T is None else policy_T * importance_T
    if kl_coefficient != 0.0:
        loss_T = loss_T + kl_coefficient * _required(kl_T, "kl_coefficient", "kl_T")
    if entropy_coefficient != 0.0:
        loss_T = loss_T - entropy_coefficient * _required(entropy_T, "entropy_coefficient", "entropy_T")
    return loss_T


def _clipped(ratio_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float) -> PolicyLoss:
    low, high = 1.0 - clip_low, 1.0 + clip_high
    loss_T = torch.maximum(-advantages_T * ratio_T, -advantages_T * ratio_T.clamp(low, high))
    clipped_T = ((ratio_T > high) & (advantages_T > 0)) | ((ratio_T < low) & (advantages_T < 0))
    return PolicyLoss(loss_T, clipped_T.detach())


def segment_mean(values_T: Tensor, segments_T: Tensor) -> Tensor:
    """Mean over the tokens of each segment, repeated for them, float [T]. Sums in float64: GSPO's bounds are
    a few 1e-4 wide, and a completion has tens of thousands of tokens."""
    if values_T.numel() == 0:
        return values_T
    sums = values_T.new_zeros(int(segments_T.max()) + 1, dtype=torch.float64)
    counts = torch.zeros_like(sums).index_add_(0, segments_T, torch.ones_like(values_T, dtype=torch.float64))
    sums.index_add_(0, segments_T, values_T.to(torch.float64))
    return (sums / counts.clamp(min=1.0))[segments_T].to(values_T.dtype)


def _required(term_T: Tensor | None, coefficient: str, name: str) -> Tensor:
    if term_T is None:
        raise ValueError(f"{coefficient} is not 0 but {name} is missing; pass the tensor, or set the coefficient to 0")
    return term_T


LOSSES: Mapping[str, Loss] = {
    "clipped_surrogate": clipped_surrogate,
    "cispo": cispo,
    "gspo": gspo,
    "reinforce": reinforce,
}
