"""On a CUDA device: the engine's and the learner's numbers are those of the CPU, and of each other in bfloat16.

Run with `make test ARGS="-m gpu"`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen

from bare_recipe import bare_recipe
from deepscaler.config.models import Recipe
from deepscaler.config.sections.algorithm import AlgorithmSection, KlSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.publishing import load_checked
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.modeling.head import float32_logits
from deepscaler.modeling.positions import cast_parameters
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.replica import policy_computer
from deepscaler.types import Request, Rollout, SamplingParams, TrainSample
from policy_learners import policy_learner

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=24, temperature=0.9, seed=5)


def requests() -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 4 + i).astype(np.int32), 4) for i in range(4)]


def as_samples(rollouts: list[Rollout]) -> list[TrainSample]:
    total = sum(r.num_tokens for r in rollouts)
    return [
        TrainSample(
            r.prompt_ids,
            r.completion_ids,
            r.rollout_logprobs,
            float(i % 3 - 1),
            np.full(r.num_tokens, 1 / total, np.float32),
            0,
        )
        for i, r in enumerate(rollouts)
    ]


def recipe(**model: Any) -> Recipe:
    sections = {
        "algorithm": AlgorithmSection(kl=KlSection(coefficient=0.01)),
        "training": TrainingSection(tokens_per_micro_batch=128),
    }
    return bare_recipe(temperature=PARAMS.temperature, sections=sections, **model)


def test_engine_logprobs_equal_a_full_forward(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model().to(DEVICE)
    rollouts = list(TorchEngine(model, stop_ids=STOP, max_active=6, max_cache_bytes=2**24).generate(requests(), PARAMS))
    assert len(rollouts) == 16
    model.set_attn_implementation("eager")
    for rollout in rollouts:
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), device=DEVICE).long()
        with torch.no_grad():
            logits = model(ids[None]).logits[0].float() / PARAMS.temperature
        predicted = torch.log_softmax(logits, -1)[len(rollout.prompt_ids) - 1 : -1]
        expected = predicted.gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]
        np.testing.assert_allclose(rollout.rollout_logprobs, expected.cpu().numpy(), atol=2e-4)


@pytest.mark.parametrize(("dtype", "backend"), [("float32", "paged"), ("bfloat16", "paged"), ("bfloat16", "flash")])
def test_far_positions_over_many_blocks_equal_the_learner(
    tiny_model: Callable[..., Any], dtype: str, backend: str
) -> None:
    """Errors that grow with the position (rounded rotations, wrong sums over blocks) show here only."""
    model = tiny_model(max_tokens=4096, head_dim=16).to(DEVICE)
    sampled_by = cast_parameters(copy.deepcopy(model), getattr(torch, dtype))
    engine = TorchEngine(sampled_by, stop_ids=frozenset(), max_cache_bytes=2**26, attention_backend=backend)
    rollouts = list(engine.generate(requests()[:2], dataclasses.replace(PARAMS, max_completion_tokens=1500)))
    training = TrainingSection(tokens_per_micro_batch=16_384)
    long = bare_recipe(temperature=PARAMS.temperature, sections={"training": training}, dtype=dtype)
    values = policy_computer(model, long).logprobs(as_samples(rollouts))
    found = np.abs(np.stack(values) - np.stack([r.rollout_logprobs for r in rollouts]))
    far = found[:, 1300:].mean()  # rotations rounded to bfloat16 give 0.05
    assert far < (0.02 if dtype == "bfloat16" else 1e-3), (found[:, :100].mean(), far)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("float32_head", [False, True])
def test_in_bfloat16_engine_and_learner_differ_by_rounding(
    tiny_model: Callable[..., Any], family: str, float32_head: bool
) -> None:
    """The bound is that of the same test on CPU, with room for other kernels."""
    model = tiny_model(family).to(DEVICE)
    half = cast_parameters(copy.deepcopy(model), torch.bfloat16)
    engine = TorchEngine(half, stop_ids=STOP, max_cache_bytes=2**24, float32_head=float32_head)
    rollouts = list(engine.generate(requests(), PARAMS))
    computer = policy_computer(model, recipe(dtype="bfloat16", float32_head=float32_head))
    values = computer.logprobs(as_samples(rollouts))
    found = np.abs(np.concatenate([v - r.rollout_logprobs for v, r in zip(values, rollouts, strict=True)]))
    assert found.mean() < 0.02 and np.quantile(found, 0.99) < 0.1


@pytest.mark.parametrize(("autocast", "norm"), [(False, 1e-3), (True, 0.05)])
def test_gradients_equal_those_of_the_cpu(
    tiny_model: Callable[..., Any],
    make_samples_of: Callable[..., list[TrainSample]],
    monkeypatch: pytest.MonkeyPatch,
    autocast: bool,
    norm: float,
) -> None:
    """In mixed precision by the variable-length kernel, which then must have been called."""
    calls: list[torch.dtype] = []

    def counting(query: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        calls.append(query.dtype)
        return original(query, *arguments, **keywords)

    original = varlen.varlen_attn
    monkeypatch.setattr(varlen, "varlen_attn", counting)
    samples, gradients = make_samples_of([9, 4, 12, 7, 3]), []
    for device in (torch.device("cpu"), DEVICE):
        model, training = tiny_model().to(device), TrainingSection(tokens_per_micro_batch=64)
        computer = GradientComputer(model, None, AlgorithmSection(), training, temperature=1.0, autocast=autocast)
        computer.accumulate(samples, None, None)
        gradients.append(torch.cat([p.grad.reshape(-1).cpu() for p in model.parameters()]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < norm
    assert set(calls) == ({torch.bfloat16} if autocast else set())


def test_a_float32_head_rounds_nothing_of_its_products() -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 512, device=DEVICE).to(torch.bfloat16) for n in (70, 3000))
    exact = hidden.double() @ weight.double().T
    found = float32_logits(hidden, weight)
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 1e-3 < float((hidden @ weight.T - exact).abs().max())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_step_updates_publishes_and_resumes(
    tiny_model: Callable[..., Any], tmp_path: Path, checkpointing: bool
) -> None:
    """The program's own parts together: the cache gives way to the update, and comes back with the new weights."""
    settings = recipe(dtype="bfloat16", activation_checkpointing=checkpointing)
    model = tiny_model().to(DEVICE)
    half = cast_parameters(copy.deepcopy(model), torch.bfloat16)
    learner = policy_learner(model, settings)
    engine = TorchEngine(half, stop_ids=STOP, max_active=16, max_cache_bytes=2**24)
    load_checked(engine, learner.learner.publish())
    samples = []
    for step in range(2):
        samples = as_samples(list(engine.generate(requests(), PARAMS)))
        engine.release_memory()
        assert engine.cache.allocated_bytes == 0
        stats = learner.update(samples)
        assert stats.num_updates == 1 and stats.metrics["mismatch_mean"] < 0.02, step
        assert load_checked(engine, learner.learner.publish()).version == step + 1
    learner.learner.save(tmp_path)
    other = policy_learner(tiny_model(seed=3).to(DEVICE), settings)
    other.learner.load(tmp_path)
    for each in (learner, other):
        each.update(samples)
    for a, b in zip(learner.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_benchmark_runs_through(tmp_path: Path) -> None:
    """All parts of benchmarks/gpu.py at the smallest size, peers aside."""
    script, record = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py", tmp_path / "gpu.json"
    parts = ("learning", "decoding", "mismatch", "step")
    command = [sys.executable, str(script), "--size", "tiny", "--device", DEVICE.type, "--json", str(record)]
    done = subprocess.run([*command, "--parts", *parts], capture_output=True, text=True, timeout=240)
    found = json.loads(record.read_text())["parts"]
    assert done.returncode == 0, {name: part.get("error") for name, part in found.items()}
