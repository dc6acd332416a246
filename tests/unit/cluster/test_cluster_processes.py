"""How processes divide sequences and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.processes import divided, open_sharded_engine, start_helpers
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.training.gradients import GradientComputer
from engine_runs import PARAMS, first_end, letters, requests

SETTINGS = EngineSettings(frozenset({1}), max_active=8)


def computer(model) -> GradientComputer:
    return GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)


@pytest.mark.parametrize(("count", "each"), [(1, 8), (2, 4), (3, 3)])
def test_processes_together_decode_what_one_would(count, each):
    assert divided(SETTINGS, count).max_active == each


def test_helpers_that_only_sample_hold_no_memory_for_gradients(tiny_model):
    model = tiny_model()
    weights = sum(p.numel() for p in model.parameters())
    for trains, held in ((False, 0), (True, weights)):
        with start_helpers(computer(model), SETTINGS, 1, trains=trains) as (helper,):
            assert helper.lent.numel() == held


@pytest.mark.parametrize("count", [1, 2])
def test_every_process_ends_completions_at_stop_strings(tiny_model, count):
    model = tiny_model()
    settings = replace(SETTINGS, stop_ids=frozenset(), decode=letters)
    with open_sharded_engine(computer(model), settings, count=count) as sampler:
        for rollout in sampler.generate(requests(4), replace(PARAMS, stop=("ab", "ba"))):
            text = letters(rollout.completion_ids)
            assert first_end(text, ("ab", "ba")) == (rollout.num_tokens if rollout.num_tokens < 90 else None)
