"""Laws of the algorithms: what must hold whatever the numbers are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.algorithms.advantages import ADVANTAGES
from deepscaler.algorithms.kl import KL_ESTIMATORS
from deepscaler.algorithms.losses import LOSSES, combine
from deepscaler.algorithms.reduction import REDUCTIONS

VOCABULARY = 5
CLIPS: dict[str, dict[str, float]] = {
    "clipped_surrogate": {"clip_low": 0.2, "clip_high": 0.28},
    "gspo": {"clip_low": 0.05, "clip_high": 0.08},
    "cispo": {"clip_low": 0.3, "clip_high": 0.4},
    "reinforce": {"clip_low": 0.2, "clip_high": 0.2},
}
law = settings(derandomize=True, database=None, deadline=None, max_examples=40)

shapes = st.tuples(st.integers(1, 4), st.integers(2, 6))
reward = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.7, 1.0, -1.0])


@st.composite
def rewards_of(draw: st.DrawFn) -> torch.Tensor:
    P, G = draw(shapes)
    rows = [[draw(reward) for _ in range(G)] for _ in range(P)]
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Completions of a policy softmax(theta) that a few updates have moved away from `old_theta`."""
    P, G = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    lengths = torch.randint(1, 6, (P, G), generator=generator)
    mask = torch.rand(P, G, generator=generator) < 0.8
    theta = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    shift = 0.4 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    tokens = [torch.randint(0, VOCABULARY, (int(n),), generator=generator) for n in lengths.flatten()]
    advantages = ADVANTAGES["group_normalized"](torch.rand(P, G, generator=generator, dtype=torch.float64))
    order = torch.randperm(P * G, generator=generator).tolist()
    cuts = sorted(draw(st.sets(st.integers(1, max(P * G - 1, 1)), max_size=3)))
    return {
        "lengths": lengths,
        "mask": mask,
        "theta": theta,
        "shift": shift,
        "tokens": tokens,
        "advantages": advantages,
        "order": order,
        "cuts": cuts,
    }


def weighted_loss(
    batch: dict[str, Any], loss: str, weights: torch.Tensor, members: list[int], theta: torch.Tensor
) -> torch.Tensor:
    """The share of the step's loss that these completions, packed in this order, contribute."""
    tokens = torch.cat([batch["tokens"][i] for i in members])
    segments = torch.cat([torch.full_like(batch["tokens"][i], k) for k, i in enumerate(members)])
    of_member = torch.tensor(members)[segments]
    logprobs = theta.log_softmax(0)[tokens]
    old = (batch["theta"] + batch["shift"]).log_softmax(0)[tokens]
    policy = LOSSES[loss](logprobs, old, batch["advantages"].flatten()[of_member], segments, **CLIPS[loss])
    probs = theta.softmax(0)
    entropy = -(probs * probs.log()).sum().expand_as(logprobs)
    total = combine(
        policy.loss_T,
        kl_T=KL_ESTIMATORS["k3"](logprobs, old),
        kl_coefficient=0.1,
        entropy_T=entropy,
        entropy_coefficient=0.1,
    )
    return (weights.flatten()[of_member] * total).sum()


@law
@given(
    rewards=rewards_of(),
    name=st.sampled_from(sorted(ADVANTAGES)),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_equal_rewards_give_exactly_zero_advantage(rewards: torch.Tensor, name: str, dtype: str) -> None:
    rewards = rewards.to(getattr(torch, dtype))
    rewards[0] = rewards[0, 0]
    assert (ADVANTAGES[name](rewards)[0] == 0).all()


@law
@given(rewards=rewards_of(), name=st.sampled_from(sorted(ADVANTAGES)))
def test_advantages_of_a_group_add_up_to_zero_and_keep_the_order_of_rewards(rewards: torch.Tensor, name: str) -> None:
    advantages = ADVANTAGES[name](rewards)
    torch.testing.assert_close(advantages.sum(1), torch.zeros(len(rewards), dtype=torch.float64), atol=1e-9, rtol=0)
    higher = rewards[:, :, None] > rewards[:, None, :]
    assert (advantages[:, :, None] > advantages[:, None, :])[higher].all()


@law
@given(rewards=rewards_of(), name=st.sampled_from(sorted(ADVANTAGES)), data=st.data())
def test_permuting_prompts_and_completions_permutes_advantages(
    rewards: torch.Tensor, name: str, data: st.DataObject
) -> None:
    prompts = data.draw(st.permutations(range(rewards.shape[0])))
    completions = data.draw(st.permutations(range(rewards.shape[1])))
    permuted = ADVANTAGES[name](rewards[prompts][:, completions])
    torch.testing.assert_close(permuted, ADVANTAGES[name](rewards)[prompts][:, completions], rtol=1e-9, atol=1e-12)


@law
@given(batch=batches(), name=st.sampled_from(sorted(REDUCTIONS)), data=st.data())
def test_permuting_prompts_and_completions_permutes_weights(
    batch: dict[str, Any], name: str, data: st.DataObject
) -> None:
    lengths, mask = batch["lengths"], batch["mask"]
    prompts = data.draw(st.permutations(range(lengths.shape[0])))
    completions = data.draw(st.permutations(range(lengths.shape[1])))
    weights = REDUCTIONS[name](lengths, mask, fixed_length=6)
    permuted = REDUCTIONS[name](lengths[prompts][:, completions], mask[prompts][:, completions], fixed_length=6)
    torch.testing.assert_close(permuted, weights[prompts][:, completions], rtol=1e-12, atol=0)


@law
@given(batch=batches(), loss=st.sampled_from(sorted(LOSSES)), reduction=st.sampled_from(sorted(REDUCTIONS)))
def test_splitting_and_reordering_a_batch_changes_neither_loss_nor_gradient(
    batch: dict[str, Any], loss: str, reduction: str
) -> None:
    weights = REDUCTIONS[reduction](batch["lengths"], batch["mask"], fixed_length=6)
    everything = list(range(weights.numel()))
    whole = batch["theta"].clone().requires_grad_()
    expected = weighted_loss(batch, loss, weights, everything, whole)
    expected.backward()

    parts = batch["theta"].clone().requires_grad_()
    order, bounds = batch["order"], [0, *batch["cuts"], weights.numel()]
    total = torch.zeros((), dtype=torch.float64)
    for start, end in pairwise(bounds):
        if start < end:
            micro = weighted_loss(batch, loss, weights, order[start:end], parts)
            micro.backward()
            total += micro.detach()
    torch.testing.assert_close(total, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-10, atol=1e-12)


@law
@given(batch=batches(), loss=st.sampled_from(sorted(LOSSES)))
def test_on_policy_clipping_does_nothing_and_every_loss_has_the_same_gradient(batch: dict[str, Any], loss: str) -> None:
    """The policy gradient -A * grad logprob, exactly, with the tightest bounds there are."""
    tokens = torch.cat(batch["tokens"])
    segments = torch.cat([torch.full_like(t, k) for k, t in enumerate(batch["tokens"])])
    advantages = batch["advantages"].flatten()[segments]
    logprobs = batch["theta"].log_softmax(0)[tokens].requires_grad_()
    result = LOSSES[loss](logprobs, logprobs.detach().clone(), advantages, segments, clip_low=0.0, clip_high=0.0)
    result.loss_T.sum().backward()
    assert not result.clipped_T.any()
    assert logprobs.grad is not None
    assert torch.equal(logprobs.grad, -advantages)


# The sign of every term: DeepScaleR's first stage ran with a negative KL coefficient and maximised the KL.

THETA = torch.tensor([0.3, -0.2, 0.9, 0.0, -1.0], dtype=torch.float64)
REFERENCE = torch.tensor([-0.1, 0.4, 0.2, 0.3, -0.6], dtype=torch.float64).log_softmax(0)


def descended(theta: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """theta after one small step down the gradient of the loss, without its graph."""
    (gradient,) = torch.autograd.grad(loss, theta)
    assert gradient.abs().max() > 1e-4
    return (theta - 0.01 * gradient).detach()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("shift", [0.0, 0.03, -0.03], ids=["on-policy", "likelier", "less-likely"])
def test_descending_raises_logprobs_of_positive_and_lowers_those_of_negative_advantage(
    loss: str, advantage: float, shift: float
) -> None:
    theta = THETA.clone().requires_grad_()
    logprobs = theta.log_softmax(0)[[2, 0]]
    result = LOSSES[loss](
        logprobs,
        logprobs.detach() - shift,
        torch.full((2,), advantage, dtype=torch.float64),
        torch.tensor([0, 0]),
        **CLIPS[loss],
    )
    after = descended(theta, combine(result.loss_T).sum()).log_softmax(0)[[2, 0]].sum()
    assert (after > logprobs.sum()) == (advantage > 0)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_descending_the_kl_term_moves_the_policy_towards_the_reference(estimator: str) -> None:
    theta = THETA.clone().requires_grad_()
    logprobs = theta.log_softmax(0)
    kl = KL_ESTIMATORS[estimator](logprobs, REFERENCE)
    loss = combine(torch.zeros(5, dtype=torch.float64), kl_T=kl, kl_coefficient=0.5)
    before = logprobs.detach()
    after = descended(theta, (before.exp() * loss).sum()).log_softmax(0)
    assert (after.exp() * (after - REFERENCE)).sum() < (before.exp() * (before - REFERENCE)).sum()
    assert (REFERENCE.exp() * (REFERENCE - after)).sum() < (REFERENCE.exp() * (REFERENCE - before)).sum()


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("above", [0.4, -0.4])
def test_the_kl_gradient_of_a_single_token_points_to_the_reference(estimator: str, above: float) -> None:
    logprobs = torch.tensor([-1.5], requires_grad=True)
    kl = KL_ESTIMATORS[estimator](logprobs, torch.tensor([-1.5 - above]))
    combine(torch.zeros(1), kl_T=kl, kl_coefficient=0.001).sum().backward()
    assert logprobs.grad is not None
    assert (logprobs.grad > 0).item() == (above > 0)


def test_descending_the_entropy_term_raises_the_entropy() -> None:
    def entropy(theta: torch.Tensor) -> torch.Tensor:
        return -(theta.softmax(0) * theta.log_softmax(0)).sum()

    theta = THETA.clone().requires_grad_()
    before = entropy(theta)
    loss = combine(torch.zeros(1, dtype=torch.float64), entropy_T=before[None], entropy_coefficient=0.5)
    assert entropy(descended(theta, loss.sum())) > before
