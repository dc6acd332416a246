"""Sampling of the vLLM engine: what it adds to the conformance suite.

vLLM is heavy and pins its own torch: `make test-vllm` makes an environment for it and runs this there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.config.evaluation import load_evaluation
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.vllm import engine as vllm_engine
from deepscaler.evaluation.datasets import describe
from deepscaler.loop.evaluate import Job, evaluate_model
from deepscaler.loop.progress import Progress
from deepscaler.modeling.head import forbid_ids
from deepscaler.modeling.weights import LiveWeights
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Problem, Request, RunError, TrainSample
from tiny_run import write_model
from vllm_engines import PARAMS, requests, start, worst_error

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own


def test_ids_without_a_token_are_left_out_as_in_the_learner(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    forbidden = [3, 4, 17, 36, 37, 38, 39]
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path, forbidden_ids=forbidden)
    forbid_ids(model, forbidden)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=PARAMS.temperature)
    for params in (PARAMS, replace(PARAMS, temperature=0.0), replace(PARAMS, top_k=3)):
        rollouts = list(engine.generate(requests(), params))
        assert not any(np.isin(r.completion_ids, forbidden).any() for r in rollouts)
        if params is PARAMS:
            ones = [np.ones(r.num_tokens, np.float32) for r in rollouts]
            samples = [
                TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, weights, 0)
                for r, weights in zip(rollouts, ones, strict=True)
            ]
            for rollout, found in zip(rollouts, computer.logprobs(samples), strict=True):
                np.testing.assert_allclose(rollout.rollout_logprobs, found, atol=5e-5)
    engine.close()


def test_prompts_may_have_more_tokens_than_a_step_takes(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """55 prompts of about 42 tokens each and no prefix in common: the 49th would be split over two steps of 2048."""
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path, max_active=64)
    rng = np.random.default_rng(3)
    wanted = [Request(f"p{i}", rng.integers(2, 40, 39 + i % 5).astype(np.int32), 1) for i in range(55)]
    rollouts = list(engine.generate(wanted, PARAMS))
    assert len(rollouts) == 55
    assert worst_error(rollouts[-8:], model, PARAMS.temperature) < 5e-5
    engine.close()


def test_stop_strings_are_refused_before_vllm_starts(tmp_path: Path) -> None:
    recipe = load_evaluation(None, ['engine.kind="vllm"', 'sampling.stop=["x"]', "sampling.max_completion_tokens=20"])
    job = Job(recipe, describe({"a": [Problem("1", "1+1", ("2",))]}), tmp_path / "out", Progress())
    with pytest.raises(ValueError, match="runs without the tokenizer"):
        evaluate_model(write_model(tmp_path / "model", hidden_size=64, head_dim=32), job)


def test_log_probabilities_are_those_before_truncation_or_not_a_number(
    tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, narrowed = tiny_model(head_dim=32), replace(PARAMS, top_k=3, top_p=0.8)
    assert worst_error(list(start(model, tmp_path).generate(requests(), narrowed)), model, 0.9) < 5e-5
    monkeypatch.setattr(vllm_engine, "report_untruncated", lambda runner: False)  # a release that hides its sampler
    blind = start(model, tmp_path)
    assert all(np.isnan(r.rollout_logprobs).all() for r in blind.generate(requests(), narrowed))
    assert worst_error(list(blind.generate(requests(), PARAMS)), model, 0.9) < 5e-5


def test_greedy_completions_are_the_likeliest_tokens(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    rollouts = list(start(model, tmp_path).generate(requests(samples=1), replace(PARAMS, temperature=0.0)))
    assert worst_error(rollouts, model, 1.0) < 5e-5
    for rollout in rollouts:
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            best = model(ids[None]).logits[0].argmax(-1)
        np.testing.assert_array_equal(best[len(rollout.prompt_ids) - 1 : -1], rollout.completion_ids)


def test_what_does_not_fit_into_the_cache_waits_or_is_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    token = 2 * 2 * 2 * 32 * 4  # bytes: keys and values, layers, heads, width, float32
    engine = start(model, tmp_path, max_tokens=96, max_cache_bytes=7 * 32 * token)  # two sequences and one block
    rollouts = list(engine.generate(requests(6), PARAMS))
    assert len(rollouts) == 18 and worst_error(rollouts, model, 0.9) < 5e-5
    with pytest.raises(ValueError, match="exceeds the engine's limit of 96 tokens"):
        list(engine.generate(requests(1), replace(PARAMS, max_completion_tokens=80)))
    with pytest.raises(ValueError, match="a sequence of 96 tokens does not fit into a cache"):
        start(model, tmp_path, max_tokens=96, max_cache_bytes=3 * 32 * token)


def test_one_generation_at_a_time_and_none_after_the_end(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    before = (os.environ.get("LD_PRELOAD"), torch.set_num_threads)
    cancelled = []
    engine = start(model, tmp_path, is_cancelled=lambda: bool(cancelled))
    assert (os.environ.get("LD_PRELOAD"), torch.set_num_threads) == before
    going = engine.generate(requests(), PARAMS)
    next(going)
    with pytest.raises(RunError, match="is still open"):
        next(engine.generate(requests(), PARAMS))
    with pytest.raises(RunError, match="is still open"):
        engine.load_weights(LiveWeights(1, model.named_parameters))
    cancelled.append(True)
    assert len(list(going)) < 11
    cancelled.clear()
    assert len(list(engine.generate(requests(), PARAMS))) == 12
    engine.close()
    with pytest.raises(RunError, match="was closed"):
        next(engine.generate(requests(), PARAMS))
