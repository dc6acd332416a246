"""Ids without a token are never sampled, and engine, learner and reference leave them out of the same distribution."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.modeling.head import forbid_ids
from deepscaler.modeling.load import unknown_ids
from deepscaler.modeling.positions import cast_parameters
from deepscaler.toy.tokenizer import build_tokenizer
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.logprobs import token_logprobs
from deepscaler.types import SamplingParams, TrainSample
from engine_runs import PARAMS, requests, run

FORBIDDEN = [3, 4, 17, 36, 37, 38, 39]  # the padding at the end of 40, and holes


def computer(model: nn.Module, reference: nn.Module | None = None) -> GradientComputer:
    training = TrainingSection(tokens_per_micro_batch=512)
    return GradientComputer(model, reference, AlgorithmSection(), training, temperature=0.9)


def samples_of(rollouts: dict) -> list[TrainSample]:
    return [
        TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, np.ones(r.num_tokens, np.float32), 0)
        for r in rollouts.values()
    ]


@pytest.mark.parametrize(("half", "float32_head"), [(False, False), (True, False), (True, True)])
def test_engine_learner_and_reference_share_one_distribution_without_them(tiny_model, half, float32_head):
    model = tiny_model()
    free = run(TorchEngine(model, stop_ids=frozenset()), requests(6))
    assert any(np.isin(r.completion_ids, FORBIDDEN).any() for r in free.values())
    forbid_ids(model, FORBIDDEN)
    learner = computer(model, copy.deepcopy(model))
    engine_model = cast_parameters(copy.deepcopy(model), torch.bfloat16) if half else model
    rollouts = run(TorchEngine(engine_model, stop_ids=frozenset(), float32_head=float32_head), requests(6))
    assert not any(np.isin(r.completion_ids, FORBIDDEN).any() for r in rollouts.values())
    policy, reference = (learner.logprobs(samples_of(rollouts), of=which) for which in ("policy", "reference"))
    for rollout, found, kept in zip(rollouts.values(), policy, reference, strict=True):
        np.testing.assert_allclose(found, rollout.rollout_logprobs, atol=2e-5 if not half else 1.0)
        np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize(
    "params", [SamplingParams(9, 0.0), SamplingParams(9, 1.0, 0.3), SamplingParams(9, 1.0, top_k=2)]
)
def test_no_setting_of_the_sampler_brings_them_back(tiny_model, params):
    model = tiny_model()
    forbid_ids(model, FORBIDDEN)
    rollouts = run(TorchEngine(model, stop_ids=frozenset()), requests(4), params)
    assert not any(np.isin(r.completion_ids, FORBIDDEN).any() for r in rollouts.values())
    assert all(np.isfinite(r.rollout_logprobs).all() for r in rollouts.values())


@pytest.mark.parametrize("chunk", [2, 64])
def test_loss_entropy_and_gradient_are_those_of_the_smaller_vocabulary(chunk):
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 16), torch.randn(40, 16)
    allowed = torch.tensor([i for i in range(40) if i not in FORBIDDEN])
    targets = allowed[torch.randint(len(allowed), (9,))]
    place = {int(token): i for i, token in enumerate(allowed)}
    results = []
    for rows, wanted, forbidden in (
        (weight, targets, torch.tensor(FORBIDDEN)),
        (weight[allowed], torch.tensor([place[int(t)] for t in targets]), None),
    ):
        h, w = hidden.clone().requires_grad_(), rows.clone().requires_grad_()
        logprobs, entropy = token_logprobs(h, w, wanted, temperature=0.7, chunk_tokens=chunk, forbidden=forbidden)
        (logprobs.sum() + 0.1 * entropy.sum()).backward()
        results.append((logprobs, entropy, h.grad, w.grad))
    for masked, smaller in zip(results[0][:3], results[1][:3], strict=True):
        torch.testing.assert_close(masked, smaller, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(results[0][3][allowed], results[1][3], atol=1e-5, rtol=1e-5)
    assert not results[0][3][FORBIDDEN].any()


def test_they_stay_forbidden_in_copies_and_are_not_saved(tiny_model, tmp_path):
    model = tiny_model()
    names = set(model.state_dict())
    forbid_ids(model, FORBIDDEN)
    assert set(model.state_dict()) == names
    assert copy.deepcopy(model).forbidden_ids.tolist() == FORBIDDEN


def test_ids_beyond_and_between_a_tokenizers_are_unknown():
    tokenizer = build_tokenizer(["word"])
    count = len(tokenizer)
    assert unknown_ids(tokenizer, count) == []
    assert unknown_ids(tokenizer, count + 3) == [count, count + 1, count + 2]


def test_a_prompt_beyond_the_embedding_is_refused(tiny_model):
    request = requests(1)[0]
    request.prompt_ids[3] = 40
    with pytest.raises(ValueError, match="token 40, but the model has embeddings of 40"):
        run(TorchEngine(tiny_model(), stop_ids=frozenset()), [request], PARAMS)
