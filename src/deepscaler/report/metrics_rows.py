"""Validates rows of metrics.jsonl: a value of another type than docs/metrics.md documents is dropped."""

from __future__ import annotations

from typing import Any

from deepscaler.report.formatting import is_number

Row = dict[str, Any]


def step_row(row: Row) -> Row:
    """`kind`, `step`, `stage` as text, and the metrics, which are numbers."""
    return {"kind": row["kind"], "step": row["step"], "stage": _text(row.get("stage")), **_numbers(row)}


def evaluation_row(row: Row) -> Row:
    found = step_row(row)
    sets, tests = row.get("sets"), row.get("test_sets")
    if isinstance(sets, dict):
        found["sets"] = {name: _numbers(values) for name, values in sets.items() if isinstance(values, dict)}
    if isinstance(tests, list):
        found["test_sets"] = [name for name in tests if isinstance(name, str)]
    return found


def event_row(row: Row) -> Row:
    figures = row.get("figures")
    return {
        "kind": row["kind"],
        "step": row["step"],
        "event": _text(row.get("event")),
        "reason": _text(row.get("reason")),
        "figures": _numbers(figures) if isinstance(figures, dict) else {},
    }


def json_object(value: object) -> Row:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _numbers(row: Row) -> Row:
    return {name: value for name, value in row.items() if is_number(value)}


def _text(value: object) -> str:
    return str(value) if isinstance(value, str) or is_number(value) else ""
