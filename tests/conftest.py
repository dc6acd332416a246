"""Fixtures for every test: a tiny real model, training samples of it, plain torch without the acceleration on CPU."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.cpu.matmul import prefers_onednn
from deepscaler.cpu.settings import ACCELERATION, is_accelerated
from deepscaler.types import TrainSample
from tiny_models import VOCABULARY, make_model

# A shell that starts the tests in the background has Ctrl-C ignored, and every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # such small products only wait for each other on several threads


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    return make_model


@pytest.fixture
def without_acceleration(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain torch, as with DEEPSCALER_CPU_ACCELERATION=0."""
    monkeypatch.setenv(ACCELERATION, "0")
    cached = (is_accelerated, prefers_onednn)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def make_samples_of() -> Callable[..., list[TrainSample]]:
    """Random training samples with given completion lengths and advantages of both signs."""

    def build(lengths: list[int], *, seed: int = 0) -> list[TrainSample]:
        rng = np.random.default_rng(seed)
        total = sum(lengths)
        return [
            TrainSample(
                prompt_ids=rng.integers(2, VOCABULARY, 3 + i % 4).astype(np.int32),
                completion_ids=rng.integers(2, VOCABULARY, n).astype(np.int32),
                rollout_logprobs=np.full(n, -3.0, np.float32),
                advantage=float(rng.normal()),
                token_weights=np.full(n, 1 / total, np.float32),
                policy_version=0,
            )
            for i, n in enumerate(lengths)
        ]

    return build
