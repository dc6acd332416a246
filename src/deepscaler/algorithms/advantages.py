"""How rewards become advantages: pure functions of the rewards of one step.

P: prompts, G: completions per prompt. Every function takes and gives float [P, G] and keeps the dtype. A
group whose rewards are all equal gets exactly 0, whatever rounding does to its mean: it carries no signal.

`graded_PG` (bool, absent = all): False where the grading crashed or ran out of time, so that there is no reward.
Means and deviations are over the graded completions; the others get 0, and so does the only one of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

EPS = 1e-6  # added to a standard deviation, in units of reward


class Advantage(Protocol):
    def __call__(self, rewards_PG: Tensor, graded_PG: Tensor | None = None) -> Tensor: ...


def group_normalized(rewards_PG: Tensor, graded_PG: Tensor | None = None) -> Tensor:
    """A = (r - mean_G r) / (std_G r + 1e-6), sample standard deviation (n - 1).

    GRPO, Shao et al. 2024, arXiv:2402.03300; epsilon and sample std as in DeepScaleR.
    Raises ValueError for G < 2.
    """
    _require_group(rewards_PG, "group_normalized")
    centred_PG, graded_PG = _centred(rewards_PG, graded_PG)
    degrees_P1 = (graded_PG.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return centred_PG / ((centred_PG.square().sum(dim=1, keepdim=True) / degrees_P1).sqrt() + EPS)


def mean_baseline(rewards_PG: Tensor, graded_PG: Tensor | None = None) -> Tensor:
    """A = r - mean_G r. Dr. GRPO, Liu et al. 2025, arXiv:2503.20783.

    No division by the standard deviation, which gives prompts that are nearly all right or wrong more weight.
    """
    return _centred(rewards_PG, graded_PG)[0]


def leave_one_out(rewards_PG: Tensor, graded_PG: Tensor | None = None) -> Tensor:
    """A_i = r_i - mean of the other G - 1 rewards = G / (G - 1) * (r_i - mean_G r): an unbiased baseline.

    RLOO, Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740. Raises ValueError for G < 2.
    """
    _require_group(rewards_PG, "leave_one_out")
    centred_PG, graded_PG = _centred(rewards_PG, graded_PG)
    num_graded_P1 = graded_PG.sum(dim=1, keepdim=True).clamp(min=2).to(rewards_PG.dtype)
    return centred_PG * (num_graded_P1 / (num_graded_P1 - 1))


def batch_normalized(rewards_PG: Tensor, graded_PG: Tensor | None = None) -> Tensor:
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
    centred_PG, graded_PG = _centred(rewards_PG, graded_PG)
    return centred_PG / (centred_PG.square().sum() / (graded_PG.sum() - 1).clamp(min=1)).sqrt().add(EPS)


def all_equal(rewards_PG: Tensor, graded_PG: Tensor | None = None) -> Tensor:
    """bool [P]: the group's graded rewards are all the same number, so the group carries no signal."""
    graded_PG = torch.ones_like(rewards_PG, dtype=torch.bool) if graded_PG is None else graded_PG
    lowest_P = rewards_PG.masked_fill(~graded_PG, float("inf")).amin(dim=1)
    highest_P = rewards_PG.masked_fill(~graded_PG, float("-inf")).amax(dim=1)
    return highest_P <= lowest_P  # nothing graded: -inf <= inf


def _centred(rewards_PG: Tensor, graded_PG: Tensor | None) -> tuple[Tensor, Tensor]:
    """(r - mean_G r, graded_PG with the default filled in), exactly 0 where the group is all equal: the mean of equal
    floats may be off by rounding, and a division by (0 + 1e-6) would blow that up."""
    graded_PG = torch.ones_like(rewards_PG, dtype=torch.bool) if graded_PG is None else graded_PG
    kept_PG = rewards_PG.masked_fill(~graded_PG, 0.0)
    mean_P1 = kept_PG.sum(dim=1, keepdim=True) / graded_PG.sum(dim=1, keepdim=True).clamp(min=1)
    silent_PG = all_equal(rewards_PG, graded_PG)[:, None] | ~graded_PG
    return (kept_PG - mean_P1).masked_fill(silent_PG, 0.0), graded_PG


def _require_group(rewards_PG: Tensor, name: str) -> None:
    if rewards_PG.shape[1] < 2:
        raise ValueError(
            f"{name} compares the completions of a prompt, and the groups hold {rewards_PG.shape[1]}; "
            "set rollout.group_size to at least 2"
        )


ADVANTAGES: Mapping[str, Advantage] = {
    "group_normalized": group_normalized,
    "mean_baseline": mean_baseline,
    "leave_one_out": leave_one_out,
    "batch_normalized": batch_normalized,
}
