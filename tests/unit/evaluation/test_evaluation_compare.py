"""Comparisons of evaluation directories: what is paired, what is refused, what the files hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.comparison_files import PROBLEM_COLUMNS, SET_COLUMNS, write_comparison_files
from deepscaler.evaluation.published import published
from deepscaler.evaluation.results import compute_results, write_results
from deepscaler.evaluation.samples import samples_table
from deepscaler.evaluation.tables import print_comparison
from made_samples import made_rows, row
from stored_samples import write_samples


def write(directory: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    table = samples_table(rows)
    write_samples(table, directory / "samples.parquet")
    write_results(compute_results(table, settings), directory)
    return directory


def suite(rate: float, seed: int) -> list[dict[str, Any]]:
    return [r for name in published().columns for r in made_rows(12, 4, rate=rate, seed=seed, benchmark=name)]


def test_problems_are_paired_by_id_in_whatever_order(tmp_path: Path) -> None:
    rows = made_rows(20, 4, rate=0.3, seed=1)
    a = write(tmp_path / "a", rows)
    b = write(tmp_path / "b", [rows[i] for i in np.random.default_rng(0).permutation(len(rows))])
    made = compare_directories(a, b).benchmarks["made"]
    assert (made.before_means == made.after_means).all()
    assert (made.difference.mean, made.difference.p_value) == (0.0, 1.0)


def test_what_cannot_be_paired_is_refused_and_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [row(p, 0) for p in range(6)])
    b = write(tmp_path / "b", [row(p, 0, references=["2"] if p == 5 else ["1"]) for p in range(2, 8)])
    message = r"5 problems cannot be paired: 2 only in the first \(p0, p1\); 2 only in the second \(p6, p7\); 1 with"
    with pytest.raises(ValueError, match=message):
        compare_directories(a, b)
    made = compare_directories(a, b, common=True).benchmarks["made"]
    assert made.problem_ids == ("p2", "p3", "p4")
    assert (made.unpaired.only_before, made.unpaired.changed) == (("p0", "p1"), ("p5",))


def test_a_changed_question_is_not_paired_even_with_the_same_answer(tmp_path: Path) -> None:
    rows = [row(p, 0) for p in range(3)]
    a, b = write(tmp_path / "a", rows), write(tmp_path / "b", rows)
    for directory, hashes in ((a, ["h0", "h1", "h2"]), (b, ["h0", "reworded", "h2"])):
        content = json.loads((directory / "results.json").read_text())
        (directory / "results.json").write_text(json.dumps({**content, "row_hashes": {"made": hashes}}))
    with pytest.raises(ValueError, match=r"1 with other references or content \(p1\)"):
        compare_directories(a, b)


def test_a_missing_benchmark_is_refused_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", [row(0, 0), row(1, 0), row(0, 0, benchmark="more")])
    b = write(tmp_path / "b", [row(0, 0), row(1, 0)])
    with pytest.raises(ValueError, match="more is missing from the second"):
        compare_directories(a, b)
    comparison = compare_directories(a, b, common=True)
    assert comparison.skipped == {"more": "missing from the second"}
    print_comparison(comparison)
    assert "NOT PAIRED, left out: more, missing from the second" in capsys.readouterr().out
    c = write(tmp_path / "c", [row(7, 0)])
    with pytest.raises(ValueError, match="no problem in common"):
        compare_directories(b, c, common=True)


def test_settings_that_should_agree_and_do_not_are_shown(tmp_path: Path) -> None:
    rows = [row(0, 0), row(1, 0)]
    sampling = {"temperature": 0.6, "max_completion_tokens": 100}
    a = write(tmp_path / "a", rows, model={"name": "x"}, sampling=sampling)
    b = write(tmp_path / "b", rows, model={"name": "y"}, sampling={**sampling, "temperature": 1.0})
    assert compare_directories(a, b).settings_differ == ("sampling.temperature: 0.6 and 1.0",)
    assert compare_directories(a, a).settings_differ == ()


def test_p_values_are_adjusted_over_benchmarks(tmp_path: Path) -> None:
    comparison = compare_directories(write(tmp_path / "a", suite(0.3, 1)), write(tmp_path / "b", suite(0.5, 2)))
    raw = [c.difference.p_value for c in comparison.benchmarks.values()]
    adjusted = [c.p_holm for c in comparison.benchmarks.values()]
    assert min(adjusted) == pytest.approx(min(1.0, 5 * min(raw)))
    assert all(a >= p for a, p in zip(adjusted, raw, strict=True))


def test_published_rows_stand_beside_and_nothing_is_computed_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare_directories(write(tmp_path / "a", suite(0.3, 1)), write(tmp_path / "b", suite(0.5, 2)))
    print_comparison(comparison, with_published=True)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    start = next(i for i, line in enumerate(lines) if "PUBLISHED, not measured here" in line)
    assert "MEASURED HERE" in "\n".join(lines[:start])
    ours = next(line for line in lines[start:] if "DeepScaleR-1.5B-Preview" in line)
    assert ours.split()[1:] == ["43.1", "87.8", "73.6", "30.2", "50.0", "57.0"]
    assert sum(row.model in out for row in published().rows) == 8
    print_comparison(comparison)
    assert "DeepScaleR-1.5B-Preview" not in capsys.readouterr().out
    files = write_comparison_files(tmp_path / "out", comparison, with_published=True)
    content = json.loads(files[0].read_text())
    assert content["published"]["measured_here"] is False
    assert "DeepScaleR" not in json.dumps(content["sets"])


def test_published_averages_are_those_of_the_source() -> None:
    """Rows with five scores: the published average is their mean, as rounded."""
    for entry in published().rows:
        if entry.average is None:
            assert len(entry.scores) < 5
        else:
            assert entry.average == pytest.approx(np.mean(list(entry.scores.values())), abs=0.0011)


def test_files_hold_every_set_and_problem(tmp_path: Path) -> None:
    rows = [row(0, 0, problem_id="=1+1|<b>"), row(1, 0, outcome="correct")]
    comparison = compare_directories(write(tmp_path / "a", rows), write(tmp_path / "b", rows))
    files = write_comparison_files(tmp_path / "out", comparison)
    assert [f.name for f in files] == ["comparison.json", "comparison.md", "comparison.csv", "problems.csv"]
    sets = list(csv.reader(files[2].read_text().splitlines()))
    assert tuple(sets[0]) == SET_COLUMNS
    assert [line[0] for line in sets[1:]] == ["made", "average"]
    problems = list(csv.reader(files[3].read_text().splitlines()))
    assert tuple(problems[0]) == PROBLEM_COLUMNS
    assert problems[1][1] == "'=1+1|<b>"  # no formula for a spreadsheet
    content = json.loads(files[0].read_text(), parse_constant=pytest.fail)
    assert content["sets"]["made"]["problems"] == [["=1+1|<b>", 0.0, 0.0], ["p1", 1.0, 1.0]]
    assert content["sets"]["made"]["smallest_resolvable"] is None
    assert "| made |" in files[1].read_text()


def test_no_escape_sequence_reaches_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(p, 0, benchmark="[red]\x1b[31mred") for p in range(2)]
    directory = write(tmp_path / "a", rows, model={"name": "\x1b]0;title\x07"})
    print_comparison(compare_directories(directory, directory))
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "[red]" in out


def test_both_uncertainties_are_in_the_comparison(tmp_path: Path) -> None:
    a = write(tmp_path / "a", made_rows(30, 8, rate=0.3, seed=1))
    b = write(tmp_path / "b", made_rows(30, 8, rate=0.5, seed=2))
    made = compare_directories(a, b).benchmarks["made"]
    assert made.se_resampling == pytest.approx(np.hypot(made.before.se_resampling, made.after.se_resampling))
    assert 0 < made.se_resampling < made.difference.se
