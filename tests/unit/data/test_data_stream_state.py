"""The state of a problem stream: small, and refused over problems other than those it was saved with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deepscaler.data.mixture import Part, StagePlan
from deepscaler.data.stream import ProblemStream
from deepscaler.types import Problem


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}?", ("1",), difficulty=float(i % 5)) for i in range(count)]


def test_the_state_of_forty_thousand_problems_stays_small() -> None:
    everything = tuple(range(40_000))
    plans = [StagePlan(f"s{i}", (Part("", 1.0, everything),), drop_solved=True) for i in range(2)]
    stream = ProblemStream([Problem(f"p{i}", "?", ("1",)) for i in everything], 1, plans)
    for i in range(0, 40_000, 3):
        stream.note(f"p{i}", solved=True)
    stream.begin_stage(1, reshuffle=True)
    assert len(json.dumps(stream.state_dict())) < 15_000


def test_a_checkpoint_over_other_problems_of_the_same_number_is_refused() -> None:
    state = ProblemStream(problems(5), 1).state_dict()
    other = [Problem(f"q{i}", "?", ("1",)) for i in range(5)]
    for changed in (other, problems(5)[::-1]):
        with pytest.raises(ValueError, match="other ones or in another order"):
            ProblemStream(changed, 1).load_state_dict(state)


@pytest.mark.parametrize("field", ["prompt", "references", "tolerance", "id"])
def test_a_checkpoint_over_other_texts_answers_or_tolerances_is_refused(field: str) -> None:
    state = ProblemStream(problems(5), 1).state_dict()
    value = {"prompt": "other?", "references": ("7",), "tolerance": 0.5, "id": "q"}[field]
    changed = problems(5)
    changed[3] = replace(changed[3], **{field: value})
    with pytest.raises(ValueError, match="texts, answers or tolerances changed"):
        ProblemStream(changed, 1).load_state_dict(state)


def test_labels_and_worked_solutions_shape_nothing() -> None:
    state = ProblemStream(problems(5), 1).state_dict()
    renamed = [replace(p, source="elsewhere", solution="because", difficulty=3.0) for p in problems(5)]
    ProblemStream(renamed, 1).load_state_dict(state)


def test_stages_that_draw_from_other_problems_are_refused_unless_the_run_begins_elsewhere() -> None:
    def plans(*indices: int) -> list[StagePlan]:
        return [StagePlan("s", (Part("", 1.0, indices),))]

    before = ProblemStream(problems(6), 1, plans(0, 1, 2, 3))
    before.take(3)
    after = ProblemStream(problems(6), 1, plans(0, 1, 2, 4))
    with pytest.raises(ValueError, match="the stages draw from other problems than before"):
        after.load_state_dict(before.state_dict())
    after.continue_from(before.state_dict(), 0)
    assert after.position == 3
    assert {p.id for p in after.take(9)} == {problems(6)[i].id for i in (0, 1, 2, 4)}
