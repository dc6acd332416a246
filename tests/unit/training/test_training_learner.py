"""The learner's laws: splitting changes nothing, signs are right, bad gradients are skipped, save equals load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deepscaler.config.models import Recipe
from deepscaler.config.sections.algorithm import AlgorithmSection, KlSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import OptimizerSection, TrainingSection
from deepscaler.modeling.weights import weights_digest
from deepscaler.training.learner import TrainingDivergedError
from deepscaler.training.optimizer_state import OPTIMIZER_FILE
from deepscaler.types import RunError, TrainSample
from policy_learners import policy_learner


def recipe(*, budget: int = 64, checkpointing: bool = False, **algorithm: Any) -> Recipe:
    return Recipe(
        name="t",
        num_steps=1,
        model=ModelSection(path="unused", activation_checkpointing=checkpointing),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=2, group_size=2),
        stages=(StageSection(name="s", max_completion_tokens=8),),
        algorithm=AlgorithmSection(**algorithm),
        optimizer=OptimizerSection(learning_rate=1e-2, max_grad_norm=1e9),
        training=TrainingSection(tokens_per_micro_batch=budget, logprob_chunk_tokens=5),
    )


LENGTHS = [9, 4, 12, 7, 3, 10]


@pytest.mark.parametrize("loss", ["clipped_surrogate", "cispo", "gspo", "reinforce"])
def test_splitting_into_micro_batches_changes_nothing(tiny_model, make_samples_of, loss):
    samples = make_samples_of(LENGTHS)
    results = []
    for budget in (1000, 40, 18):
        learner = policy_learner(tiny_model(), recipe(budget=budget, loss=loss, entropy_coefficient=0.01), sgd=1.0)
        learner.update(samples)
        results.append(learner.weights())
    torch.testing.assert_close(results[0], results[1], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(results[0], results[2], atol=2e-6, rtol=1e-5)


def test_activation_checkpointing_changes_nothing(tiny_model, make_samples_of):
    results = []
    for checkpointing in (False, True):
        learner = policy_learner(tiny_model(), recipe(checkpointing=checkpointing))
        learner.update(make_samples_of(LENGTHS))
        results.append(learner.weights())
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-5)


def test_an_update_raises_the_probability_of_what_was_better_than_average(tiny_model, make_samples_of):
    samples = make_samples_of([6, 6])
    samples = [replace(samples[0], advantage=1.0), replace(samples[1], advantage=-1.0)]
    learner = policy_learner(tiny_model(), recipe(), sgd=1e-2)
    before = [lp.sum() for lp in learner.replica.logprobs(samples)]
    learner.update(samples)
    after = [lp.sum() for lp in learner.replica.logprobs(samples)]
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_samples_without_signal_cost_nothing_and_change_nothing(tiny_model, make_samples_of):
    samples = make_samples_of(LENGTHS)
    silent = [replace(s, advantage=0.0) for s in make_samples_of(LENGTHS, seed=3)]
    alone, mixed = (policy_learner(tiny_model(), recipe()) for _ in range(2))
    first, second = alone.update(samples), mixed.update([*samples, *silent])
    assert first.metrics["num_trained_tokens"] == second.metrics["num_trained_tokens"]
    torch.testing.assert_close(alone.weights(), mixed.weights(), atol=0, rtol=0)
    untouched = policy_learner(tiny_model(), recipe())
    before = untouched.weights()
    assert untouched.update(silent).num_updates == 0
    torch.testing.assert_close(untouched.weights(), before, atol=0, rtol=0)


def test_kl_pulls_back_to_the_reference(tiny_model, make_samples_of):
    samples = [replace(s, advantage=0.0) for s in make_samples_of(LENGTHS)]
    learner = policy_learner(tiny_model(), recipe(kl=KlSection(estimator="k3", coefficient=1.0)))
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    first = learner.update(samples).metrics["kl_mean"]
    last = [learner.update(samples).metrics["kl_mean"] for _ in range(20)][-1]
    assert 0 < last < 0.5 * first


def test_mismatch_is_the_distance_to_the_engines_logprobs(tiny_model, make_samples_of):
    learner = policy_learner(tiny_model(), recipe())
    samples = make_samples_of(LENGTHS)
    exact = learner.replica.logprobs(samples)
    samples = [replace(s, rollout_logprobs=lp + 0.25) for s, lp in zip(samples, exact, strict=True)]
    metrics = learner.update(samples).metrics
    assert metrics["mismatch_mean"] == pytest.approx(0.25, abs=1e-4)


def poisoned(samples: list[TrainSample]) -> list[TrainSample]:
    return [replace(s, token_weights=np.full_like(s.token_weights, np.inf)) for s in samples]


def test_a_non_finite_gradient_is_skipped_and_counted(tiny_model, make_samples_of):
    learner = policy_learner(tiny_model(), recipe())
    before = learner.weights()
    stats = learner.update(poisoned(make_samples_of(LENGTHS)))
    assert stats.metrics["skipped_updates"] == 1
    torch.testing.assert_close(learner.weights(), before, atol=0, rtol=0)
    assert learner.update(make_samples_of(LENGTHS)).num_updates == 1
    assert not torch.equal(learner.weights(), before)


def test_five_skipped_updates_in_a_row_stop_the_run_with_a_diagnosis(tiny_model, make_samples_of):
    learner = policy_learner(tiny_model(), recipe())
    bad = poisoned(make_samples_of(LENGTHS))
    for _ in range(4):
        learner.update(bad)
    with pytest.raises(TrainingDivergedError, match="5 updates in a row"):
        learner.update(bad)


def test_saved_and_loaded_continues_bit_identically(tiny_model, make_samples_of, tmp_path):
    kl = KlSection(coefficient=0.1)
    learner = policy_learner(tiny_model(), recipe(kl=kl))
    learner.update(make_samples_of(LENGTHS, seed=1))
    learner.learner.save(tmp_path)
    other = policy_learner(tiny_model(seed=5), recipe(kl=kl))
    other.learner.load(tmp_path)
    for one in (learner, other):
        one.update(make_samples_of(LENGTHS, seed=2), make_samples_of(LENGTHS, seed=3))
    assert learner.digest() == other.digest()
    assert learner.learner.version == other.learner.version == 2


@pytest.mark.parametrize("lost", ["everything", "exp_avg", "step"])
def test_an_optimizer_that_lost_its_state_or_its_counters_is_refused(tiny_model, make_samples_of, tmp_path, lost):
    """AdamW would begin anew with steps of full size, and no metric would show it."""
    learner = policy_learner(tiny_model(), recipe())
    learner.update(make_samples_of(LENGTHS, seed=1), make_samples_of(LENGTHS, seed=2))
    learner.learner.save(tmp_path)
    tensors = load_file(tmp_path / OPTIMIZER_FILE)
    if lost == "step":
        tensors = {k: torch.zeros_like(v) if k.startswith("step:") else v for k, v in tensors.items()}
    else:
        tensors = {k: v for k, v in tensors.items() if lost != "everything" and not k.startswith(f"{lost}:")}
    save_file(tensors, tmp_path / OPTIMIZER_FILE)
    with pytest.raises(RunError, match=r"moments of (no update|0 updates), but 2 have been applied"):
        policy_learner(tiny_model(), recipe()).learner.load(tmp_path)


def test_an_optimizer_that_is_new_or_was_reset_is_loaded(tiny_model, make_samples_of, tmp_path):
    learner = policy_learner(tiny_model(), recipe())
    learner.update(make_samples_of(LENGTHS))
    learner.learner.begin_stage(reset_optimizer=True, reset_reference=False)
    learner.learner.save(tmp_path)
    other = policy_learner(tiny_model(), recipe())
    other.learner.load(tmp_path)
    assert (other.learner.version, other.learner.num_updates) == (1, 0)


def test_the_learning_rate_reported_is_the_one_the_optimizer_holds(tiny_model, make_samples_of):
    learner = policy_learner(tiny_model(), recipe())
    apply = learner.replica.apply
    learner.replica.apply = lambda learning_rate, max_grad_norm: apply(0.0, max_grad_norm)
    assert learner.update(make_samples_of(LENGTHS)).learning_rate == 0.0


def test_a_new_stage_restarts_what_it_is_told_to(tiny_model, make_samples_of):
    learner = policy_learner(tiny_model(), recipe(kl=KlSection(coefficient=0.1)))
    learner.update(make_samples_of(LENGTHS))
    learner.learner.begin_stage(reset_optimizer=True, reset_reference=True)
    assert not learner.optimizer.state
    assert learner.computer.reference is not None
    assert weights_digest(learner.computer.reference.named_parameters()) == learner.digest()
