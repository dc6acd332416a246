"""No evaluation inside training asks what training holds, and the choice is fixed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepscaler.data.benchmarks.load import load_benchmark
from deepscaler.data.sources.synthetic import generate_problems
from deepscaler.evaluation.held_out import hold_out
from deepscaler.types import Problem
from shared_data import shared

TEXTS = (
    "A train leaves Rome at 9 and arrives in Milan at 12; how many kilometres an hour is that if they lie 570 apart?",
    "How many positive divisors does the number 5040 have, counting 1 and the number itself among them?",
    "Find the remainder when $7^{2024}$ is divided by 100, and add to it the sum of its two digits.",
    "A box holds 12 red and 15 blue balls. Two are drawn without putting back; what is the chance that both are red?",
)
ANSWERS = ("190", "60", "1", r"\frac{22}{117}")
SET = [Problem(f"s/{i}", text, (answer,)) for i, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True))]


def trained(*numbers: int) -> list[Problem]:
    """The same problems as another collection would write them, among problems of its own."""
    same = [replace(SET[n], id=f"t{n}", prompt=SET[n].prompt.upper().replace("$", "") + " ") for n in numbers]
    return [*generate_problems(5, [3], "train"), *same]


def test_what_training_holds_is_left_out_and_listed() -> None:
    held_out = hold_out({"own": SET}, 10, trained(1, 3))
    assert [p.id for p in held_out.sets["own"]] == ["s/0", "s/2"]
    assert {(one.problem_id, one.training_id, one.match) for one in held_out.left_out} == {
        ("s/1", "t1", "verbatim"),
        ("s/3", "t3", "verbatim"),
    }
    assert hold_out({"own": SET}, 10, trained()).left_out == ()


def test_the_choice_depends_on_the_set_and_on_what_is_left_out_alone() -> None:
    many = [replace(SET[0], id=f"m/{i}", prompt=f"{SET[0].prompt} {i}") for i in range(40)]
    chosen = [p.id for p in hold_out({"own": many}, 8, trained()).sets["own"]]
    assert chosen == [p.id for p in hold_out({"own": many, "other": SET}, 8, trained(2)).sets["own"]]
    assert len(chosen) == 8 and chosen == sorted(chosen, key=lambda name: int(name[2:]))
    assert chosen != [p.id for p in hold_out({"another": many}, 8, trained()).sets["another"]]


def test_a_set_that_training_holds_whole_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set own: training holds every one of its 4 problems.*data prepare"):
        hold_out({"own": SET}, 2, trained(0, 1, 2, 3))


def test_a_real_benchmark_against_the_training_set_that_repeats_it() -> None:
    directory = shared("data", "benchmarks")
    math = load_benchmark("math500", directory).problems
    training = [
        replace(p, id=f"t{i}", prompt=p.prompt.replace(r"\frac", r"\dfrac") + " ") for i, p in enumerate(math[:30])
    ]
    held_out = hold_out({"math500": math, "aime24": load_benchmark("aime24", directory).problems}, 50, training)
    assert {one.problem_id for one in held_out.left_out} >= {p.id for p in math[:30]}
    assert [len(ps) for ps in held_out.sets.values()] == [50, 30]
    assert not {p.id for p in held_out.sets["math500"]} & {p.id for p in math[:30]}
