"""Many models in one table: what is best, what is refused or marked, and every format of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.evaluation import COMPETITION, NINE
from deepscaler.evaluation.model_table import read_table
from deepscaler.evaluation.model_table_formats import table_content, table_latex, table_markdown, table_sheets
from deepscaler.evaluation.tables import print_sheets
from deepscaler.report import model_table_page
from made_comparison import write_evaluation_of
from made_samples import row

SETTINGS = {"temperature": 0.6, "top_p": 0.95, "max_completion_tokens": 100, "grader": {"version": "6"}}


def rows(rate: float, *, benchmarks: Sequence[str] = ("made",), problems: int = 60) -> list[dict[str, Any]]:
    """A model that solves the first problems, so that a better one solves what a worse one does and more."""
    return [
        row(p, s, benchmark=name, outcome="correct" if p + s * 0.3 < rate * problems else "wrong")
        for name in benchmarks
        for p in range(problems)
        for s in range(2)
    ]


def write(directory: Path, rate: float, *, model: str = "", **settings: Any) -> Path:
    benchmarks = settings.pop("benchmarks", ("made",))
    problems = settings.pop("problems", 60)
    made = rows(rate, benchmarks=benchmarks, problems=problems)
    return write_evaluation_of(directory, made, **{**SETTINGS, "model": {"name": model or directory.name}, **settings})


def test_the_best_is_marked_only_where_the_test_tells_it_apart(tmp_path: Path) -> None:
    low, high, near = (write(tmp_path / n, rate) for n, rate in (("low", 0.3), ("high", 0.7), ("near", 0.68)))
    best = [r.cells["made"].best for r in read_table([low, high]).rows]
    assert best == [False, True]
    table = read_table([low, high, near])
    assert not any(r.cells["made"].best for r in table.rows)  # one problem more is no difference
    assert table.rows[1].cells["made"].estimate.mean > table.rows[2].cells["made"].estimate.mean
    assert [r.label for r in table.rows] == ["low", "high", "near"] and table.samples == "2"


def test_other_settings_or_problems_are_refused_or_marked_and_compared_with_nothing(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 0.3), write(tmp_path / "b", 0.9, temperature=1.0)
    c = write(tmp_path / "c", 0.95, problems=50)
    with pytest.raises(ValueError, match=r"b was made with other settings than .*a \(temperature: 0.6 -> 1.0\)"):
        read_table([a, b])
    with pytest.raises(ValueError, match=r"c holds other problems of made: 10 only in the first .* or say --mixed"):
        read_table([a, c])
    table = read_table([a, b, c], mixed=True)
    assert [bool(r.differs) for r in table.rows] == [False, True, False]
    assert [r.cells["made"].comparable for r in table.rows] == [True, True, False]
    assert not any(r.cells["made"].best for r in table.rows)
    text = table_markdown(table)
    assert "b†" in text and "]‡" in text and "OTHER SETTINGS, temperature: 0.6 -\\> 1.0" in text.replace("->", "-\\>")


def test_names_samples_and_engines_may_differ(tmp_path: Path) -> None:
    a = write(tmp_path / "a", 0.3, model="dir/same", engine={"kind": "torch"}, num_samples=2)
    b = write(tmp_path / "b", 0.6, model="same", engine={"kind": "openai"}, num_samples=4)
    assert [r.label for r in read_table([a, b]).rows] == ["same (a)", "same (b)"]
    assert [r.label for r in read_table([a, b], ["x", "y"]).rows] == ["x", "y"]
    for wrong in ([a], [a, b]):
        with pytest.raises(ValueError, match=r"at least two evaluations|1 --name for 2 evaluations"):
            read_table(wrong, ["x"])


def test_a_benchmark_that_one_model_lacks_has_a_dash_and_no_average(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 0.3, benchmarks=("made", "more")), write(tmp_path / "b", 0.9)
    first, second = read_table([a, b]).rows
    assert first.average is not None and second.average is None and "more" not in second.cells
    assert "–" in table_markdown(read_table([a, b]))


def test_the_terminal_needs_80_columns_whatever_the_number_of_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directories = [write(tmp_path / n, r, benchmarks=NINE, problems=12) for n, r in (("a" * 60, 0.3), ("b", 0.8))]
    table = read_table(directories)
    sheets = table_sheets(table, with_published=True)
    print_sheets(sheets)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    shown = [column.split()[0] for sheet in sheets for column in sheet.columns[1:]]
    assert shown == [*NINE, "average"]  # of parts nothing stands beside published rows
    assert "aime24 12 of 30" in " ".join(" ".join(lines).split())


def test_published_rows_are_apart_and_only_of_whole_benchmarks(tmp_path: Path) -> None:
    whole, part = (
        write(tmp_path / n, 0.5, benchmarks=("aime24", "mine"), problems=c) for n, c in (("w", 30), ("p", 9))
    )
    sheet = table_sheets(read_table([whole, whole]), with_published=True)[-1]
    assert sheet.title.startswith("PUBLISHED, not measured here") and sheet.columns == ("model", "AIME24")
    assert ("DeepScaleR-1.5B-Preview", "43.1") in sheet.sections[0]
    assert not any("PUBLISHED" in sheet.title for sheet in table_sheets(read_table([part, part]), with_published=True))


HOSTILE = "<script>alert(1)</script> & 5% $x_1$ \\input{x} | **b**"


def test_every_format_marks_the_best_and_keeps_names_text(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 0.2, benchmarks=COMPETITION), write(tmp_path / "b", 0.8, benchmarks=COMPETITION)
    table = read_table([a, b], [HOSTILE, "good"])
    latex = table_latex(table, with_published=True)
    assert latex.count("\\textbf{") == 6 and "AIME 2024" in latex and "\\begin{tabular}{lrrrrrr}" in latex
    assert "\\input" not in latex and "\\textbackslash{}input\\{x\\}" in latex and "5\\% \\$x\\_1\\$" in latex
    assert all(
        line.count(" & ") == 6 for line in latex.splitlines() if line.endswith("\\\\") and "multicolumn" not in line
    )
    page = model_table_page(table_content(table, with_published=True))
    assert page.count("<b>") == 6 and "<script>alert" not in page and "&lt;script&gt;" in page
    markdown = table_markdown(table)
    assert "| good | **" in markdown and "<script>" not in markdown
