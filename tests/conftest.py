"""Shared small objects: tiny real models of every supported family, built offline from their configurations."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from deepscaler import cpu
from deepscaler.cpu.matmul import prefers_onednn
from deepscaler.cpu.settings import ACCELERATION, is_accelerated
from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import FAMILIES, family_of
from deepscaler.types import TrainSample

# A shell that starts the tests in the background has Ctrl-C ignored, and every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # such small products only wait for each other on several threads

VOCABULARY = 40
STOP_ID = 1


def make_model(
    family: str = "qwen2",
    *,
    seed: int = 0,
    tied: bool = True,
    head_dim: int = 8,
    accelerated: bool = True,
    max_tokens: int = 128,
) -> Any:
    """Random weights, scaled up so that the distribution is far from uniform and errors would show."""
    config = CONFIG_MAPPING[FAMILIES[family].model_type](
        vocab_size=VOCABULARY,
        hidden_size=4 * head_dim,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=STOP_ID,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    model.set_attn_implementation(NAME)
    return cpu.accelerate(model, family_of(model).parts) if accelerated else model


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
