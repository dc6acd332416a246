"""Control calls of a vLLM server: only legal orders, from any phase."""

from __future__ import annotations

import itertools

import pytest

from deepscaler.engines.vllm_server.lifecycle import Lifecycle, Phase
from deepscaler.types import RunError

ACTIONS = ("pause", "update", "resume", "sleep", "wake")
LEGAL = {
    Phase.RUNNING: {"pause", "sleep"},
    Phase.PAUSED: {"update", "resume", "sleep"},
    Phase.ASLEEP: {"wake"},
    Phase.BROKEN: set(),
    Phase.CLOSED: set(),
}


def test_from_every_phase_only_the_legal_actions_are_taken_and_others_change_nothing() -> None:
    for actions in itertools.product(ACTIONS, repeat=4):
        life = Lifecycle("the server")
        for action in actions:
            before = life.phase
            if action in LEGAL[before]:
                life.begin(action)
            else:
                with pytest.raises(RunError, match=f"the server is {before}: it cannot {action}"):
                    life.begin(action)
                assert life.phase is before


def test_level_2_is_never_resumed_without_new_weights() -> None:
    life = Lifecycle("the server")
    life.begin("sleep", level=2)
    life.begin("wake")
    with pytest.raises(RunError, match="would sample garbage"):
        life.begin("resume")
    life.begin("update")
    life.begin("resume")
    assert life.phase is Phase.RUNNING


def test_level_1_may_be_resumed_with_the_weights_it_kept() -> None:
    life = Lifecycle("the server")
    life.begin("sleep", level=1)
    life.begin("wake")
    life.begin("resume")
    life.require_sampling()


@pytest.mark.parametrize("phase", [Phase.BROKEN, Phase.CLOSED])
def test_after_the_end_nothing_is_legal(phase: Phase) -> None:
    life = Lifecycle("the server")
    life.end(phase)
    for action in ACTIONS:
        with pytest.raises(RunError, match="start a new server"):
            life.begin(action)
    with pytest.raises(RunError, match="cannot sample"):
        life.require_sampling()
