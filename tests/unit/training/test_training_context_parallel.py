"""Ranks that share every micro-batch compute what one rank computes: loss, gradient, log-probabilities."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from deepscaler.config.sections.algorithm import AlgorithmSection, KlSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.training.context_parallel import ContextParallel, shard_bounds
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.replica import enable_checkpointing
from deepscaler.types import TokenSums, TrainSample
from rank_threads import on_ranks
from tiny_models import make_model

ALL_TERMS = AlgorithmSection(entropy_coefficient=0.01, importance_cap=2.0, kl=KlSection(coefficient=0.1))
LENGTHS = [29, 2, 3, 8, 1, 5]  # the longest is in every shard of four, and several are in one
equal = partial(torch.testing.assert_close, atol=1e-6, rtol=1e-5)


@dataclass(frozen=True)
class Result:
    sums: TokenSums
    gradient: Tensor
    logprobs: Tensor


def computed(
    model: Any, samples: Sequence[TrainSample], algorithm: AlgorithmSection, group: dist.ProcessGroup | None
) -> Result:
    model, reference = copy.deepcopy(model), copy.deepcopy(model)
    computer = GradientComputer(
        model,
        reference,
        algorithm,
        TrainingSection(tokens_per_micro_batch=48),
        temperature=0.8,
        context=None if group is None else ContextParallel(group),
    )
    logprobs = computer.logprobs(samples)
    ref = computer.logprobs(samples, of="reference") if algorithm.kl.coefficient else None
    old = [(x + 0.01 * np.sin(np.arange(len(x)))).astype(np.float32) for x in logprobs]
    sums = computer.accumulate(samples, old, ref)
    gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    return Result(sums, gradient, torch.cat([torch.from_numpy(x) for x in logprobs]))


def check_ranks(
    ranks: int, model: Any, samples: Sequence[TrainSample], algorithm: AlgorithmSection = ALL_TERMS
) -> TokenSums:
    """Gradients of the ranks add up to that of one; every rank has all log-probabilities and sums, here returned."""
    alone = computed(model, samples, algorithm, None)
    shared = on_ranks(ranks, partial(computed, model, samples, algorithm))
    equal(sum(rank.gradient for rank in shared), alone.gradient)
    for rank in shared:
        equal(rank.logprobs, alone.logprobs)
        for name in TokenSums.__dataclass_fields__:
            mine, expected = (getattr(result.sums, name) or 0.0 for result in (rank, alone))
            assert mine == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    return alone.sums


@pytest.fixture
def samples(make_samples_of) -> list[TrainSample]:
    """The last three are completions of one prompt."""
    made = make_samples_of(LENGTHS)
    return [replace(s, prompt_ids=made[3].prompt_ids) if i >= 3 else s for i, s in enumerate(made)]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_ranks_of_a_sequence_change_nothing(ranks, accelerated, checkpointing, samples):
    model = make_model(accelerated=accelerated)
    if checkpointing:
        enable_checkpointing(model)
    check_ranks(ranks, model, samples)


def test_plain_torch_agrees_as_well(samples, without_acceleration):
    check_ranks(4, make_model(), samples)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_every_family_is_split(family, samples):
    check_ranks(2, make_model(family), samples)


def test_key_value_heads_are_repeated_where_they_do_not_divide(samples):
    """Heads as in DeepSeek-R1-Distill-Qwen-1.5B: 12 for queries, 2 for keys and values."""
    check_ranks(4, make_model(heads=12), samples)


@pytest.mark.parametrize("loss", ["gspo", "cispo"])
def test_statistics_of_a_completion_are_of_all_its_tokens(loss, samples):
    algorithm = AlgorithmSection(
        loss=loss, clip_low=1e-3, clip_high=2e-3, importance_mask="sequence", importance_low=0.2, importance_high=2.0
    )
    sums = check_ranks(4, make_model(), samples, algorithm)
    assert 0 < (sums.masked or 0) < sums.num_tokens


def test_heads_that_cannot_be_dealt_out_are_refused(samples):
    with pytest.raises(ValueError, match=r"training\.context_parallel = 3 .* 4 attention heads .* one of 1, 2, 4"):
        check_ranks(3, make_model(), samples)


def test_a_row_of_fewer_tokens_than_ranks_is_computed(make_samples_of):
    (sample,) = make_samples_of([2])
    check_ranks(4, make_model(), [replace(sample, prompt_ids=sample.prompt_ids[:1])])


def test_a_rank_has_an_equal_share_of_the_tokens():
    assert shard_bounds(10, 4) == [0, 2, 5, 7, 10]
    assert shard_bounds(24_576, 2) == [0, 12_288, 24_576]
