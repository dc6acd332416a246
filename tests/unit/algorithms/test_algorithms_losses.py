"""Every loss against a slow float64 reference in plain Python, its gradient against central differences.

Where a loss stops gradients, the reference takes the frozen numbers as an argument of their own, so that the
differences see exactly what the paper says is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from deepscaler.algorithms.losses import LOSSES, combine
from deepscaler.config.sections.algorithm import LOSS_NAMES

Floats = list[float]
SEGMENTS = [0, 0, 0, 2, 2, 2, 2, 1, 1, 3, 3, 3, 3, 3]  # completion 2 comes before completion 1
ADVANTAGE_OF = {0: 1.3, 1: -0.7, 2: -2.0, 3: 0.9}
ADVANTAGES = [ADVANTAGE_OF[s] for s in SEGMENTS]
LOW, HIGH = 0.2, 0.28


def reference_clipped(new: Floats, frozen: Floats, old: Floats, low: float, high: float) -> Floats:
    values = []
    for logprob, old_logprob, advantage in zip(new, old, ADVANTAGES, strict=True):
        ratio = math.exp(logprob - old_logprob)
        bounded = min(max(ratio, 1 - low), 1 + high)
        values.append(max(-advantage * ratio, -advantage * bounded))
    return values


def reference_gspo(new: Floats, frozen: Floats, old: Floats, low: float, high: float) -> Floats:
    """The sequence form, without any stop-gradient: one ratio for the whole completion."""
    values = [0.0] * len(new)
    for segment, advantage in ADVANTAGE_OF.items():
        members = [t for t, s in enumerate(SEGMENTS) if s == segment]
        ratio = math.exp(sum(new[t] - old[t] for t in members) / len(members))
        bounded = min(max(ratio, 1 - low), 1 + high)
        for t in members:
            values[t] = max(-advantage * ratio, -advantage * bounded)
    return values


def reference_cispo(new: Floats, frozen: Floats, old: Floats, low: float, high: float) -> Floats:
    values = []
    for logprob, constant, old_logprob, advantage in zip(new, frozen, old, ADVANTAGES, strict=True):
        weight = min(max(math.exp(constant - old_logprob), 1 - low), 1 + high)
        values.append(-weight * advantage * logprob)
    return values


def reference_reinforce(new: Floats, frozen: Floats, old: Floats, low: float, high: float) -> Floats:
    return [-advantage * logprob for logprob, advantage in zip(new, ADVANTAGES, strict=True)]


REFERENCES: dict[str, Callable[[Floats, Floats, Floats, float, float], Floats]] = {
    "clipped_surrogate": reference_clipped,
    "gspo": reference_gspo,
    "cispo": reference_cispo,
    "reinforce": reference_reinforce,
}


def draw(seed: int, spread: float = 0.4) -> tuple[Floats, Floats]:
    """(logprobs, old_logprobs), far enough apart that some ratios leave the bounds on either side."""
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(len(SEGMENTS), generator=generator, dtype=torch.float64) - 0.1
    shift = spread * torch.randn(len(SEGMENTS), generator=generator, dtype=torch.float64)
    # Completions move as a whole too: independent tokens alone would keep GSPO's mean inside its bounds.
    whole = torch.tensor([0.5, 0.6, -0.5, 0.02], dtype=torch.float64)[torch.tensor(SEGMENTS)]
    return (old + shift + whole).tolist(), old.tolist()


def ours(name: str, new: torch.Tensor, old: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    result = LOSSES[name](
        new,
        torch.tensor(old, dtype=torch.float64),
        torch.tensor(ADVANTAGES, dtype=torch.float64),
        torch.tensor(SEGMENTS),
        clip_low=LOW,
        clip_high=HIGH,
    )
    return result.loss_T, result.clipped_T


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", LOSSES)
def test_the_value_is_the_formula(name: str, seed: int) -> None:
    new, old = draw(seed)
    got, _ = ours(name, torch.tensor(new, dtype=torch.float64), old)
    assert got.tolist() == pytest.approx(REFERENCES[name](new, new, old, LOW, HIGH), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_central_differences(name: str, seed: int) -> None:
    """Weights are equal inside a completion, as every reduction gives them; GSPO's token form needs that."""
    new, old = draw(seed)
    weights = [[0.7, 0.1, 0.4, 0.9][s] for s in SEGMENTS]
    logprobs = torch.tensor(new, dtype=torch.float64, requires_grad=True)
    loss, _ = ours(name, logprobs, old)
    (loss * torch.tensor(weights, dtype=torch.float64)).sum().backward()
    assert logprobs.grad is not None

    def total(at: Floats) -> float:
        return math.fsum(w * x for w, x in zip(weights, REFERENCES[name](at, new, old, LOW, HIGH), strict=True))

    h = 1e-6
    for t in range(len(new)):
        up, down = list(new), list(new)
        up[t] += h
        down[t] -= h
        assert logprobs.grad[t].item() == pytest.approx((total(up) - total(down)) / (2 * h), abs=1e-7)


def test_cispo_does_not_differentiate_its_weight() -> None:
    new, old = draw(0)
    logprobs = torch.tensor(new, dtype=torch.float64, requires_grad=True)
    ours("cispo", logprobs, old)[0].sum().backward()
    weight = (logprobs.detach() - torch.tensor(old, dtype=torch.float64)).exp().clamp(1 - LOW, 1 + HIGH)
    torch.testing.assert_close(logprobs.grad, -weight * torch.tensor(ADVANTAGES, dtype=torch.float64))


def test_cispo_keeps_the_gradient_of_tokens_that_clipping_takes_it_from() -> None:
    new, old = draw(0)
    zero_of = {}
    for name in ("clipped_surrogate", "cispo"):
        logprobs = torch.tensor(new, dtype=torch.float64, requires_grad=True)
        loss, clipped = ours(name, logprobs, old)
        loss.sum().backward()
        assert logprobs.grad is not None
        zero_of[name] = (logprobs.grad == 0, clipped)
    zero, clipped = zero_of["clipped_surrogate"]
    assert clipped.any() and not clipped.all()
    assert (zero == clipped).all()
    assert not zero_of["cispo"][0].any()


def test_cispo_with_a_lower_distance_of_one_clips_from_above_only() -> None:
    old = torch.zeros(2, dtype=torch.float64)
    new = torch.tensor([-30.0, 3.0], dtype=torch.float64)
    result = LOSSES["cispo"](new, old, torch.ones(2).double(), torch.tensor([0, 1]), clip_low=1.0, clip_high=4.0)
    assert result.clipped_T.tolist() == [False, True]
    assert result.loss_T.tolist() == pytest.approx([math.exp(-30) * 30, -5 * 3.0])


def test_gspo_clips_completions_as_a_whole() -> None:
    new, old = draw(1)
    _, clipped = ours("gspo", torch.tensor(new, dtype=torch.float64), old)
    by_completion = {s: {bool(c) for c, t in zip(clipped, SEGMENTS, strict=True) if t == s} for s in ADVANTAGE_OF}
    assert all(len(values) == 1 for values in by_completion.values())
    assert {True} in by_completion.values() and {False} in by_completion.values()


def test_gspo_is_length_normalised() -> None:
    """Twice the tokens with the same shift each leave the ratio as it is."""
    for length in (2, 4, 40000):
        result = LOSSES["gspo"](
            torch.full((length,), -0.999),
            torch.full((length,), -1.0),
            torch.ones(length),
            torch.zeros(length, dtype=torch.int64),
            clip_low=0.1,
            clip_high=0.1,
        )
        assert result.loss_T[0].item() == pytest.approx(-math.exp(0.001), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_micro_batch_without_tokens_is_empty_not_an_error(name: str) -> None:
    none = torch.zeros(0)
    result = LOSSES[name](none, none, none, torch.zeros(0, dtype=torch.int64), clip_low=0.2, clip_high=0.2)
    assert result.loss_T.shape == result.clipped_T.shape == (0,)


def test_every_loss_of_a_recipe_exists_and_nothing_else() -> None:
    assert set(LOSSES) == set(LOSS_NAMES)


def test_combine_is_the_sum_of_its_terms_and_corrects_only_the_policy_term() -> None:
    policy, importance = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 2.0])
    kl, entropy = torch.tensor([3.0, 5.0]), torch.tensor([7.0, 11.0])
    got = combine(
        policy,
        importance_T=importance,
        kl_T=kl,
        kl_coefficient=0.1,
        entropy_T=entropy,
        entropy_coefficient=0.01,
    )
    assert got.tolist() == pytest.approx([0.5 + 0.3 - 0.07, 4.0 + 0.5 - 0.11])


def test_a_term_with_coefficient_zero_is_left_out_even_when_it_is_not_finite() -> None:
    bad = torch.tensor([float("inf"), float("nan")])
    policy = torch.tensor([1.0, 2.0])
    assert combine(policy, kl_T=bad, entropy_T=bad).tolist() == [1.0, 2.0]


def test_a_coefficient_without_its_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_coefficient"):
        combine(torch.zeros(1), kl_coefficient=0.1)
    with pytest.raises(ValueError, match="entropy_coefficient"):
        combine(torch.zeros(1), entropy_coefficient=0.1)
