"""Chunked log-probabilities and entropies equal the plain ones, values and gradients."""

from __future__ import annotations

import pytest
import torch

from deepscaler.training.logprobs import token_logprobs

T, WIDTH, VOCABULARY = 23, 6, 17


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCABULARY, (T,), generator=generator)


def plain(hidden, weight, targets, temperature):
    log_p = torch.log_softmax(hidden.double() @ weight.double().T / temperature, -1)
    return log_p.gather(1, targets.unsqueeze(1)).squeeze(1), -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.4])
def test_values_and_gradients_equal_full_logits_in_float64(chunk, temperature):
    hidden, weight, targets = inputs()
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(2, T, generator=generator)
    logprobs, entropies = token_logprobs(hidden, weight, targets, temperature=temperature, chunk_tokens=chunk)
    expected_logprobs, expected_entropies = plain(hidden, weight, targets, temperature)
    torch.testing.assert_close(logprobs.double(), expected_logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies.double(), expected_entropies, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad((mix[0] * logprobs + mix[1] * entropies).sum(), (hidden, weight))
    want = torch.autograd.grad((mix[0] * expected_logprobs + mix[1] * expected_entropies).sum(), (hidden, weight))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b.float(), atol=2e-5, rtol=1e-4)


def test_uniform_logits_have_the_entropy_of_a_fair_die():
    _, entropies = token_logprobs(
        torch.zeros(3, WIDTH),
        torch.randn(VOCABULARY, WIDTH),
        torch.zeros(3, dtype=torch.long),
        temperature=1.0,
        chunk_tokens=2,
    )
    torch.testing.assert_close(entropies, torch.full((3,), VOCABULARY, dtype=torch.float32).log())


def test_impossible_tokens_do_not_poison_the_entropy():
    weight = torch.cat([torch.randn(VOCABULARY - 1, 1), torch.full((1, 1), -1e30)])
    hidden = torch.ones(1, 1, requires_grad=True)
    logprobs, entropies = token_logprobs(
        hidden, weight, torch.zeros(1, dtype=torch.long), temperature=1.0, chunk_tokens=4
    )
    assert torch.isfinite(logprobs).all() and torch.isfinite(entropies).all()
