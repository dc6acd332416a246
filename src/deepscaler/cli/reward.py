"""`deepscaler reward`: a reward function, or the [reward] of a recipe, tried on a file of completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from deepscaler.config.import_paths import BUILTIN_REWARDS
from deepscaler.config.layers import parse_value
from deepscaler.config.load import load_recipe
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.config.sections.reward import RewardSection
from deepscaler.data.sources.readers import DataError, read_rows
from deepscaler.observability.counts import counted
from deepscaler.observability.files import write_atomically
from deepscaler.observability.part_metrics import part_failures, part_metrics
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.rewards.manager import open_reward
from deepscaler.types import FinishReason, FloatArray, GradeItem, Group, Problem, Rollout, ScoredGroup

SHOWN_ROWS, SHOWN_FAILURES = 20, 5


@dataclass(frozen=True, slots=True)
class TrialColumns:
    """Columns of the file. reference: may be missing from a row, the grader then finds no usable reference."""

    completion: str = "response"
    reference: str = "gold"
    prompt: str = "problem"


def try_reward(
    function: str,
    rows: Path,
    *,
    columns: TrialColumns,
    arguments: Sequence[str],
    network: bool,
    thinking_prefilled: bool,
    out: Path | None,
) -> None:
    """Print what every completion earns, figures by part, and tracebacks. Rows of one problem in a row are a group.

    function: FILE.py:NAME, MODULE:NAME, a built-in, or a recipe (.toml). arguments: `NAME=VALUE`, VALUE as in TOML.
    Raises ValueError for a function, a file or a row that cannot be used.
    """
    reward, grader = _sections(function, arguments, network=network)
    with open_reward(reward, grader) as manager, make_grader(grader) as grades:
        if manager is None:
            raise ValueError(f"{function} has no [reward]: the grader's verdict is the reward; use `deepscaler grade`")
        required = manager.columns.required
        groups = list(_groups(rows, columns, required))
        verdicts = iter(
            grades.grade(
                [
                    GradeItem(text, group.group.problem.references, thinking_prefilled)
                    for group in groups
                    for text in group.texts
                ]
            )
        )
        graded = [ScoredGroup(g.group, g.texts, tuple(next(verdicts) for _ in g.texts)) for g in groups]
        scored = manager.score(graded, thinking_prefilled=thinking_prefilled)
    if out is not None:
        lines = "".join(json.dumps(row) + "\n" for row in _records(scored))
        write_atomically(out, lambda path: path.write_text(lines, encoding="ascii"))
    _print(scored)


def _sections(function: str, arguments: Sequence[str], *, network: bool) -> tuple[RewardSection, GraderSection]:
    if function.endswith(".toml"):
        if arguments or network:
            raise ValueError("--argument and --network go with a function; a recipe says both itself")
        recipe = load_recipe(function)
        return recipe.reward, recipe.grader
    given: dict[str, object] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--argument {argument}: expected NAME=VALUE, for example --argument target=400")
        given[name.strip()] = parse_value(value.strip())
    part = {"name": "reward", "function": function, "arguments": given, "network": network}
    try:
        return RewardSection.model_validate({"parts": [part]}), GraderSection()
    except ValueError:
        raise ValueError(
            f"{function}: expected FILE.py:NAME, MODULE:NAME, a built-in ({', '.join(BUILTIN_REWARDS)}), or a recipe "
            "(.toml)"
        ) from None


def _groups(path: Path, columns: TrialColumns, required: Mapping[str, str]) -> Iterator[ScoredGroup]:
    """Consecutive rows of the same problem; their verdicts are still to come."""
    rows = [_checked(path, number, row, columns, required) for number, row in enumerate(read_rows(path))]
    if not rows:
        raise DataError(f"{path} holds no rows")
    for number, (prompt, members) in enumerate(groupby(rows, key=lambda row: str(row.get(columns.prompt, "")))):
        group = list(members)
        yield ScoredGroup(_group(number, prompt, group, columns), tuple(row[columns.completion] for row in group), ())


def _group(number: int, prompt: str, rows: Sequence[Mapping[str, Any]], columns: TrialColumns) -> Group:
    reference = rows[0].get(columns.reference)
    references = reference if isinstance(reference, list) else [] if reference is None else [reference]
    others = {name: value for name, value in rows[0].items() if name not in (columns.completion, columns.prompt)}
    problem = Problem(
        id=str(rows[0].get("id", number)),
        prompt=prompt,
        references=tuple(map(str, references)),
        columns=json.dumps(others, default=str),
    )
    return Group(problem, tuple(_rollout(index, row, columns) for index, row in enumerate(rows)))


def _rollout(index: int, row: Mapping[str, Any], columns: TrialColumns) -> Rollout:
    """num_tokens: the row's, else its words are counted."""
    count = row.get("num_tokens")
    num_tokens = count if isinstance(count, int) and count >= 0 else len(str(row[columns.completion]).split())
    logprobs: FloatArray = np.zeros(num_tokens, np.float32)
    ids = np.zeros(num_tokens, np.int32)
    return Rollout(str(row.get("id", "")), index, ids[:0], ids, logprobs, FinishReason.STOP, 0)


def _checked(
    path: Path, number: int, row: object, columns: TrialColumns, required: Mapping[str, str]
) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{path}, row {number}: expected an object with fields, found {type(row).__name__}")
    there = ", ".join(map(str, row))
    if not isinstance(row.get(columns.completion), str):
        raise DataError(
            f"{path}, row {number}: no text in field {columns.completion!r}; it has {there}. --response-column names "
            "another one"
        )
    for name, part in required.items():
        if name not in row:
            raise DataError(
                f"{path}, row {number}: no field {name!r}, which reward part {part!r} takes; it has {there}"
            )
    return row


def _records(scored: Sequence[ScoredGroup]) -> Iterator[dict[str, object]]:
    for group in scored:
        for earned in group.composed:
            parts = {
                part.name: {"outcome": part.outcome.value, "value": part.value, "seconds": round(part.seconds, 6)}
                for part in earned.parts
            }
            yield {"id": group.group.problem.id, "reward": earned.value, "solved": earned.solved, "parts": parts}


def _print(scored: Sequence[ScoredGroup]) -> None:
    records = list(_records(scored))
    for number, earned in enumerate([earned for group in scored for earned in group.composed][:SHOWN_ROWS]):
        parts = "  ".join(
            f"{part.name} {part.outcome.value if part.value is None else format(part.value, '.4g')}"
            for part in earned.parts
        )
        total = "none" if earned.value is None else f"{earned.value:.4g}"
        print(f"row {number:<5} reward {total:<9} {'solved' if earned.solved else '':<7} {parts}")
    if len(records) > SHOWN_ROWS:
        print(f"… {counted(len(records), 'row')} in all; --out writes every one")
    print()
    for name, figure in part_metrics(scored).items():
        print(f"{name:<40} {figure:.6g}")
    failures = part_failures(scored)
    for failure in failures[:SHOWN_FAILURES]:
        where = f"first for problem {failure.problem_id!r}" if failure.problem_id else "first"
        print(
            f"\n{failure.part}: {failure.outcome.value}, {failure.count}×, {where}, completion {failure.sample_index}"
        )
        print(failure.trace.rstrip())
    if len(failures) > SHOWN_FAILURES:
        print(f"\n… {counted(len(failures) - SHOWN_FAILURES, 'more kind')} of failure")
