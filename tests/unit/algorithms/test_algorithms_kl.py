"""KL estimators: formulas, central differences, and what their gradients are in expectation."""

from __future__ import annotations

import math

import pytest
import torch

from deepscaler.algorithms.kl import KL_ESTIMATORS
from deepscaler.config.sections.algorithm import KlSection

FORMULAS = {
    "k1": lambda p, q: p - q,
    "k2": lambda p, q: (p - q) ** 2 / 2,
    "k3": lambda p, q: min(max(math.exp(q - p) - (q - p) - 1, -10.0), 10.0),
}
PAIRS = [(-0.1, -0.1), (-2.0, -1.5), (-1.5, -2.0), (-3.0, -0.2), (-0.01, -6.0), (-0.01, -15.0), (-9.0, -0.01)]


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_value_and_gradient_are_those_of_the_formula(name: str) -> None:
    logprobs = torch.tensor([p for p, _ in PAIRS], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([q for _, q in PAIRS], dtype=torch.float64)
    got = KL_ESTIMATORS[name](logprobs, ref)
    got.sum().backward()
    assert logprobs.grad is not None
    h = 1e-6
    for t, (p, q) in enumerate(PAIRS):
        slope = (FORMULAS[name](p + h, q) - FORMULAS[name](p - h, q)) / (2 * h)
        assert got[t].item() == pytest.approx(FORMULAS[name](p, q), abs=1e-12)
        assert logprobs.grad[t].item() == pytest.approx(slope, abs=1e-6)


def test_every_estimator_of_a_recipe_exists_and_nothing_else() -> None:
    literals = KlSection.model_fields["estimator"].annotation.__args__  # type: ignore[union-attr]
    assert set(KL_ESTIMATORS) == set(literals)


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_at_the_reference_value_and_gradient_of_k2_and_k3_vanish(name: str) -> None:
    logprobs = torch.tensor([-0.3, -4.0], requires_grad=True)
    value = KL_ESTIMATORS[name](logprobs, logprobs.detach().clone())
    value.sum().backward()
    assert (value == 0).all()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == ([1.0, 1.0] if name == "k1" else [0.0, 0.0])


def test_k3_of_a_hopeless_token_is_capped_and_its_gradient_finite() -> None:
    logprobs = torch.tensor([-200.0, -0.001], requires_grad=True)
    value = KL_ESTIMATORS["k3"](logprobs, torch.tensor([-0.001, -200.0]))
    value.sum().backward()
    assert value.tolist() == [10.0, 10.0]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0]


def expected_gradient(name: str, theta: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    """Gradient of the estimator as a loss, averaged exactly over tokens drawn from softmax(theta)."""
    theta = theta.clone().requires_grad_()
    logprobs = theta.log_softmax(0)
    (logprobs.detach().exp() * KL_ESTIMATORS[name](logprobs, ref)).sum().backward()
    assert theta.grad is not None
    return theta.grad


def divergence_gradient(theta: torch.Tensor, ref: torch.Tensor, *, forward: bool) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    logprobs = theta.log_softmax(0)
    terms = ref.exp() * (ref - logprobs) if forward else logprobs.exp() * (logprobs - ref)
    terms.sum().backward()
    assert theta.grad is not None
    return theta.grad


def test_expected_gradients_k1_is_nothing_k2_is_reverse_kl_k3_is_forward_kl() -> None:
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(6, generator=generator, dtype=torch.float64)
    ref = (theta + 0.5 * torch.randn(6, generator=generator, dtype=torch.float64)).log_softmax(0)
    reverse, forward = (divergence_gradient(theta, ref, forward=f) for f in (False, True))
    assert not torch.allclose(reverse, forward, rtol=1e-2)
    torch.testing.assert_close(expected_gradient("k1", theta, ref), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(expected_gradient("k2", theta, ref), reverse)
    torch.testing.assert_close(expected_gradient("k3", theta, ref), forward)


def test_expected_values_of_k1_and_k3_are_the_divergence_and_k2_is_not() -> None:
    generator = torch.Generator().manual_seed(4)
    logprobs = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    ref = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    divergence = (logprobs.exp() * (logprobs - ref)).sum()
    values = {name: (logprobs.exp() * f(logprobs, ref)).sum() for name, f in KL_ESTIMATORS.items()}
    torch.testing.assert_close(values["k1"], divergence)
    torch.testing.assert_close(values["k3"], divergence)
    assert not torch.allclose(values["k2"], divergence, rtol=1e-2)
