"""On a CUDA device: the engine's and the learner's numbers are those of the CPU. Run with `make test ARGS="-m gpu"`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, SamplingParams, TrainSample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=24, temperature=0.9, seed=5)


def requests() -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 4 + i).astype(np.int32), 4) for i in range(4)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.15)])
def test_engine_logprobs_equal_a_full_forward(
    tiny_model: Callable[..., Any], dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_model().to("cuda", dtype)
    rollouts = list(TorchEngine(model, stop_ids=STOP, max_active=6).generate(requests(), PARAMS))
    assert len(rollouts) == 16
    model.set_attn_implementation("eager")
    for rollout in rollouts:
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), device="cuda").long()
        with torch.no_grad():
            logits = model(ids[None]).logits[0].float() / PARAMS.temperature
        predicted = torch.log_softmax(logits, -1)[len(rollout.prompt_ids) - 1 : -1]
        expected = predicted.gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]
        np.testing.assert_allclose(rollout.rollout_logprobs, expected.cpu().numpy(), atol=tolerance)


def test_gradients_equal_those_of_the_cpu(
    tiny_model: Callable[..., Any], make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    samples = make_samples_of([9, 4, 12, 7, 3])
    gradients = []
    for device in ("cpu", "cuda"):
        model = tiny_model().to(device)
        training = TrainingSection(tokens_per_micro_batch=64)
        computer = GradientComputer(model, None, AlgorithmSection(), training, temperature=1.0)
        computer.accumulate(samples, None, None)
        gradients.append([p.grad.cpu() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
