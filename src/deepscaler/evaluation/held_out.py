"""Problems for evaluations inside training: a fixed subset of each set, without what training holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepscaler.answers.equivalence import equivalent
from deepscaler.data.identity import asked_text
from deepscaler.data.prepare.contamination import find_contamination
from deepscaler.data.prepare.normalize import NormalizedTexts, Vocabulary
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
from deepscaler.types import Problem


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A problem of `benchmark` that training holds as its problem `training_id`.

    match: a `data.similarity.Match`. jaccard, containment: of word pairs.
    """

    benchmark: str
    problem_id: str
    training_id: str
    match: str
    jaccard: float
    containment: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """sets: what is asked. left_out: every problem of the whole sets that training holds."""

    sets: Mapping[str, Sequence[Problem]]
    left_out: tuple[LeftOut, ...]


def hold_out(sets: Mapping[str, Sequence[Problem]], count: int, training: Sequence[Problem]) -> HeldOut:
    """`count` problems of each set, or all of a shorter one, that no training problem resembles.

    The rule is that of data preparation (`data.contamination`). The choice is a function of the set's name and of what
    is left out, not of how many training problems there are. Raises ValueError for a set that training holds whole.
    """
    left_out = _in_training(sets, training)
    known = {(one.benchmark, one.problem_id) for one in left_out}
    chosen: dict[str, Sequence[Problem]] = {}
    for name, problems in sets.items():
        order = generator("validation subset", name).permutation(len(problems)).tolist()
        usable = [i for i in order if (name, problems[i].id) not in known]
        if not usable:
            example = next(one for one in left_out if one.benchmark == name)
            raise ValueError(
                f"evaluation set {name}: training holds every one of its {counted(len(problems), 'problem')} "
                f"({example.problem_id} is training problem {example.training_id}, {example.match}), so it would "
                "measure memory; take it out of the evaluation, or out of the training data with `deepscaler data "
                "prepare --benchmarks`"
            )
        chosen[name] = [problems[i] for i in sorted(usable[:count])]
    return HeldOut(chosen, left_out)


def _in_training(sets: Mapping[str, Sequence[Problem]], training: Sequence[Problem]) -> tuple[LeftOut, ...]:
    normalized = NormalizedTexts([asked_text(problem.prompt, problem.earlier) for problem in training], Vocabulary())
    answers = [problem.references for problem in training]
    findings = find_contamination(normalized, answers, dict(sets), same_answer, lambda done, of: None)
    found: dict[tuple[str, str], LeftOut] = {}
    for f in findings:
        if f.contaminates:
            one = LeftOut(f.benchmark, f.problem.id, training[f.row].id, f.match.value, f.jaccard, f.containment)
            found.setdefault((f.benchmark, f.problem.id), one)
    return tuple(found.values())


def same_answer(first: str, second: str) -> bool:
    """Whether the grader takes one reference for the other."""
    return equivalent(first, second).equal
