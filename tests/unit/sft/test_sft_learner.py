"""Supervised updates: the loss is transformers' own, packing changes nothing, and rates follow the schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.config.sections.training import OptimizerSection, TrainingSection
from deepscaler.sft.learner import SftLearner
from deepscaler.training.cross_entropy import cross_entropy_computer, supervised_sample, token_mean
from deepscaler.training.learner import TrainingDivergedError
from deepscaler.training.replica import ModelReplica, adamw
from deepscaler.types import TrainSample
from tiny_models import VOCABULARY, make_model


def traces(count: int = 7) -> list[TrainSample]:
    """Prompts and turns of several lengths; in some a part of the completion is not the assistant's."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(count):
        prompt, completion = (rng.integers(2, VOCABULARY, n).astype(np.int32) for n in (3 + number, 9 - number % 4))
        weights = np.ones(len(completion), np.float32)
        weights[2:5] = number % 2
        made.append(supervised_sample(prompt, completion, weights))
    return made


def gradient(model: Any, samples: list[TrainSample], budget: int) -> tuple[float, torch.Tensor]:
    computer = cross_entropy_computer(model, TrainingSection(tokens_per_micro_batch=budget))
    loss = computer.accumulate(token_mean(samples), None, None).loss
    found = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return loss, found


def test_packed_traces_have_the_loss_and_gradient_of_traces_alone() -> None:
    model, samples = make_model(), traces()
    longest = max(sample.num_tokens for sample in samples)
    (alone, one_by_one), (packed, together) = (gradient(model, samples, budget) for budget in (longest, 4096))
    assert packed == pytest.approx(alone, abs=1e-6)
    assert float((together - one_by_one).abs().max()) < 1e-6


def test_the_loss_is_transformers_cross_entropy_with_masked_labels() -> None:
    model, samples = make_model(), traces()
    plain = make_model(accelerated=False)
    plain.set_attn_implementation("eager")
    losses, count = 0.0, 0
    for sample in samples:
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.completion_ids]).astype(np.int64))
        mask = np.concatenate([np.zeros(len(sample.prompt_ids)), sample.token_weights]) > 0
        labels = torch.where(torch.from_numpy(mask), ids, -100)
        learned = int(mask.sum())
        losses += float(plain(ids[None], labels=labels[None]).loss.detach()) * learned
        count += learned
    assert gradient(model, samples, 4096)[0] == pytest.approx(losses / count, abs=1e-5)


def learner(section: OptimizerSection, num_steps: int, model: Any = None) -> SftLearner:
    computer = cross_entropy_computer(model or make_model(), TrainingSection())
    return SftLearner(ModelReplica(computer, adamw(section)), section, num_steps)


def test_the_validation_loss_is_that_of_the_same_traces_in_training() -> None:
    made = learner(OptimizerSection(learning_rate=1e-9), 5)
    before = made.mean_loss(traces(90))
    assert made.update(1, traces(90)).loss == pytest.approx(before, abs=1e-5)


def test_updates_lower_the_loss_at_the_rates_of_the_schedule() -> None:
    section = OptimizerSection(learning_rate=0.01, schedule="cosine", min_learning_rate_ratio=0.1, warmup_updates=2)
    made = learner(section, 12)
    done = [made.update(step, traces()) for step in range(1, 13)]
    assert done[-1].loss < 0.8 * done[0].loss
    rates = [update.learning_rate for update in done]
    assert rates[:2] == pytest.approx([0.005, 0.01])
    assert rates[2:] == sorted(rates[2:], reverse=True) and 0.001 < rates[-1] < 0.002


def test_a_gradient_that_is_not_finite_changes_nothing_and_five_end_the_run() -> None:
    model = make_model()
    made = learner(OptimizerSection(), 9, model)
    with torch.no_grad():
        model.get_output_embeddings().weight[3, 0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    for step in range(1, 5):
        assert not made.update(step, traces()).applied
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, model.parameters(), strict=True))
    assert made.num_applied == 0
    with pytest.raises(TrainingDivergedError, match="5 updates in a row"):
        made.update(5, traces())
