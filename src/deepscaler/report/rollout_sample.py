"""A readable sample of a run's completions: whole groups, from steps spread over the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import read_rollouts
from deepscaler.report.runs import RunRecord, stage_spans

MAX_ROLLOUTS = 400
MAX_CHARACTERS = 6_000_000  # of completions, in the whole report
SPREAD_STEPS = 8
COLUMNS = (
    "problem_id",
    "prompt",
    "references",
    "completion",
    "num_tokens",
    "outcome",
    "reward",
    "answer",
    "detail",
)

LATER_COLUMNS = ("reward_parts",)  # which runs of earlier versions lack


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """`groups` as the page's script reads them; `num_all` completions are in the files they come from."""

    groups: list[dict[str, Any]]
    steps: list[int]
    num_shown: int
    num_all: int


def sample_rollouts(runs: Sequence[RunRecord]) -> RolloutSample:
    """At most MAX_ROLLOUTS completions, shared evenly by the runs."""
    groups: list[dict[str, Any]] = []
    steps: set[int] = set()
    num_all = 0
    per_text = MAX_CHARACTERS // MAX_ROLLOUTS
    for index, run in enumerate(runs):
        files = rollout_files(run.path)
        chosen = [s for s in steps_to_show(run) if s in files]
        left = MAX_ROLLOUTS // len(runs)
        for position, step in enumerate(chosen):
            table = read_rollouts(files[step])
            num_all += table.num_rows
            stage = table["stage"][0].as_py() if table.num_rows else ""
            share = left // (len(chosen) - position)
            for rows in choose_groups(_groups(table), share):
                left -= len(rows)
                groups.append(_for_page(rows, step, stage, index, per_text))
                steps.add(step)
    shown = sum(len(g["rollouts"]) for g in groups)
    return RolloutSample(groups, sorted(steps), shown, num_all)


def rollout_files(run: Path) -> dict[int, Path]:
    """Step -> file of the rollouts kept."""
    found: dict[int, Path] = {}
    for file in (run / "rollouts").glob("step-*.parquet"):
        digits = file.stem.removeprefix("step-")
        if digits.isascii() and digits.isdecimal():
            found[int(digits)] = file
    return dict(sorted(found.items()))


def steps_to_show(run: RunRecord) -> list[int]:
    """First and last step of every stage, and steps in between to make the sample SPREAD_STEPS or more."""
    if not run.steps:
        return []
    edges = {step for stage in stage_spans(run) for step in (stage.first, stage.last)}
    numbers = [row["step"] for row in run.steps]
    missing = max(0, SPREAD_STEPS - len(edges))
    spread = {numbers[(i + 1) * len(numbers) // (missing + 1) - 1] for i in range(missing)}
    chosen = sorted(edges | spread)
    limit = 4 * SPREAD_STEPS
    if len(chosen) > limit:
        chosen = [chosen[round(i * (len(chosen) - 1) / (limit - 1))] for i in range(limit)]
    return chosen


def _groups(table: Any) -> list[list[dict[str, Any]]]:
    """Rows by problem, in the order of the file, samples by index."""
    groups: dict[str, list[dict[str, Any]]] = {}
    later = [name for name in LATER_COLUMNS if name in table.column_names]
    for row in table.select([*COLUMNS, *later, "sample_index"]).to_pylist():
        groups.setdefault(row["problem_id"], []).append(row)
    return [sorted(rows, key=lambda row: row["sample_index"]) for rows in groups.values()]


def choose_groups(groups: Sequence[list[dict[str, Any]]], max_rollouts: int) -> list[list[dict[str, Any]]]:
    """Whole groups of at most `max_rollouts` in all, one at the least: rare verdicts first, then evenly."""
    seen: set[str] = set()
    order: list[int] = []
    counts: dict[str, int] = {}
    for rows in groups:
        for row in rows:
            counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    for outcome in sorted(counts, key=lambda name: counts[name]):
        if outcome not in seen:
            index = next(i for i, rows in enumerate(groups) if any(r["outcome"] == outcome for r in rows))
            order.append(index)
            seen |= {r["outcome"] for r in groups[index]}
    stride = max(1, len(groups) * max(len(g) for g in groups) // max(max_rollouts, 1)) if groups else 1
    order += [*range(0, len(groups), stride), *range(len(groups))]
    chosen: list[int] = []
    used = 0
    for index in dict.fromkeys(order):
        if not chosen or used + len(groups[index]) <= max_rollouts:
            chosen.append(index)
            used += len(groups[index])
    return [groups[index] for index in sorted(chosen)]


def _for_page(rows: list[dict[str, Any]], step: int, stage: str, run: int, per_text: int) -> dict[str, Any]:
    first = rows[0]
    return {
        "run": run,
        "step": step,
        "stage": stage,
        "problem": first["problem_id"],
        "prompt": shorten(first["prompt"], per_text),
        "references": first["references"] or [],
        "rollouts": [
            {
                "sample": row["sample_index"],
                "outcome": row["outcome"],
                "reward": None if row["reward"] is None else round(float(row["reward"]), 4),
                "parts": [_part_words(part) for part in row.get("reward_parts") or ()],
                "tokens": row["num_tokens"],
                "answer": row["answer"],
                "detail": row["detail"] or "",
                "text": shorten(row["completion"], per_text),
            }
            for row in rows
        ],
    }


def _part_words(part: dict[str, Any]) -> str:
    value = part["outcome"] if part["value"] is None else f"{part['value']:.4g}"
    return f"{part['name']} {value}"


def shorten(text: str, limit: int) -> str:
    """`text`, or its head and tail with a note on what is missing between; the end holds the answer."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[… {counted(len(text) - head - tail, 'character')} left out …]\n{text[-tail:]}"
