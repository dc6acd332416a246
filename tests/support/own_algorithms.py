"""Losses and advantages as users write them in a file of their own: two that keep the laws, and some that break one."""

from __future__ import annotations

import torch

from deepscaler.algorithms.losses import PolicyLoss, clipped_surrogate


def plain(logprobs_T, old_logprobs_T, advantages_T, segments_T, *, clip_low, clip_high):
    return -advantages_T * torch.exp(logprobs_T - old_logprobs_T)


def with_clip(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip) -> PolicyLoss:
    return clipped_surrogate(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip)


def summed(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return (-advantages_T * logprobs_T).sum()


def flipped(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return advantages_T * torch.exp(logprobs_T - old_logprobs_T)


def batch_mean(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return -(advantages_T - advantages_T.mean()) * logprobs_T


def entropy_like(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return -advantages_T * logprobs_T + 0.1 * logprobs_T


def across(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return -advantages_T * torch.exp((logprobs_T - old_logprobs_T).detach().mean() + logprobs_T - logprobs_T.detach())


def in_place(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    advantages_T.clamp_(-1.0, 1.0)
    return -advantages_T * logprobs_T


def infinite(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return -advantages_T * logprobs_T / 0.0


def detached(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return -advantages_T * logprobs_T.detach()


def random(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return -advantages_T * logprobs_T * torch.rand(())


def nothing(logprobs_T, old_logprobs_T, advantages_T, segments_T, **clip):
    return None


def no_clip(logprobs_T, old_logprobs_T):
    return logprobs_T


def centred(rewards_PG, graded_PG=None):
    graded_PG = torch.ones_like(rewards_PG, dtype=torch.bool) if graded_PG is None else graded_PG
    kept_PG = rewards_PG.masked_fill(~graded_PG, 0.0)
    mean_P1 = kept_PG.sum(1, keepdim=True) / graded_PG.sum(1, keepdim=True).clamp(min=1)
    return (kept_PG - mean_P1).masked_fill(~graded_PG, 0.0)


def raw(rewards_PG, graded_PG=None):
    return rewards_PG.clone()


def all_in_the_mean(rewards_PG, graded_PG=None):
    return rewards_PG - rewards_PG.mean(1, keepdim=True)


def standard_deviation(rewards_PG, graded_PG=None):
    centred_PG = centred(rewards_PG, graded_PG)
    return centred_PG / centred_PG.std(1, keepdim=True)


def one_argument(rewards_PG):
    return rewards_PG - rewards_PG.mean(1, keepdim=True)


def negative(rewards_PG, graded_PG=None):
    return -centred(rewards_PG, graded_PG)


def a_list(rewards_PG, graded_PG=None):
    return rewards_PG.tolist()
