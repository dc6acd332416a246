"""What evaluations inside training show in the report: differences, difficulty, the names of short stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepscaler.cli.stored_evaluations import report
from deepscaler.evaluation.compare import compare_directories
from deepscaler.loop.step_records import notes_on_base
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.report.chart import Chart, Series, Span, draw
from deepscaler.report.panels import MAX_BANDS, difficulty_bands
from deepscaler.report.runs import read_runs
from made_comparison import write_evaluation_of
from made_samples import row

STEP = {"stage": "s", "max_completion_tokens": 100, "reward_mean": 0.5, "truncated_frac": 0.0, "length_mean": 9.0}


def validated_run(path: Path) -> Path:
    """Two evaluations of 24 problems of six difficulties; in the second the three easy ones are solved."""
    directory = RunDirectory(path)
    rows = [row(p, s, difficulty=float(p % 6)) for p in range(24) for s in range(2)]
    better = [{**r, "outcome": "correct", "reward": 1.0} if r["difficulty"] < 3 else r for r in rows]
    for step, held in ((0, rows), (4, better)):
        made = write_evaluation_of(path / "evaluations" / f"step-{step:06d}", held, temperature=0.6)
        mean = float(np.mean([r["reward"] for r in held]))
        side = {"pass@1": mean, "low": 0.0, "high": 1.0}
        directory.log_evaluation(step, {"stage": "s", **side, "sets": {"made": side}})
        assert made.is_dir()
    for step in range(1, 5):
        directory.log_step(step, STEP)
    return path


def test_difference_and_p_of_validation_sets_are_those_of_compare(tmp_path: Path) -> None:
    run = validated_run(tmp_path / "run")
    report([run], out=tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    first, last = (run / "evaluations" / f"step-{step:06d}" for step in (0, 4))
    total = compare_directories(first, last).total
    assert total.mean == 0.5 and total.p_value < 0.001
    assert "+50.0" in html and "&lt; 0.001" in html and "paired by problem" in html


def test_validation_sets_with_difficulties_have_a_curve_for_each_band(tmp_path: Path) -> None:
    (run,) = read_runs([validated_run(tmp_path / "run")])
    series = difficulty_bands(run.difficulties)
    assert len(series) == MAX_BANDS and series[0].label.startswith("difficulty 0")
    assert series[0].points == ((0.0, 0.0), (4.0, 1.0)) and series[-1].points == ((0.0, 0.0), (4.0, 0.0))
    two = difficulty_bands({0: {"1": (0.25, 4), "2": (0.5, 4)}})
    assert [s.label for s in two] == ["difficulty 1", "difficulty 2"]
    report([run.path], out=tmp_path / "report.html")
    assert "Pass@1 by difficulty" in (tmp_path / "report.html").read_text()


def test_a_short_stage_keeps_a_name() -> None:
    spans = (Span("8,192 tokens", 1, 2), Span("16,384 tokens", 3, 100))
    series = (Series("x", "accent", tuple((float(i), 0.5) for i in range(1, 101))),)
    text = draw(Chart("k", "t", "", "", series, spans, 100), 376.0, 214.0)
    assert "<title>8,192 tokens</title>" in text and ">16,384 tokens<title>" in text


def test_a_base_that_answers_nothing_is_told_with_causes(tmp_path: Path) -> None:
    def said(**changes: object) -> str:
        rows = [row(p, 0, **changes) for p in range(8)]
        from deepscaler.evaluation.samples import read_results

        name = "-".join(map(str, changes.values())) or "wrong"
        return "\n".join(notes_on_base(read_results(write_evaluation_of(tmp_path / name, rows))))

    assert said(outcome="truncated", answer=None, finish_reason="length").startswith(
        "base model: 0 of 8 right, 100% truncated, 0% without an answer\nmost completions reach the budget"
    )
    assert "0% truncated, 100% without an answer\nmost completions end without" in said(
        outcome="no_answer", answer=None
    )
    assert "answers come and are wrong" in said()
    assert said(outcome="correct") == "base model: 8 of 8 right, 0% truncated, 0% without an answer"
