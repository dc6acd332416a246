"""How rewards become advantages: pure functions of the rewards of one step.

P: prompts, G: completions per prompt. Every function takes and gives float [P, G] and keeps the dtype. A
group whose rewards are all equal gets exactly 0, whatever rounding does to its mean: it carries no signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

EPS = 1e-6  # added to a standard deviation, in units of reward


def group_normalized(rewards_PG: Tensor) -> Tensor:
    """A = (r - mean_G r) / (std_G r + 1e-6), sample standard deviation (n - 1).

    GRPO, Shao et al. 2024, arXiv:2402.03300; epsilon and sample std as in DeepScaleR.
    Raises ValueError for G < 2.
    """
    _require_group(rewards_PG, "group_normalized")
    return _centred(rewards_PG) / (rewards_PG.std(dim=1, keepdim=True) + EPS)


def mean_baseline(rewards_PG: Tensor) -> Tensor:
    """A = r - mean_G r. Dr. GRPO, Liu et al. 2025, arXiv:2503.20783.

    No division by the standard deviation, which gives prompts that are nearly all right or wrong more weight.
    """
    return _centred(rewards_PG)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """A_i = r_i - mean of the other G - 1 rewards = G / (G - 1) * (r_i - mean_G r): an unbiased baseline.

    RLOO, Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740. Raises ValueError for G < 2.
    """
    _require_group(rewards_PG, "leave_one_out")
    group_size = rewards_PG.shape[1]
    return _centred(rewards_PG) * (group_size / (group_size - 1))


def batch_normalized(rewards_PG: Tensor) -> Tensor:
    """A = c / (std_PG c + 1e-6), c = r - mean_G r: the group's baseline, the whole step's scale (n - 1).

    ScaleRL, Khatri et al. 2025, arXiv:2510.13786; the same as REINFORCE++-baseline, Hu et al. 2025,
    arXiv:2501.03262, since advantages centred by group have mean 0 over the batch as well. Raises ValueError
    for fewer than 2 rewards.
    """
    if rewards_PG.numel() < 2:
        raise ValueError(
            f"batch_normalized needs at least 2 rewards for a standard deviation, got {rewards_PG.numel()}; "
            "raise rollout.group_size"
        )
    centred_PG = _centred(rewards_PG)
    return centred_PG / (centred_PG.std() + EPS)


def all_equal(rewards_PG: Tensor) -> Tensor:
    """bool [P]: the group's rewards are all the same number, so the group carries no signal."""
    return (rewards_PG == rewards_PG[:, :1]).all(dim=1)


def _centred(rewards_PG: Tensor) -> Tensor:
    """r - mean_G r, exactly 0 where the group is all equal: the mean of equal floats may be off by rounding,
    and a division by (0 + 1e-6) would blow that up."""
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return torch.where(all_equal(rewards_PG)[:, None], torch.zeros_like(centred_PG), centred_PG)


def _require_group(rewards_PG: Tensor, name: str) -> None:
    if rewards_PG.shape[1] < 2:
        raise ValueError(
            f"{name} compares the completions of a prompt, and the groups hold {rewards_PG.shape[1]}; "
            "set rollout.group_size to at least 2"
        )


ADVANTAGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "group_normalized": group_normalized,
    "mean_baseline": mean_baseline,
    "leave_one_out": leave_one_out,
    "batch_normalized": batch_normalized,
}
