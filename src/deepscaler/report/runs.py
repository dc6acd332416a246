"""A run directory as the report sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import METRICS_FILE, read_json, read_metrics
from deepscaler.report.chart import Point, Span
from deepscaler.report.formatting import is_number
from deepscaler.report.metrics_rows import evaluation_row, event_row, step_row

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Rows of metrics.jsonl by kind, and the run's JSON files; `label` tells runs of one report apart.

    difficulties: step -> difficulty -> (Pass@1, problems), of the evaluations inside training whose sets have several.
    """

    path: Path
    label: str
    steps: list[Row]
    evaluations: list[Row]
    events: list[Row]
    info: Row
    recipe: Row
    summary: Row
    difficulties: dict[int, dict[str, tuple[float, int]]] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        return max((r["step"] for r in [*self.steps, *self.evaluations]), default=0)

    def points(self, value: str | Callable[[Row], float | None]) -> tuple[Point, ...]:
        """(step, value) of every training step; None where a step has no such figure."""
        get = value if callable(value) else lambda row: row.get(value)
        pairs = ((row["step"], get(row)) for row in self.steps)
        return tuple((step, float(v) if is_number(v) else None) for step, v in pairs)

    def has(self, metric: str) -> bool:
        return any(is_number(row.get(metric)) for row in self.steps)


@dataclass(frozen=True, slots=True)
class StageSpan:
    """Consecutive steps of one stage. `budget` is tokens."""

    name: str
    budget: int | None
    rows: tuple[Row, ...]

    @property
    def first(self) -> int:
        return self.rows[0]["step"]

    @property
    def last(self) -> int:
        return self.rows[-1]["step"]

    @property
    def label(self) -> str:
        """A stage named by a bare number is named after its budget; say so."""
        return counted(int(self.name), "token") if self.name.isdigit() else self.name

    def mean_of(self, metric: str, rows: Sequence[Row]) -> float | None:
        values = [row[metric] for row in rows if is_number(row.get(metric))]
        return sum(values) / len(values) if values else None


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Raises ValueError for no paths, and for a path that is no run directory."""
    if not paths:
        raise ValueError("there is no run to report on; name at least one run directory")
    names = [_name(path) for path in paths]
    labels = names
    if len(set(names)) < len(names):
        labels = [f"{name} ({path.resolve().name})" for name, path in zip(names, paths, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in paths]
    return [_read_run(path, label) for path, label in zip(paths, labels, strict=True)]


def _name(path: Path) -> str:
    return str((read_json(path / "recipe.json") or {}).get("name") or path.resolve().name)


def _read_run(path: Path, label: str) -> RunRecord:
    file = path / METRICS_FILE
    if not file.is_file():
        raise ValueError(f"{path} holds no {METRICS_FILE}, so it is not a run directory; {_suggestion(path)}")
    rows = read_metrics(file)
    asked = [r["step"] for r in rows if r["kind"] == "evaluation"]
    return RunRecord(
        difficulties={step: found for step in asked if (found := _by_difficulty(path, step))},
        path=path,
        label=label,
        steps=[step_row(r) for r in rows if r["kind"] == "step"],
        evaluations=[evaluation_row(r) for r in rows if r["kind"] == "evaluation"],
        events=_events(rows),
        info=read_json(path / "run.json") or {},
        recipe=read_json(path / "recipe.json") or {},
        summary=read_json(path / "summary.json") or {},
    )


def _by_difficulty(path: Path, step: int) -> dict[str, tuple[float, int]]:
    """Pass@1 over the problems of each difficulty in all sets."""
    results = read_json(path / "evaluations" / f"step-{step:06d}" / "results.json") or {}
    sums: dict[str, tuple[float, int]] = {}
    for record in results.get("benchmarks", {}).values():
        for group in record.get("by_difficulty") or ():
            total, count = sums.get(group["name"], (0.0, 0))
            problems = group["num_problems"]
            sums[group["name"]] = (total + group["pass@1"] * problems, count + problems)
    return {name: (total / count, count) for name, (total, count) in sums.items()}


def _suggestion(path: Path) -> str:
    below = sorted(p.parent for p in path.glob(f"*/{METRICS_FILE}")) if path.is_dir() else []
    if below:
        return f"did you mean {' or '.join(map(str, below[:3]))}?"
    return "give the directory that was passed to `deepscaler train` as --run-dir"


def _events(rows: Sequence[Row]) -> list[Row]:
    """Steps done again after a resume repeat their events: the same event of a step counts once."""
    latest: dict[tuple[int, str, str], Row] = {}
    for row in rows:
        if row["kind"] == "event":
            event = event_row(row)
            text = event["reason"] if event["event"] == "alarm" else ""
            latest[(row["step"], event["event"], text)] = event
    return list(latest.values())


def stage_spans(run: RunRecord) -> list[StageSpan]:
    """The stages the run has been in, from the steps themselves."""
    spans: list[StageSpan] = []
    start = 0
    for index, row in enumerate(run.steps):
        following = run.steps[index + 1] if index + 1 < len(run.steps) else None
        if following is None or following.get("stage") != row.get("stage"):
            rows = tuple(run.steps[start : index + 1])
            budget = row.get("max_completion_tokens")
            spans.append(StageSpan(str(row.get("stage", "")), int(budget) if is_number(budget) else None, rows))
            start = index + 1
    return spans


def chart_spans(runs: Sequence[RunRecord]) -> tuple[Span, ...]:
    """Stages to draw behind charts: those of all runs when they agree, otherwise none."""
    each = [tuple(Span(s.label, s.first, s.last) for s in stage_spans(run)) for run in runs]
    starts = {tuple((s.label, s.first) for s in spans) for spans in each}
    return max(each, key=lambda spans: spans[-1].last if spans else 0) if len(starts) == 1 else ()
