"""How much each token counts: the weights that turn the loss of an optimizer step into a plain sum.

P: prompts of one optimizer update, G: completions per prompt. Every function takes the lengths of all
completions of the update, `num_tokens_PG` (int), and `mask_PG` (bool, True = trained on), and gives
`token_weight_PG` (float64): the weight of every token of that completion. loss = sum over tokens of weight *
token_loss, so micro-batches, packing and ranks only add up. (The original took a mean per micro-batch and
summed those: a token's weight hung on the packing.)

Masked completions have weight 0. The three means are means over what is trained on: masked completions leave
the denominators as well (overlong filtering, arXiv:2503.14476, as verl and TRL compute the token mean), so
masking every other completion does not halve the step. `fixed_length` divides by a constant that knows
nothing of lengths or masks. Nothing to train on gives all weights 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Reduction(Protocol):
    def __call__(self, num_tokens_PG: Tensor, mask_PG: Tensor, *, fixed_length: int) -> Tensor: ...


def token_mean(num_tokens_PG: Tensor, mask_PG: Tensor, *, fixed_length: int) -> Tensor:
    """Every trained token counts the same: w = 1 / all trained tokens. DAPO, arXiv:2503.14476."""
    del fixed_length
    tokens_PG = _trained_tokens(num_tokens_PG, mask_PG)
    return _one_over(tokens_PG.sum().expand_as(tokens_PG), tokens_PG > 0)


def sequence_mean(num_tokens_PG: Tensor, mask_PG: Tensor, *, fixed_length: int) -> Tensor:
    """Every trained completion counts the same: w = 1 / (number of them * its own length).

    GRPO as first published, arXiv:2402.03300 (which favours short right and long wrong answers), and GSPO.
    """
    del fixed_length
    tokens_PG = _trained_tokens(num_tokens_PG, mask_PG)
    return _one_over((tokens_PG > 0).sum() * tokens_PG, tokens_PG > 0)


def prompt_mean(num_tokens_PG: Tensor, mask_PG: Tensor, *, fixed_length: int) -> Tensor:
    """Every prompt counts the same, and inside it every token: w = 1 / (prompts * trained tokens in group).

    ScaleRL's prompt average, arXiv:2510.13786. Prompts without a trained completion are not counted.
    """
    del fixed_length
    tokens_PG = _trained_tokens(num_tokens_PG, mask_PG)
    tokens_P1 = tokens_PG.sum(dim=1, keepdim=True)
    return _one_over(((tokens_P1 > 0).sum() * tokens_P1).expand_as(tokens_PG), tokens_PG > 0)


def fixed_length(num_tokens_PG: Tensor, mask_PG: Tensor, *, fixed_length: int) -> Tensor:
    """Completions' sums over a constant: w = 1 / (P * G * fixed_length), masked completions counted in P * G.

    Dr. GRPO, arXiv:2503.20783 (there the constant is the generation budget). fixed_length: tokens, above 0,
    else ValueError.
    """
    if fixed_length <= 0:
        raise ValueError(f"the reduction fixed_length divides by a number of tokens above 0, not by {fixed_length}")
    tokens_PG = _trained_tokens(num_tokens_PG, mask_PG)
    return _one_over(torch.full_like(tokens_PG, tokens_PG.numel() * fixed_length), tokens_PG > 0)


def _trained_tokens(num_tokens_PG: Tensor, mask_PG: Tensor) -> Tensor:
    """int64 [P, G]: length where trained on, 0 where masked. An empty completion counts as masked."""
    return num_tokens_PG.to(torch.int64) * mask_PG


def _one_over(count_PG: Tensor, trained_PG: Tensor) -> Tensor:
    """float64 [P, G]: 1 / count where trained on, else 0."""
    safe_PG = torch.where(trained_PG, count_PG, torch.ones_like(count_PG)).to(torch.float64)
    return torch.where(trained_PG, 1.0 / safe_PG, torch.zeros_like(safe_PG))


REDUCTIONS: Mapping[str, Reduction] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "prompt_mean": prompt_mean,
    "fixed_length": fixed_length,
}
