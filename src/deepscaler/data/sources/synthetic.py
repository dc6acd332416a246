"""Verifiable problems made on the spot: chains of + - * over a running state modulo 100.

`37 a+25 b*7 c-31`: start with 37, add 25, multiply by 7, subtract 31, keep the last two digits after every step.
The labels a, b, c … let a worked solution (`traces`) name the step it is at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.evaluation import EvaluationSection
from deepscaler.data.identity import problem_id
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
from deepscaler.types import Problem

MODULUS = 100
LABELS = "abcdefghijklmnopqrstuvwxyz"
MAX_OPERATIONS = len(LABELS)
SOURCE = "synthetic"
_OPERATION = re.compile(r" ([a-z])([+\-*])(\d\d?)")


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a chain. `symbol` is +, - or *; `operand` 10..99, for * 2..9. As text: `a+25`."""

    label: str
    symbol: str
    operand: int

    def apply(self, state: int) -> int:
        if self.symbol == "*":
            return state * self.operand % MODULUS
        return (state + (self.operand if self.symbol == "+" else -self.operand)) % MODULUS

    def __str__(self) -> str:
        return f"{self.label}{self.symbol}{self.operand}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A problem in structured form. `start` is 10..99. As text: `37 a+25 b*7`."""

    start: int
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return " ".join([str(self.start), *map(str, self.operations)])

    @property
    def answer(self) -> int:
        state = self.start
        for operation in self.operations:
            state = operation.apply(state)
        return state

    def problem(self) -> Problem:
        text = str(self)
        return Problem(
            id=problem_id(text),
            prompt=text,
            # Two digits, as the traces write it: 7 is `07`.
            references=(f"{self.answer:02d}",),
            source=SOURCE,
            difficulty=float(len(self.operations)),
        )


def parse_chain(text: str) -> Chain:
    """The chain written in `text`. Raises ValueError when it is not one."""
    operations = tuple(Operation(label, symbol, int(n)) for label, symbol, n in _OPERATION.findall(text))
    if not operations or not text[:2].isdigit() or str(Chain(int(text[:2]), operations)) != text:
        raise ValueError(f"{text[:60]!r} is no chain problem such as '37 a+25 b*7'")
    return Chain(int(text[:2]), operations)


def random_chain(num_operations: int, rng: np.random.Generator) -> Chain:
    """A random chain, the three symbols equally likely."""
    symbols = ["+-*"[int(rng.integers(3))] for _ in range(num_operations)]
    operations = tuple(
        Operation(label, symbol, int(rng.integers(2, 10) if symbol == "*" else rng.integers(10, 100)))
        for label, symbol in zip(LABELS, symbols, strict=False)
    )
    return Chain(int(rng.integers(10, 100)), operations)


def generate_problems(
    count: int, operations: Sequence[int], seed: int | str, exclude: AbstractSet[str] = frozenset()
) -> list[Problem]:
    """`count` different problems whose chain lengths are drawn evenly from `operations`.

    None has an id in `exclude`. The result is a function of the arguments. Raises ValueError when there are not
    enough different problems of that length to find.
    """
    if not operations or min(operations) < 1 or max(operations) > MAX_OPERATIONS:
        raise ValueError(f"chain lengths must lie in 1..{MAX_OPERATIONS}, got {list(operations)}")
    rng = generator(SOURCE, seed)
    problems: dict[str, Problem] = {}
    for _ in range(20 * count + 100):
        if len(problems) == count:
            break
        problem = random_chain(operations[int(rng.integers(len(operations)))], rng).problem()
        if problem.id not in exclude:
            problems[problem.id] = problem
    if len(problems) < count:
        raise ValueError(
            f"found only {len(problems)} of {counted(count, 'different problem')} with {min(operations)} to "
            f"{max(operations)} operations; ask for fewer, or for longer chains"
        )
    return list(problems.values())


def evaluation_sets(section: EvaluationSection) -> dict[str, list[Problem]]:
    """The held-out test sets, `chain-3` and so on. They do not depend on the recipe's seed, as benchmarks do not."""
    return {
        f"chain-{n}": generate_problems(section.num_problems, [n], f"evaluation-{n}") for n in section.set_operations
    }


def validation_sets(section: EvaluationSection) -> dict[str, list[Problem]]:
    """Sets of the same chain lengths for evaluations inside training; disjoint from the test sets."""
    tested = ids_of(evaluation_sets(section))
    return {
        f"chain-{n}": generate_problems(section.during_training_problems, [n], f"validation-{n}", exclude=tested)
        for n in section.set_operations
    }


def held_out_ids(section: EvaluationSection) -> frozenset[str]:
    """Ids of every problem that no training, supervised or reinforced, may see."""
    return ids_of(evaluation_sets(section)) | ids_of(validation_sets(section))


def training_problems(data: DataSection, evaluation: EvaluationSection, seed: int) -> list[Problem]:
    """The problems of reinforcement learning, a function of the recipe's seed; none of them held out."""
    lengths = range(data.min_operations, data.max_operations + 1)
    return generate_problems(data.num_problems, lengths, f"training-{seed}", exclude=held_out_ids(evaluation))


def ids_of(sets: Mapping[str, Iterable[Problem]]) -> frozenset[str]:
    return frozenset(problem.id for problems in sets.values() for problem in problems)


def assert_disjoint(training: Iterable[Problem], *held_out: Mapping[str, Iterable[Problem]]) -> None:
    """Raises ValueError when a problem is in `training` and a held-out set, or in two collections of them.

    Compares texts, not ids, so that it also holds for problems whose ids were made elsewhere.
    """
    places = {problem.prompt: "training" for problem in training}
    for number, sets in enumerate(held_out, start=1):
        for name, problems in sets.items():
            for problem in problems:
                here = f"held-out collection {number}, set {name}"
                if places.setdefault(problem.prompt, here) != here:
                    raise ValueError(
                        f"problem {problem.prompt!r} is in {places[problem.prompt]} and in {here}; results on "
                        "that set would not be held out. Generate one of them with `exclude`"
                    )
