"""Tokens are drawn from the distribution they should be drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepscaler.engines.torch.sampling import KeyedUniforms, draw
from deepscaler.randomness import key_of, uniforms
from deepscaler.types import SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])


def frequencies(params: SamplingParams, count: int = 40_000) -> np.ndarray:
    u = torch.from_numpy(np.random.default_rng(0).random(count))
    tokens, _ = draw(LOGITS.expand(count, -1), u, params)
    return np.bincount(tokens.numpy(), minlength=5) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_scaled_softmax(temperature):
    expected = torch.softmax(LOGITS / temperature, -1).numpy()
    found = frequencies(SamplingParams(1, temperature))
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(40_000))


def test_top_k_keeps_the_k_most_likely_in_proportion():
    p = torch.softmax(LOGITS, -1).numpy()
    expected = np.where(np.arange(5) < 2, p, 0) / p[:2].sum()
    np.testing.assert_allclose(frequencies(SamplingParams(1, 1.0, top_k=2)), expected, atol=0.01)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    p = torch.softmax(LOGITS, -1).numpy()
    assert p[0] < 0.7 < p[:2].sum()
    found = frequencies(SamplingParams(1, 1.0, top_p=0.7))
    np.testing.assert_allclose(found, np.where(np.arange(5) < 2, p, 0) / p[:2].sum(), atol=0.01)


def test_logprobs_are_those_of_the_untruncated_distribution():
    params = SamplingParams(1, 0.6, top_p=0.5, top_k=2)
    tokens, logprobs = draw(LOGITS.expand(3, -1), torch.tensor([0.1, 0.5, 0.9]), params)
    expected = torch.log_softmax(LOGITS / 0.6, -1)[tokens]
    torch.testing.assert_close(logprobs, expected)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53, 1.0])
def test_extreme_uniforms_never_pick_an_impossible_token(u):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    tokens, logprobs = draw(logits, torch.tensor([u], dtype=torch.float32), SamplingParams(1))
    assert tokens.item() == 1
    assert logprobs.item() == 0.0


def test_keyed_uniforms_are_a_function_of_their_key_and_position():
    params = SamplingParams(1, seed=3, step=8)
    first, second = KeyedUniforms(params, "p", 1), KeyedUniforms(params, "p", 1)
    forwards = np.concatenate([first.block(i) for i in range(4)])
    backwards = np.concatenate([second.block(i) for i in reversed(range(4))][::-1])
    np.testing.assert_array_equal(forwards, backwards)
    assert len(np.unique(forwards)) == len(forwards) == 256
    assert np.isclose(forwards.mean(), 0.5, atol=0.1)


def test_blocks_of_a_stream_do_not_overlap():
    key = key_of("x", 1)
    values = np.concatenate([uniforms(key, block, 64) for block in range(50)])
    assert len(np.unique(values)) == len(values)


def test_keys_tell_types_and_borders_apart():
    keys = {key_of(*parts).tobytes() for parts in [(1, 2), (12,), ("1", 2), (1, "2"), ("1\x1f2",)]}
    assert len(keys) == 5
