"""Engines of vLLM for the tests of `make test-vllm`. Importing it skips a test module where vLLM is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.engines.vllm.engine import VllmEngine
from deepscaler.engines.vllm.installation import vllm_version
from deepscaler.types import Request, Rollout, SamplingParams

if vllm_version() is None:
    pytest.skip(
        "vLLM is not installed; `make test-vllm` makes an environment for it and runs this", allow_module_level=True
    )

STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=24, temperature=0.9, seed=5, step=2)
START_LIMIT_S = 200.0


def requests(count: int = 4, samples: int = 3) -> list[Request]:
    """Prompts longer than a block of the cache, so that a group shares what was computed of it."""
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 40 + i % 5).astype(np.int32), samples) for i in range(count)]


def start(model: Any, directory: Path, **settings: Any) -> VllmEngine:
    model.save_pretrained(directory)
    return VllmEngine(directory, stop_ids=STOP, **{"max_active": 8, **settings})


def worst_error(rollouts: list[Rollout], model: Any, temperature: float) -> float:
    """The largest distance of a reported log-probability from a full forward pass of transformers."""
    model.set_attn_implementation("eager")
    worst = 0.0
    for rollout in rollouts:
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            predicted = torch.log_softmax(model(ids[None]).logits[0] / temperature, -1)
        expected = predicted[len(rollout.prompt_ids) - 1 : -1].gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]
        worst = max(worst, float(np.abs(expected.numpy() - rollout.rollout_logprobs).max()))
    return worst
