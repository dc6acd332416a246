"""Per-token estimators of KL(policy || reference), added to the loss with a plus sign.

T: tokens, sampled from the policy. logprobs_T (float, nats) carries the gradient, ref_logprobs_T is constant.

Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html) compares the *values*: k1 and k3
are unbiased, k2 is not. As a *loss* what counts is the gradient, and that is another question (Tang & Munos
2025, arXiv:2506.09477). With tokens drawn from the current policy, the expected gradient is
    k1   0: no regularisation at all, only noise
    k2   that of KL(policy || reference), the right one
    k3   that of KL(reference || policy), which agrees with the right one to first order near the reference
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

# Nats, as in DeepScaleR's trainer (verl): a token beyond it has a constant k3 and no gradient.
K3_LIMIT = 10.0
# k3 there is far beyond K3_LIMIT already; keeps exp finite, whose backward would be 0 * inf = NaN.
_LOG_RATIO_LIMIT = 20.0


def k1(logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """logprob - ref_logprob. Unbiased value, may be negative; expected gradient 0: no use as a loss."""
    return logprobs_T - ref_logprobs_T


def k2(logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """(logprob - ref_logprob)^2 / 2. Biased value, unbiased gradient of KL(policy || reference) on-policy."""
    return 0.5 * (logprobs_T - ref_logprobs_T).square()


def k3(logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref_logprob - logprob, clamped to [-10, 10]. GRPO's, arXiv:2402.03300.

    Never negative; unbiased value (but for the clamp), biased gradient (see above). The clamp takes the
    gradient from tokens the reference finds more than about 13 times likelier (d > 2.6) or 6e4 times less
    likely (d < -11).
    """
    log_ratio_T = (ref_logprobs_T - logprobs_T).clamp(max=_LOG_RATIO_LIMIT)
    return (log_ratio_T.expm1() - log_ratio_T).clamp(-K3_LIMIT, K3_LIMIT)


KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
