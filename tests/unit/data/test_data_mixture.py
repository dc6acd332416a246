"""What a stage draws from: sources in proportion, problems inside its bands, solved ones left out; exact on resume."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.config import Recipe
from deepscaler.data.mixture import Rotation, StagePlan, admits, describe_bands, plan_stages
from deepscaler.data.sources.load import load_mixture
from deepscaler.data.sources.synthetic import generate_problems
from deepscaler.data.stream import ProblemStream
from deepscaler.data.templates import EncodedProblem
from deepscaler.types import Problem

STAGE = {"name": "s", "max_completion_tokens": 8}


def recipe(*stages: dict[str, object], sources: int = 0, prompts: int = 4) -> Recipe:
    mixed = [{"name": f"s{i}", "path": f"{i}.json", "weight": float(i + 1)} for i in range(sources)]
    return Recipe.model_validate(
        {
            "name": "r",
            "num_steps": 3,
            "data": {"source": "mix" if sources else "x.json", "sources": tuple(mixed)},
            "rollout": {"prompts_per_step": prompts, "group_size": 2},
            "stages": tuple({**STAGE, "name": f"stage{i}", **stage} for i, stage in enumerate(stages)),
        }
    )


def plans_of(made: Recipe, kept: list[EncodedProblem], source_of: list[int]) -> list[StagePlan]:
    return plan_stages(made.stages, made.data, made.rollout.prompts_per_step, kept, source_of)


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}?", ("1",), difficulty=float(i % 5)) for i in range(count)]


def encoded(count: int) -> list[EncodedProblem]:
    return [EncodedProblem(p, np.zeros(10 + i, dtype=np.int32)) for i, p in enumerate(problems(count))]


def ids(taken: list[Problem]) -> list[str]:
    return [problem.id for problem in taken]


def test_one_source_without_bands_keeps_the_order_it_always_had() -> None:
    stream = ProblemStream(generate_problems(10, [3], 1), seed=1)
    order = ids(stream.take(27))
    stream.reshuffle("long")
    order += ids(stream.take(13))
    assert hashlib.sha256("\n".join(order).encode()).hexdigest()[:32] == "5f3b94a91eb66f5f4ef41a1ab0d569b7"


def test_a_stage_without_bands_goes_on_where_the_one_before_it_stopped() -> None:
    plain, staged = (
        ProblemStream(problems(10), 1, plans) for plans in ((), plans_of(recipe({}, {}), encoded(10), [0] * 10))
    )
    before = ids(staged.take(7))
    start = staged.begin_stage(1, reshuffle=False)
    assert (start.num_problems, start.num_dropped) == (10, 0)
    assert before + ids(staged.take(8)) == ids(plain.take(15))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_every_source_has_its_share_at_every_moment(weights: list[float], position: int) -> None:
    rotation, counts = Rotation(weights), [0] * len(weights)
    for drawn in range(1, 200):
        part, before = rotation.next()
        assert before == counts[part]
        counts[part] += 1
        for weight, count in zip(weights, counts, strict=True):
            assert abs(count - drawn * weight / sum(weights)) < max(len(weights) - 1, 1e-9) or len(weights) == 1
    whole, resumed = Rotation(weights), Rotation(weights, position)
    for _ in range(position):
        whole.next()
    assert [whole.next() for _ in range(20)] == [resumed.next() for _ in range(20)]


def test_proportions_converge_and_every_source_keeps_whole_epochs() -> None:
    owner = [0] * 6 + [1] * 9
    stream = ProblemStream(problems(15), 3, plans_of(recipe({}, sources=2), encoded(15), owner))
    taken = ids(stream.take(9 * 3 * 2))
    counts = Counter(owner[int(name[1:])] for name in taken)
    assert counts == {0: 18, 1: 36}  # weights 1 and 2
    for source, size in ((0, 6), (1, 9)):
        own = [name for name in taken if owner[int(name[1:])] == source]
        for epoch in range(len(own) // size):
            assert len(set(own[epoch * size : (epoch + 1) * size])) == size
        assert own[:size] != own[size : 2 * size]


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ({}, 10),
        ({"min_difficulty": 3.0}, 4),
        ({"max_difficulty": 1.0}, 4),
        ({"min_difficulty": 2.0, "max_difficulty": 2.0}, 2),
        ({"shortest_prompt": 15}, 5),
        ({"longest_prompt": 12}, 3),
        ({"shortest_prompt": 12, "longest_prompt": 12}, 1),
        ({"min_difficulty": 4.0, "longest_prompt": 14}, 1),
    ],
)
def test_a_band_admits_exactly_what_lies_in_it_ends_included(stage: dict[str, object], kept: int) -> None:
    made, all_problems = recipe(stage), encoded(10)
    (plan,) = plans_of(made, all_problems, [0] * 10)
    inside = {e.problem.id for e in all_problems if admits(made.stages[0], e)}
    assert plan.num_problems == len(inside) == kept
    assert set(ids(ProblemStream(problems(10), 1, [plan]).take(3 * kept))) == inside


def test_a_problem_without_difficulty_lies_in_no_band_of_difficulty() -> None:
    unknown = EncodedProblem(Problem("p", "?", ("1",)), np.zeros(5, dtype=np.int32))
    assert admits(recipe({"longest_prompt": 5}).stages[0], unknown)
    assert not admits(recipe({"min_difficulty": 0.0}).stages[0], unknown)
    assert not admits(recipe({"max_difficulty": 9.0}).stages[0], unknown)


def test_a_band_that_holds_nothing_is_refused_with_its_keys_and_figures() -> None:
    with pytest.raises(ValueError, match=r"stages\.1 \(stage1\): none of the 10 usable problems of x\.json") as error:
        plans_of(recipe({}, {"min_difficulty": 9.0, "longest_prompt": 30}), encoded(10), [0] * 10)
    assert "difficulty 9 or more, prompts of up to 30 tokens" in str(error.value)
    assert "stages.1.min_difficulty" in str(error.value)
    with pytest.raises(ValueError, match="of source 's1' is in its bands"):
        plans_of(recipe({"longest_prompt": 14}, sources=2), encoded(10), [0] * 5 + [1] * 5)


def test_bands_in_words() -> None:
    stage = recipe({"min_difficulty": 2.0, "max_difficulty": 5.0, "shortest_prompt": 100}).stages[0]
    assert describe_bands(stage) == "difficulty 2 to 5, prompts of 100 or more tokens"
    assert describe_bands(recipe({}).stages[0]) == ""


def test_a_stage_draws_from_the_sources_it_names() -> None:
    plans = plans_of(recipe({"sources": ("s1",)}, {}, sources=2), encoded(10), [0] * 5 + [1] * 5)
    stream = ProblemStream(problems(10), 1, plans)
    assert set(ids(stream.take(10))) == {f"p{i}" for i in range(5, 10)}
    stream.begin_stage(1, reshuffle=False)
    assert set(ids(stream.take(20))) == {f"p{i}" for i in range(10)}


def solving(drop: bool, *, sources: int = 0) -> list[StagePlan]:
    made = recipe({}, {"drop_solved": drop}, {"drop_solved": drop}, {}, sources=sources, prompts=2)
    return plans_of(made, encoded(12), [i % 2 for i in range(12)] if sources else [0] * 12)


def test_solved_problems_are_left_out_from_the_next_stage_on_and_come_back_where_none_are() -> None:
    stream = ProblemStream(problems(12), 1, solving(True))
    for problem in stream.take(12):
        stream.note(problem.id, solved=problem.difficulty == 0.0)
    stream.note("p5", solved=False)  # solved before, not any more: the latest group counts
    start = stream.begin_stage(1, reshuffle=False)
    assert (start.num_problems, start.num_dropped, start.kept) == (10, 2, ())
    assert {"p0", "p10"}.isdisjoint(ids(stream.take(30)))
    stream.note("p1", solved=True)
    assert "p1" in ids(stream.take(10))  # within the stage nothing changes
    assert stream.begin_stage(2, reshuffle=False).num_dropped == 3
    assert {"p0", "p1", "p10"}.isdisjoint(ids(stream.take(30)))
    assert stream.begin_stage(3, reshuffle=False).num_dropped == 0
    assert set(ids(stream.take(12))) == {f"p{i}" for i in range(12)}


def test_where_too_few_would_be_left_none_are_dropped() -> None:
    stream = ProblemStream(problems(12), 1, solving(True))
    for problem in stream.take(12):
        stream.note(problem.id, solved=problem.id != "p3")
    start = stream.begin_stage(1, reshuffle=False)
    assert (start.num_problems, start.num_dropped, start.kept) == (12, 0, ("",))


def test_nothing_is_remembered_where_no_stage_drops() -> None:
    stream = ProblemStream(problems(12), 1, solving(False))
    stream.note("p1", solved=True)
    assert stream.state_dict()["solved"] == "" and len(json.dumps(stream.state_dict())) < 200


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**31), st.sampled_from([0, 2]))
@settings(max_examples=40, deadline=None)
def test_resumed_equals_uninterrupted(before: int, after: int, seed: int, sources: int) -> None:
    """Stopped anywhere, with the state gone through JSON: same problems, same epochs, same problems left out."""
    rng = np.random.default_rng(seed)
    right = {f"p{i}": bool(rng.random() < 0.5) for i in range(12)}
    plans = solving(True, sources=sources)

    def step(stream: ProblemStream, number: int) -> list[str]:
        if number in (15, 30):
            stream.begin_stage(number // 15, reshuffle=seed % 2 == 0)
        taken = stream.take(2)
        for problem in taken:
            stream.note(problem.id, solved=right[problem.id])
        return ids(taken)

    whole = ProblemStream(problems(12), seed, plans)
    for number in range(before):
        step(whole, number)
    resumed = ProblemStream(problems(12), seed, plans)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for number in range(before, before + after):
        assert step(whole, number) == step(resumed, number)
    assert whole.state_dict() == resumed.state_dict()


def test_a_mixture_is_read_source_by_source_and_refuses_a_problem_in_two(tmp_path: Path) -> None:
    for name, questions in (("0", ["a?", "b?"]), ("1", ["c?"]), ("2", ["b?"])):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"problem": q, "answer": 1} for q in questions]))
    sources = [
        source.model_copy(update={"path": str(tmp_path / source.path)}) for source in recipe({}, sources=3).data.sources
    ]
    loaded, source_of = load_mixture(sources[:2])
    assert ([p.prompt for p in loaded], source_of) == (["a?", "b?", "c?"], [0, 0, 1])
    with pytest.raises(ValueError, match=r"2\.json: problem .* \('b\?'\) is in .*0\.json as well"):
        load_mixture(sources)
