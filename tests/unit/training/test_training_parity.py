"""What the learner computes is what transformers' own model computes, for every family and for models without one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bare_recipe import bare_recipe
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.types import TrainSample
from policy_learners import policy_learner
from tiny_models import GENERIC, make_generic, make_model

TEMPERATURE = 0.8


def made(kind: str) -> tuple[Any, Any]:
    """A model for the learner, and transformers' own with the same weights."""
    if kind in GENERIC:
        model = make_generic(kind)
        return model, copy.deepcopy(model)
    plain = make_model(kind, accelerated=False)
    plain.set_attn_implementation("eager")
    return make_model(kind), plain


def own_logprobs(model: Any, sample: TrainSample) -> torch.Tensor:
    ids = torch.tensor(np.concatenate([sample.prompt_ids, sample.completion_ids]), dtype=torch.int64)
    logits = model(ids.unsqueeze(0), use_cache=False).logits[0].float() / TEMPERATURE
    first = len(sample.prompt_ids)
    return torch.log_softmax(logits, -1)[first - 1 : -1].gather(1, ids[first:].unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("kind", [*FAMILIES, *GENERIC])
def test_logprobs_and_gradients_are_those_of_transformers(kind, make_samples_of):
    samples = make_samples_of([20, 7, 1, 12])
    samples[3] = replace(samples[3], prompt_ids=samples[0].prompt_ids)  # a shared prompt
    model, plain = made(kind)
    algorithm = AlgorithmSection(loss="reinforce")
    computer = policy_learner(model, bare_recipe(temperature=TEMPERATURE, sections={"algorithm": algorithm})).computer
    expected = [own_logprobs(plain, sample) for sample in samples]
    for found, wanted in zip(computer.logprobs(samples), expected, strict=True):
        np.testing.assert_allclose(found, wanted.detach().numpy(), atol=3e-5)
    computer.accumulate(samples, None, None)
    pairs = zip(samples, expected, strict=True)
    losses = [-(torch.from_numpy(s.token_weights) * s.advantage * logprobs).sum() for s, logprobs in pairs]
    torch.stack(losses).sum().backward()
    wanted_by_name = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        try:
            torch.testing.assert_close(parameter.grad, wanted_by_name[name].grad, atol=2e-5, rtol=2e-3)
        except AssertionError as error:
            raise AssertionError(name) from error


def test_experts_that_files_hold_one_by_one_are_restored(tmp_path):
    saved, other = (policy_learner(make_model("qwen3_moe", seed=seed), bare_recipe()) for seed in (0, 1))
    saved.replica.save(tmp_path)
    other.replica.load(tmp_path, num_updates=None)
    assert other.digest() == saved.digest()
