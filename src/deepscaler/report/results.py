"""Base against trained model: the table of a run, from its evaluations, summary or validation lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import read_json
from deepscaler.report.formatting import is_number
from deepscaler.report.runs import RunRecord


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its 95% interval, fractions of 1."""

    mean: Any
    low: Any
    high: Any


@dataclass(frozen=True, slots=True)
class ResultRow:
    name: str
    base: Interval | None
    trained: Interval | None
    difference: Interval | None
    p_value: Any = None


@dataclass(frozen=True, slots=True)
class Results:
    """The last row is the average over the sets, each of the same weight."""

    rows: list[ResultRow]
    note: str
    paired: bool

    @property
    def average(self) -> ResultRow:
        return self.rows[-1]


def results_of(run: RunRecord, validation: Mapping[str, Any] | None = None) -> Results | None:
    """The best that is there: written evaluations, else summary.json, else evaluations inside training.

    validation: the content of a comparison of the first and the last of the latter, with their `steps`.
    """
    folder = run.path / "evaluations"
    base, trained = (
        read_json(folder / "base" / "results.json"),
        read_json(folder / "trained" / "results.json"),
    )
    if base or trained:
        comparison = read_json(folder / "comparison.json") or {}
        base_sets, trained_sets = _side(base), _side(trained)
        rows = _rows(base_sets, trained_sets, comparison.get("sets", {}), comparison.get("total"))
        return Results(rows, _settings(trained or base or {}), bool(comparison))
    if "base" in run.summary and "trained" in run.summary:
        before, after = _summary_side(run.summary["base"]), _summary_side(run.summary["trained"])
        rows = _rows(before, after, run.summary.get("set_differences", {}), run.summary.get("difference"))
        return Results(rows, "From summary.json.", "difference" in run.summary)
    return _from_validation(run, validation or {})


def _from_validation(run: RunRecord, comparison: Mapping[str, Any]) -> Results | None:
    if not run.evaluations:
        return None
    first, last = run.evaluations[0], run.evaluations[-1]
    same = first is last
    if comparison.get("steps") != [first["step"], last["step"]]:
        comparison = {}
    after = {} if same else _summary_side(last)
    rows = _rows(_summary_side(first), after, comparison.get("sets", {}), comparison.get("total"))
    note = f"Validation sets inside training, after step {first['step']}"
    if not same:
        pair = " ".join(f"evaluations/step-{row['step']:06d}" for row in (first, last))
        note += f" and after step {last['step']}; deepscaler compare {pair} has more about them"
    return Results(rows, ". ".join([note, *test_set_notes(last)]) + ".", bool(comparison))


def test_set_notes(evaluation: Mapping[str, Any]) -> list[str]:
    """A sentence where evaluations inside training ask test problems, none otherwise."""
    tests = evaluation.get("test_sets") or []
    if not tests:
        return []
    return [
        f"{', '.join(map(str, tests))} {'is a test set' if len(tests) == 1 else 'are test sets'}: a checkpoint chosen "
        "by these figures has no test score of its own"
    ]


AVERAGE = "average"


def _side(results: Mapping[str, Any] | None) -> dict[str, Interval]:
    if not results:
        return {}
    return {n: _interval(v) for n, v in {**results.get("benchmarks", {}), AVERAGE: results.get("average", {})}.items()}


def _summary_side(side: Mapping[str, Any]) -> dict[str, Interval]:
    return {n: _interval(v) for n, v in {**side.get("sets", {}), AVERAGE: side}.items()}


def _interval(value: Mapping[str, Any]) -> Interval:
    return Interval(value.get("pass@1", value.get("mean")), value.get("low"), value.get("high"))


def _rows(
    base: Mapping[str, Interval], trained: Mapping[str, Interval], differences: Mapping[str, Any], total: Any
) -> list[ResultRow]:
    """One row per set that either side holds, then the average."""
    names = [n for n in {**base, **trained} if n != AVERAGE] + [AVERAGE]
    rows = []
    for name in names:
        found = total if name == AVERAGE else differences.get(name)
        difference = _interval(found) if found else None
        rows.append(
            ResultRow(name, base.get(name), trained.get(name), difference, found.get("p_value") if found else None)
        )
    return rows


def _settings(results: Mapping[str, Any]) -> str:
    settings, sets = results.get("settings", {}), results.get("benchmarks", {})
    problems = sorted({s.get("num_problems") for s in sets.values() if s.get("num_problems")})
    parts = []
    if problems:
        span = f"{problems[0]} to " if len(problems) > 1 else ""
        parts.append(f"{span}{counted(problems[-1], 'problem')} per set")
    words = {"num_samples": "{} samples per problem", "temperature": "temperature {}", "top_p": "top-p {}"}
    words["max_completion_tokens"] = "up to {} tokens"
    parts += [text.format(f"{settings[key]:,}") for key, text in words.items() if is_number(settings.get(key))]
    return f"Held-out sets: {', '.join(parts)}." if parts else "Held-out sets."
