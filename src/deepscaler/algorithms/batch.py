"""Scored groups in, training samples out: advantages over the step, token weights over each optimizer update.

P: prompts, G: completions per prompt. Names of a recipe are looked up here, once; pure functions do the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepscaler.algorithms.overlong import soft_overlong_penalty
from deepscaler.algorithms.own import advantage_of
from deepscaler.algorithms.reduction import REDUCTIONS
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.observability.counts import counted
from deepscaler.types import FinishReason, Rollout, ScoredGroup, TrainSample


def make_samples(
    groups: Sequence[ScoredGroup],
    algorithm: AlgorithmSection,
    *,
    max_completion_tokens: int,
    num_updates: int,
) -> list[list[TrainSample]]:
    """One inner list per optimizer update, its samples in the order of prompts and sample indices.

    Advantages come from all groups of the step; then the prompts are split into `num_updates` consecutive
    slices, as even as can be: P = q * num_updates + r gives the first r slices q + 1 prompts, the others q
    (slices that would be empty are left out, so fewer prompts than updates make fewer updates, and no groups
    make []). Token weights are normalised inside each slice, so each update is a mean of its own: a token of
    a smaller slice weighs more.

    Completions truncated at the budget, `algorithm.truncated`:
        train         reward as graded (0) and trained on: this is what teaches brevity
        mask          they take part in their group's advantages, then get token weight 0
        soft_penalty  `soft_overlong_penalty` is added to rewards before the advantage; all are trained on
    A completion whose grading reached no verdict has no reward: it leaves mean and deviation, and gets advantage and
    token weight 0. Samples with weight 0 stay in the list. Raises ValueError for num_updates < 1, groups of different
    sizes, a reward that is not finite, or a cancelled completion.
    """
    if num_updates < 1:
        raise ValueError(f"a step makes at least one optimizer update, not {num_updates}")
    if not groups:
        return []
    _check(groups)
    num_tokens_PG = torch.tensor([[r.num_tokens for r in g.group.rollouts] for g in groups], dtype=torch.int64)
    rewards_PG = torch.tensor(np.array([g.rewards for g in groups]), dtype=torch.float64)
    if algorithm.truncated == "soft_penalty":
        rewards_PG += soft_overlong_penalty(num_tokens_PG, max_completion_tokens, algorithm.soft_penalty_tokens)
    mask_PG = graded_PG = torch.tensor(np.array([g.graded for g in groups]))
    advantages_PG = advantage_of(algorithm.advantage)(rewards_PG, graded_PG)
    if algorithm.truncated == "mask":
        mask_PG = graded_PG & torch.tensor([[not r.truncated for r in g.group.rollouts] for g in groups])

    updates: list[list[TrainSample]] = []
    for prompts in _slices(len(groups), num_updates):
        weight_PG = REDUCTIONS[algorithm.reduction](
            num_tokens_PG[prompts], mask_PG[prompts], fixed_length=max_completion_tokens
        )
        updates.append(_samples(groups[prompts], advantages_PG[prompts], weight_PG))
    return updates


def _slices(num_prompts: int, num_updates: int) -> list[slice]:
    """Consecutive, non-empty, the larger ones first."""
    num_slices = min(num_prompts, num_updates)
    quotient, remainder = divmod(num_prompts, num_slices)
    ends = [quotient * (i + 1) + min(i + 1, remainder) for i in range(num_slices)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _samples(groups: Sequence[ScoredGroup], advantages_PG: Tensor, weight_PG: Tensor) -> list[TrainSample]:
    return [
        _sample(rollout, float(advantage), float(weight))
        for group, advantages_G, weight_G in zip(groups, advantages_PG.tolist(), weight_PG.tolist(), strict=True)
        for rollout, advantage, weight in zip(group.group.rollouts, advantages_G, weight_G, strict=True)
    ]


def _sample(rollout: Rollout, advantage: float, weight: float) -> TrainSample:
    return TrainSample(
        prompt_ids=rollout.prompt_ids,
        completion_ids=rollout.completion_ids,
        rollout_logprobs=rollout.rollout_logprobs,
        advantage=advantage,
        token_weights=np.full(rollout.num_tokens, weight, dtype=np.float32),
        policy_version=rollout.policy_version,
    )


def _check(groups: Sequence[ScoredGroup]) -> None:
    size = len(groups[0].group.rollouts)
    for group in groups:
        name = f"the group of problem {group.group.problem.id!r}"
        if len(group.group.rollouts) != size or len(group.verdicts) != size:
            raise ValueError(
                f"{name} has {counted(len(group.group.rollouts), 'completion')} and "
                f"{counted(len(group.verdicts), 'verdict')}, but the first group of the step {size}; all groups of a "
                "step have one size: drop this one, or sample it again"
            )
        if not np.isfinite(group.rewards).all():
            raise ValueError(f"{name} has a reward that is not finite: {group.rewards.tolist()}; mend the grader")
        if any(r.finish_reason is FinishReason.CANCELLED for r in group.group.rollouts):
            raise ValueError(f"{name} holds a cancelled completion, which is no sample of the policy; drop the group")
