"""Whatever stands in metrics.jsonl, the report is written from the lines that a run writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepscaler.observability.run_directory import read_metrics
from deepscaler.report import write_report
from synthetic_run import write_synthetic_run

ODD_VALUES: tuple[Any, ...] = (None, True, "x", "", [], [1], {}, {"a": []}, -1, 1e308, 10**400, float("nan"), 2.5)
SKIPPED = (
    "[]",
    "null",
    '"text"',
    "{",
    "[" * 200_000,
    '{"kind": "step"}',
    '{"kind": ["step"], "step": 1}',
    '{"kind": {"a": 1}, "step": 1}',
    '{"kind": "step", "step": null}',
    '{"kind": "step", "step": [1]}',
    '{"kind": "step", "step": "1"}',
    '{"kind": "step", "step": true}',
    '{"kind": "step", "step": -1}',
    '{"kind": "step", "step": 1.5}',
    '{"kind": "step", "step": 1e400}',
    f'{{"kind": "event", "step": {10**400}}}',
    "\x00\x01",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("odd") / "run", num_steps=12, alarm=True)


def test_lines_that_no_run_writes_are_skipped(run: Path, tmp_path: Path) -> None:
    good = (run / "metrics.jsonl").read_text()
    odd = tmp_path / "metrics.jsonl"
    lines = good.splitlines()
    odd.write_text("\n".join([*SKIPPED, *lines[:9], *SKIPPED, *lines[9:], *SKIPPED]) + "\n")
    assert read_metrics(odd) == read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: str(value)[:12])
def test_a_value_of_any_type_in_any_field_leaves_a_report(run: Path, tmp_path: Path, value: Any) -> None:
    good = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in good]
    first = {kind: next(row for row in rows if row["kind"] == kind) for kind in ("step", "evaluation", "event")}
    lines = list(good)
    for number, (kind, row) in enumerate(first.items()):
        fields = [name for name in row if name not in ("kind", "step")]
        for name in [*fields, "unknown"]:
            lines.append(json.dumps({**row, "step": 3 + number, name: value}))
        if kind == "evaluation":
            lines.append(json.dumps({**row, "sets": {"chain-3": value}, "test_sets": [value]}))
            lines.append(json.dumps({**row, "sets": {"chain-3": {"pass@1": value, "low": value}}}))
        if kind == "event":
            lines.append(json.dumps({**row, "figures": {"reward": value, "truncated_frac": value}}))
        lines.append(json.dumps({**dict.fromkeys(fields, value), "kind": kind, "step": 5}))
    path = tmp_path / "run"
    path.mkdir()
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (path / "run.json").write_text(json.dumps({"hardware": value, "versions": value, "started": value}))
    (path / "summary.json").write_text(json.dumps({"wall_s": value}))
    page = write_report([path], tmp_path / "report.html").read_text()
    assert "Reward" in page
