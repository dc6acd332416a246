"""How a team of processes divides sequences and memory."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.orchestration.parallel import EngineSettings, Worker
from deepscaler.orchestration.team import start_team
from deepscaler.training.gradients import GradientComputer
from engine_runs import PARAMS, first_end, letters, requests

SETTINGS = EngineSettings(frozenset({1}), max_active=8)


def computer(model) -> GradientComputer:
    return GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)


def test_an_engine_with_weights_of_its_own_decodes_all_sequences(tiny_model):
    model = tiny_model()
    half = copy.deepcopy(model).to(torch.bfloat16)
    with start_team(computer(model), half, SETTINGS, count=4) as team:
        assert team.num_processes == 1
        assert team._engine._max_active == 8


def test_workers_that_only_sample_hold_no_memory_for_gradients(tiny_model, monkeypatch):
    started: list[Worker] = []
    original = Worker.__init__

    def note(self: Worker, *arguments, **named) -> None:
        original(self, *arguments, **named)
        started.append(self)

    monkeypatch.setattr(Worker, "__init__", note)
    model = tiny_model()
    for trains in (False, True):
        with start_team(computer(model), model, SETTINGS, count=2, trains=trains) as team:
            assert team._engine._max_active == 4
    weights = sum(p.numel() for p in model.parameters())
    assert [worker._shared.numel() for worker in started] == [0, weights]


@pytest.mark.parametrize("count", [1, 2])
def test_every_process_ends_completions_at_stop_strings(tiny_model, count):
    model = tiny_model()
    settings = replace(SETTINGS, stop_ids=frozenset(), decode=letters)
    with start_team(computer(model), model, settings, count=count) as team:
        for rollout in team.generate(requests(4), replace(PARAMS, stop=("ab", "ba"))):
            text = letters(rollout.completion_ids)
            assert first_end(text, ("ab", "ba")) == (rollout.num_tokens if rollout.num_tokens < 90 else None)
