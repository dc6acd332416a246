"""Laws that losses and advantages of the user's own must keep, checked on a small batch when they are loaded.

T: completion tokens of a packed micro-batch. P: prompts, G: completions per prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deepscaler.algorithms.losses import PolicyLoss

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
TOLERANCE = 1e-5
_LENGTHS = (3, 1, 4)  # tokens of the completions of the batch
_ADVANTAGES = (1.5, -0.5, 0.0)


def broken_loss_law(loss: Callable[..., Any]) -> str | None:
    """In words, which law does not hold; None where all do.

    Shape and dtype of logprobs_T; finite; a gradient; the same again for the same input; arguments unchanged; a
    completion of advantage 0 has no gradient; a token's loss depends on its own completion alone, so that packing and
    token weights mean what they say; on-policy, minimising raises the log-probability of a completion with positive
    advantage and lowers that of one with negative advantage.
    """
    try:
        return _broken_loss_law(loss)
    except Exception as error:
        return f"it raised {type(error).__name__} on a small batch: {error}"


def _broken_loss_law(loss: Callable[..., Any]) -> str | None:
    inputs = _batch(off_policy=True)
    before = [tensor.detach().clone() for tensor in inputs]
    result = loss(*inputs, **CLIP)
    if broken := _broken_form(result, inputs[0]):
        return broken
    if any(not torch.equal(now.detach(), was) for now, was in zip(inputs, before, strict=True)):
        return "it changes its arguments in place; work on a copy"
    if not torch.equal(loss(*_batch(off_policy=True), **CLIP).loss_T, result.loss_T):
        return "it gives another value for the same arguments; a resumed run could not be the same"
    gradient_T = torch.autograd.grad(result.loss_T.sum(), inputs[0])[0]
    if not bool(torch.isfinite(gradient_T).all()):
        return "its gradient is not finite"
    if bool(gradient_T[inputs[3] == 2].abs().max() > TOLERANCE):
        return "a completion with advantage 0 has a gradient; it must have none, as groups without signal have none"
    return _broken_separation(loss, result.loss_T.detach()) or _broken_sign(loss)


def _broken_form(result: object, logprobs_T: Tensor) -> str | None:
    if not isinstance(result, PolicyLoss):
        return f"it returned a {type(result).__name__}; return the loss of every token as a tensor [T], or a PolicyLoss"
    for name, tensor in (("loss_T", result.loss_T), ("clipped_T", result.clipped_T)):
        if tensor.shape != logprobs_T.shape:
            return (
                f"its {name} has shape {list(tensor.shape)} for logprobs of {list(logprobs_T.shape)}; a loss is "
                "one value per token, and weights and sums are applied outside"
            )
    if result.loss_T.dtype != logprobs_T.dtype:
        return f"its loss_T is {result.loss_T.dtype} for {logprobs_T.dtype} logprobs; keep the dtype"
    if not bool(torch.isfinite(result.loss_T).all()):
        return "its loss_T is not finite"
    if not result.loss_T.requires_grad:
        return "its loss_T carries no gradient; it must be computed from logprobs_T"
    return None


def _broken_separation(loss: Callable[..., Any], together_T: Tensor) -> str | None:
    """Each completion alone has the loss that it has in the batch."""
    logprobs_T, old_T, advantages_T, segments_T = _batch(off_policy=True)
    for number in range(len(_LENGTHS)):
        own = segments_T == number
        alone = loss(logprobs_T[own], old_T[own], advantages_T[own], torch.zeros_like(segments_T[own]), **CLIP)
        if not torch.allclose(alone.loss_T.detach(), together_T[own], atol=TOLERANCE, rtol=TOLERANCE):
            return (
                "the loss of a completion depends on the others of its micro-batch, so it would depend on packing; use "
                "segments_T to keep completions apart"
            )
    return None


def _broken_sign(loss: Callable[..., Any]) -> str | None:
    logprobs_T, old_T, advantages_T, segments_T = _batch(off_policy=False)
    total = loss(logprobs_T, old_T, advantages_T, segments_T, **CLIP).loss_T.sum()
    gradient_T = torch.autograd.grad(total, logprobs_T)[0]
    for number, word in ((0, "positive"), (1, "negative")):
        step = -float(gradient_T[segments_T == number].sum()) * _ADVANTAGES[number]
        if not step > 0:
            return f"on-policy, minimising it moves a completion with {word} advantage the wrong way; flip the sign"
    return None


def _batch(*, off_policy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logprobs_T, old_logprobs_T, advantages_T, segments_T; ratios between 0.9 and 1.1, inside the clip."""
    segments_T = torch.repeat_interleave(torch.arange(len(_LENGTHS)), torch.tensor(_LENGTHS))
    steps_T = torch.arange(len(segments_T), dtype=torch.float32)
    logprobs_T = (-0.3 - 0.2 * steps_T).requires_grad_()
    offset_T = 0.09 * torch.cos(steps_T) if off_policy else torch.zeros_like(steps_T)
    return logprobs_T, logprobs_T.detach() - offset_T, torch.tensor(_ADVANTAGES)[segments_T], segments_T


def broken_advantage_law(advantage: Callable[..., Any]) -> str | None:
    """In words, which law does not hold; None where all do.

    Signature (rewards_PG, graded_PG); shape and dtype of rewards_PG; finite; the same again for the same input;
    arguments unchanged; a group of equal rewards gets 0; a completion without a reward gets 0, whatever its
    value; the best of a group is never below its worst.
    """
    try:
        return _broken_advantage_law(advantage)
    except Exception as error:
        return f"it raised {type(error).__name__} on a small batch: {error}"


def _broken_advantage_law(advantage: Callable[..., Any]) -> str | None:
    names = list(inspect.signature(advantage).parameters)
    if len(names) < 2:
        return f"it takes {', '.join(names) or 'nothing'}; it is called with rewards_PG and graded_PG (bool)"
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 0.5], [1.0, 1.0, 1.0, 1.0], [-2.0, 3.0, 0.0, 3.0]], dtype=torch.float64)
    graded_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
    graded_PG[2, 0] = graded_PG[2, 2] = False
    before = rewards_PG.clone(), graded_PG.clone()
    found_PG = advantage(rewards_PG, graded_PG)
    if not isinstance(found_PG, Tensor) or found_PG.shape != rewards_PG.shape or found_PG.dtype != rewards_PG.dtype:
        given = f"{list(found_PG.shape)} {found_PG.dtype}" if isinstance(found_PG, Tensor) else type(found_PG).__name__
        return f"it returned {given} for rewards of {list(rewards_PG.shape)} {rewards_PG.dtype}; keep shape and dtype"
    if not (torch.equal(rewards_PG, before[0]) and torch.equal(graded_PG, before[1])):
        return "it changes its arguments in place; work on a copy"
    others_PG = rewards_PG.masked_fill(~graded_PG, 7.0)
    failures: Sequence[tuple[bool, str]] = (
        (bool(torch.isfinite(found_PG).all()), "its result is not finite"),
        (torch.equal(advantage(rewards_PG, graded_PG), found_PG), "it gives another result for the same rewards"),
        (bool((found_PG[1] == 0).all()), "a group of equal rewards does not get exactly 0"),
        (bool((found_PG[~graded_PG] == 0).all()), "a completion without a reward (graded_PG False) does not get 0"),
        (
            torch.allclose(advantage(others_PG, graded_PG), found_PG),
            "the value of a missing reward (graded_PG False) changes the others' advantages",
        ),
        (bool(found_PG[0, 0] >= found_PG[0, 1]), "the best completion of a group gets less than its worst"),
        (
            torch.allclose(advantage(rewards_PG, None), advantage(rewards_PG, torch.ones_like(graded_PG))),
            "graded_PG = None must mean that all are graded",
        ),
    )
    return next((words for holds, words in failures if not holds), None)
