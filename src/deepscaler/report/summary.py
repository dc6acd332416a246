"""Texts and tables of the report: metadata of the run, stages, events, alarms, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deepscaler.observability.counts import counted
from deepscaler.report.formatting import duration, is_number, number, percent
from deepscaler.report.metrics_rows import json_object
from deepscaler.report.runs import Row, RunRecord, StageSpan, stage_spans

EDGE_STEPS = 10  # steps averaged at the start and the end of a stage
PHASES = {
    "sample_s": "sampling",
    "grade_s": "grading",
    "update_s": "training",
    "publish_s": "publishing weights",
}


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds of one phase over the whole run; `share` of all step time, for the bar."""

    name: str
    seconds: str
    share: float


@dataclass(frozen=True, slots=True)
class StageRow:
    """A row of the stage table; figures are texts, `start → end` of the stage."""

    name: str
    budget: str
    steps: str
    reward: str
    truncated: str
    length: str
    pass_at_1: str


@dataclass(frozen=True, slots=True)
class Event:
    step: int
    kind: str
    reason: str
    figures: list[tuple[str, str]]


def run_metadata(run: RunRecord) -> list[tuple[str, str]]:
    """(what, text) for the head of the report; unknown ones are left out."""
    info, hardware = run.info, json_object(run.info.get("hardware"))
    metadata = [
        ("Seed", run.recipe.get("seed")),
        ("Preset", run.recipe.get("preset")),
        ("Steps", _steps_text(run)),
        ("Started", _date(info.get("started"))),
        ("Time in steps", duration(sum(r.get("step_s", 0.0) for r in run.steps)) if run.steps else None),
        ("Wall time", duration(run.summary["wall_s"]) if is_number(run.summary.get("wall_s")) else None),
        ("Base model", info.get("model")),
        ("Hardware", _hardware(hardware)),
        ("Commit", _commit(info.get("git_commit"))),
        ("Versions", _versions(info)),
    ]
    return [(name, str(value)) for name, value in metadata if value not in (None, "")]


def _steps_text(run: RunRecord) -> str:
    done = run.steps[-1]["step"] if run.steps else 0
    planned = run.recipe.get("num_steps")
    return f"{done:,} of {planned:,}" if is_number(planned) else f"{done:,}"


def _date(seconds: object) -> str | None:
    if not is_number(seconds):
        return None
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):  # no date of any calendar
        return None


def _hardware(hardware: Mapping[str, Any]) -> str:
    parts = [str(hardware[key]) for key in ("gpu", "cpu") if hardware.get(key)]
    if hardware.get("cores"):
        parts.append(counted(hardware["cores"], "core"))
    if hardware.get("memory_gib"):
        parts.append(f"{hardware['memory_gib']} GiB")
    return ", ".join(parts)


def _commit(commit: object) -> str | None:
    if not commit:
        return None
    digest, plus, _ = str(commit).partition("+")
    return digest[:10] + (" with local changes" if plus else "")


def _versions(info: Mapping[str, Any]) -> str:
    pairs = [("Python", info.get("python")), *json_object(info.get("versions")).items()]
    return ", ".join(f"{name} {version}" for name, version in pairs if version)


def stage_table(run: RunRecord) -> list[StageRow]:
    evaluations = {row["step"]: row for row in run.evaluations}
    return [_stage_row(stage, evaluations) for stage in stage_spans(run)]


def _stage_row(stage: StageSpan, evaluations: Mapping[int, Row]) -> StageRow:
    edge = min(EDGE_STEPS, max(1, len(stage.rows) // 2))
    first, last = stage.rows[:edge], stage.rows[-edge:]

    def change(metric: str, text: Any) -> str:
        return f"{text(stage.mean_of(metric, first))} → {text(stage.mean_of(metric, last))}"

    return StageRow(
        name=stage.name,
        budget=number(stage.budget),
        steps=f"{stage.first:,}–{stage.last:,}",
        reward=change("reward_mean", number),
        truncated=change("truncated_frac", percent),
        length=change("length_mean", number),
        pass_at_1=percent(evaluations.get(stage.last, {}).get("pass@1")),
    )


def events_of(run: RunRecord) -> list[Event]:
    """Everything but alarms, in order."""
    return [_event(row) for row in run.events if row.get("event") != "alarm"]


def alarms_of(run: RunRecord) -> list[Event]:
    return [_event(row) for row in run.events if row.get("event") == "alarm"]


def _event(row: Row) -> Event:
    figures = row.get("figures")
    pairs = figures.items() if isinstance(figures, dict) else ()
    return Event(
        step=row["step"],
        kind=str(row.get("event", "event")).replace("_", " "),
        reason=str(row.get("reason", "")),
        figures=[(name.replace("_frac", "_share").replace("_", " "), _figure(name, value)) for name, value in pairs],
    )


def _figure(name: str, value: object) -> str:
    return f"{percent(value)}%" if "_frac" in name else number(value)


def time_table(run: RunRecord) -> list[Phase]:
    """Where the step time went, longest first; what no phase accounts for comes last."""
    total = sum(r.get("step_s", 0.0) for r in run.steps)
    if not total:
        return []
    seconds = {name: sum(r.get(key, 0.0) for r in run.steps) for key, name in PHASES.items()}
    named = sorted(((n, s) for n, s in seconds.items() if s > 0), key=lambda pair: -pair[1])
    rest = total - sum(s for _, s in named)
    if rest > 0.005 * total:
        named.append(("other", rest))
    return [Phase(name, duration(s), s / total) for name, s in named]


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure: `before → after`, as texts."""

    name: str
    value: str
    detail: str


def key_figures(run: RunRecord) -> list[Tile]:
    """What changed between the first and the last steps of training."""
    edge = min(EDGE_STEPS, max(1, len(run.steps) // 2))
    if not run.steps:
        return []
    detail = f"first and last {edge} steps" if edge > 1 else "first and last step"

    def tile(name: str, metric: str, text: Any, unit: str) -> Tile | None:
        ends = [[r[metric] for r in rows if is_number(r.get(metric))] for rows in (run.steps[:edge], run.steps[-edge:])]
        if not all(ends):
            return None
        before, after = (text(sum(values) / len(values)) for values in ends)
        return Tile(name, f"{before} → {after}{unit}", detail)

    tiles = [
        tile("Reward", "reward_mean", number, ""),
        tile("Truncated", "truncated_frac", percent, "%"),
        tile("Length, right", "length_correct_mean", number, " tokens"),
        tile("Length, wrong", "length_wrong_mean", number, " tokens"),
    ]
    return [t for t in tiles if t is not None]
