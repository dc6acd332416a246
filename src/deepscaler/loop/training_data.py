"""The problems of a run: those it trains on, and those that its evaluations ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepscaler.config import Recipe
from deepscaler.data.pass_rates import in_band
from deepscaler.data.sources.load import load_mixture, load_problems
from deepscaler.data.sources.other_columns import NO_OTHERS
from deepscaler.data.sources.synthetic import assert_disjoint, evaluation_sets, training_problems, validation_sets
from deepscaler.evaluation.datasets import Datasets, describe
from deepscaler.evaluation.held_out import LeftOut
from deepscaler.loop.held_out_sets import load_validation, test_sets
from deepscaler.observability.counts import counted
from deepscaler.types import Problem, WantedColumns


@dataclass(frozen=True, slots=True)
class TrainingData:
    """source_of: per problem, the index of its entry in data.sources, 0 without a mixture.

    validation: problems of evaluations inside training. left_out: those left out because training holds them.
    num_outside_band: of `data.min_pass_rate` and `data.max_pass_rate`, not among the problems.
    """

    problems: list[Problem]
    source_of: list[int]
    validation: Datasets
    left_out: tuple[LeftOut, ...] = ()
    num_outside_band: int = 0

    @property
    def asked(self) -> list[Problem]:
        """Problems of the evaluations inside training."""
        return [problem for problems in self.validation.sets.values() for problem in problems]


def load_training_data(recipe: Recipe, others: WantedColumns = NO_OTHERS) -> TrainingData:
    """others: columns that reward functions take beside problem and answer.

    Raises ValueError when a problem is in two sources, or a held-out set is nowhere disjoint from training."""
    data = recipe.data
    if data.source == "synthetic":
        for name, part in others.required.items():
            raise ValueError(f"reward part {part!r} takes {name!r}, a column that generated problems do not have")
        problems = training_problems(data, recipe.evaluation, recipe.seed)
        validation = validation_sets(recipe.evaluation)
        assert_disjoint(problems, validation, evaluation_sets(recipe.evaluation))
        return TrainingData(problems, [0] * len(problems), describe(validation))
    if data.source == "mix":
        problems, source_of = load_mixture(data.sources, instruction=data.instruction, others=others)
    else:
        problems = load_problems(
            data.source,
            prompt_field=data.prompt_field,
            answer_field=data.answer_field,
            instruction=data.instruction,
            others=others,
        )
        source_of = [0] * len(problems)
    kept = in_band(problems, data)
    validation = load_validation(recipe.evaluation, data, problems)
    problems, num_read = [problem for problem, keep in zip(problems, kept, strict=True) if keep], len(problems)
    source_of = [source for source, keep in zip(source_of, kept, strict=True) if keep]
    return TrainingData(problems, source_of, *validation, num_outside_band=num_read - len(problems))


def validation_notes(training: TrainingData) -> Iterator[str]:
    """Notes on the evaluations of the run."""
    sets, tests = training.validation.sets, test_sets(training.validation)
    if training.num_outside_band:
        total = len(training.problems) + training.num_outside_band
        yield (
            f"{len(training.problems)} of {counted(total, 'problem')} have a pass rate inside data.min_pass_rate and "
            "data.max_pass_rate"
        )
    if tests:
        count = sum(len(sets[name]) for name in tests)
        yield (
            f"evaluations inside training use {counted(count, 'problem')} of {', '.join(tests)}, which are test "
            "problems: no checkpoint is chosen by them, and whoever chooses one by them has no test score left for it"
        )
    if training.left_out:
        some = ", ".join(one.problem_id for one in training.left_out[:3])
        more = ", …" if len(training.left_out) > 3 else ""
        yield (
            f"{counted(len(training.left_out), 'problem')} of the evaluation sets, not asked as the training data hold "
            f"the same ({some}{more}); evaluations/held_out.json lists them"
        )
    for text in training.validation.warnings:
        yield f"note: {text}"
