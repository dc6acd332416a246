"""Tokens that are there already are scored as sampling scores them, with the likeliest tokens beside each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.engines.torch import scoring
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.types import Request, SamplingParams
from tiny_models import make_generic


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("chunk", [3, 256])
def test_scores_are_those_of_sampling(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, temperature: float, chunk: int
) -> None:
    monkeypatch.setattr(scoring, "CHUNK_TOKENS", chunk)
    engine = TorchEngine(tiny_model(), stop_ids=frozenset())
    prompt = np.array([3, 4, 5, 6], np.int32)
    (rollout,) = engine.generate([Request("p", prompt, 1)], SamplingParams(20, temperature, seed=2))
    ids = np.concatenate([prompt, rollout.completion_ids])
    scores = engine.score(ids, np.full(20, temperature, np.float32), 5)
    np.testing.assert_allclose(scores.logprobs, rollout.rollout_logprobs, atol=1e-4)
    if not temperature:
        np.testing.assert_array_equal(scores.top_ids[:, 0], rollout.completion_ids)
        np.testing.assert_array_equal(scores.top_logprobs[:, 0], scores.logprobs)


def test_the_likeliest_tokens_are_those_of_the_model(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    engine = TorchEngine(model, stop_ids=frozenset())
    ids = np.array([7, 3, 9, 2, 30, 11], np.int32)
    temperatures = np.array([1.0, 1.0, 0.5, 0.5, 0.0], np.float32)
    scores = engine.score(ids, temperatures, 4)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64)).unsqueeze(0)).logits[0, :-1]
    expected = torch.log_softmax(logits / torch.tensor([[1.0], [1.0], [0.5], [0.5], [1.0]]), -1)
    np.testing.assert_allclose(scores.logprobs, expected[range(5), ids[1:].tolist()], atol=1e-4)
    np.testing.assert_allclose(scores.top_logprobs, expected.topk(4).values, atol=1e-4)
    np.testing.assert_array_equal(scores.top_ids, expected.topk(4).indices)
    # Only the last tokens, given all before them.
    np.testing.assert_allclose(engine.score(ids, temperatures[3:], 4).logprobs, scores.logprobs[3:], atol=1e-6)


@pytest.mark.parametrize("chunk", [3, 256])
def test_a_model_without_a_family_scores_by_its_own_logits(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Its logits are capped after the head."""
    monkeypatch.setattr(scoring, "CHUNK_TOKENS", chunk)
    model, ids = make_generic("gemma2"), np.array([7, 3, 9, 2, 30, 11], np.int32)
    scores = scoring.score_tokens(model, ids, np.array([1.0, 0.5, 0.5, 0.0], np.float32), 4)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64)).unsqueeze(0)).logits[0, 1:-1]
    expected = torch.log_softmax(logits / torch.tensor([[1.0], [0.5], [0.5], [1.0]]), -1)
    np.testing.assert_allclose(scores.logprobs, expected[range(4), ids[2:].tolist()], atol=1e-5)
    np.testing.assert_array_equal(scores.top_ids, expected.topk(4).indices)
