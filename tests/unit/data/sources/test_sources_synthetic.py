"""Problems, their worked solutions, and the wall between training and test."""

from __future__ import annotations

import numpy as np
import pytest

from deepscaler.config import load_recipe
from deepscaler.config.sections.model import SftSection
from deepscaler.data.sources.synthetic import (
    Chain,
    Operation,
    assert_disjoint,
    evaluation_sets,
    generate_problems,
    held_out_ids,
    ids_of,
    parse_chain,
    random_chain,
    training_problems,
    validation_sets,
)
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.toy.traces import spelled, worked_solution
from deepscaler.types import GradeItem, Outcome

QUICKSTART = "recipes/quickstart.toml"
STEADY = SftSection(slip_frac=0.0, redo_frac=0.2, restart_frac=0.3, spiral_enter=0.05)


def test_a_chain_means_what_python_says() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        chain = random_chain(int(rng.integers(1, 12)), rng)
        state = chain.start
        for operation in chain.operations:
            # The oracle: Python's own arithmetic on the written text.
            state = eval(f"({state}){operation.symbol}{operation.operand}") % 100
        assert chain.answer == state
        assert parse_chain(str(chain)) == chain


@pytest.mark.parametrize("text", ["", "37", "7 a+25", "37 a+25 x", "37 a/25", "37  a+25", "37 a+25 "])
def test_what_is_no_chain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no chain problem"):
        parse_chain(text)


@pytest.mark.parametrize("symbol", "+-*")
def test_a_spelled_step_is_right_for_every_operand(symbol: str) -> None:
    for state in range(100):
        for operand in range(2, 10) if symbol == "*" else range(10, 100):
            operation = Operation("a", symbol, operand)
            assert spelled(state, operation).endswith(f"={operation.apply(state):02d};")


def test_a_solution_without_slips_is_graded_correct() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        chain = random_chain(int(rng.integers(2, 10)), rng)
        item = GradeItem(worked_solution(chain, STEADY, rng), chain.problem().references, thinking_prefilled=True)
        verdict = grade(item)
        assert verdict.outcome is Outcome.CORRECT


def test_uncorrected_slips_lead_to_wrong_answers() -> None:
    rng = np.random.default_rng(3)
    sloppy = SftSection(spelled_frac=0.0, slip_frac=1.0, repair_frac=0.0, spiral_enter=0.0)
    chain = Chain(37, (Operation("a", "+", 25),))
    verdicts = [
        grade(GradeItem(worked_solution(chain, sloppy, rng), chain.problem().references, thinking_prefilled=True))
        for _ in range(50)
    ]
    assert {v.outcome for v in verdicts} == {Outcome.WRONG}


def test_problems_are_a_function_of_the_seed() -> None:
    assert generate_problems(50, [3, 4], 7) == generate_problems(50, [3, 4], 7)
    assert generate_problems(50, [3, 4], 7) != generate_problems(50, [3, 4], 8)


def test_problems_are_all_different_and_none_is_excluded() -> None:
    first = generate_problems(500, [1], 1)
    assert len({p.id for p in first}) == len({p.prompt for p in first}) == 500
    excluded = frozenset(p.id for p in first)
    assert not excluded & {p.id for p in generate_problems(500, [1], 1, exclude=excluded)}


def test_asking_for_more_problems_than_there_are_is_an_error() -> None:
    every = frozenset(
        Chain(start, (Operation("a", symbol, operand),)).problem().id
        for start in range(10, 100)
        for symbol in "+-*"
        for operand in (range(2, 10) if symbol == "*" else range(10, 100))
    )
    with pytest.raises(ValueError, match="ask for fewer"):
        generate_problems(1, [1], 1, exclude=every)
    with pytest.raises(ValueError, match="must lie in"):
        generate_problems(5, [0], 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_quickstart_never_trains_on_a_held_out_problem(seed: int) -> None:
    recipe = load_recipe(QUICKSTART, [f"seed={seed}"])
    training, tests, validation = training_problems(recipe), evaluation_sets(recipe), validation_sets(recipe)
    assert_disjoint(training, tests, validation)
    assert len(tests) == 5
    assert ids_of(tests) | ids_of(validation) == held_out_ids(recipe)
    # Shorter held-out chains must be kept out for a reason: without exclusion some would be met.
    assert {p.difficulty for p in training} >= {p.difficulty for problems in tests.values() for p in problems}


def test_a_planted_overlap_is_found() -> None:
    problems = generate_problems(20, [3], 1)
    with pytest.raises(ValueError, match="is in training and in held-out collection 1, set x"):
        assert_disjoint(problems, {"x": [problems[7]]})
    with pytest.raises(ValueError, match="held-out collection 2"):
        assert_disjoint(problems[:3], {"x": [problems[7]]}, {"y": [problems[7]]})


def test_test_sets_are_the_same_for_every_seed() -> None:
    first, second = (evaluation_sets(load_recipe(QUICKSTART, [f"seed={s}"])) for s in (1, 2))
    assert first == second
