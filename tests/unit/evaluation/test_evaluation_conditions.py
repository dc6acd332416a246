"""What a comparison rests on is said wherever it is shown, and names of others stay text."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from compared_sides import side
from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.comparison_files import write_comparison_files
from deepscaler.evaluation.markdown import comparison_markdown, sheet_markdown
from deepscaler.evaluation.published import published
from deepscaler.evaluation.samples import read_results
from deepscaler.evaluation.tables import Sheet, print_comparison, print_results
from deepscaler.report import write_comparison_page
from made_comparison import write_evaluation_of
from made_samples import row


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return side(tmp_path / "a"), side(tmp_path / "b", temperature=1.0)


def test_conditions_counts_shares_and_warnings_are_in_every_form(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare_directories(*two)
    files = write_comparison_files(tmp_path / "out", comparison, with_published=True)
    page = write_comparison_page(files[0], two[0] / "samples.parquet", two[1] / "samples.parquet", tmp_path / "p.html")
    print_comparison(comparison, with_published=True)
    screen = capsys.readouterr().out
    for text in (" ".join(screen.split()), files[1].read_text(), page.read_text()):
        assert "temperature 0.6, top-p 0.95, up to 32,768 tokens" in text and "temperature 1, top-p" in text
        assert "4 of 30" in text and "4 of 675" in text
        assert "25.0% of the completions were truncated at the budget and count as wrong" in text
        assert "art of the benchmark" in text and "0.0*" in text
    assert max(len(line.rstrip()) for line in screen.splitlines()) <= 80
    assert "A, measured here" in page.read_text() and "Limits of this comparison" in page.read_text()
    content = json.loads(files[0].read_text())
    assert content["sets"]["aime24"]["truncated_frac"] == [0.25, 0.25] and content["sets"]["aime24"]["num_whole"] == 30
    print_results(read_results(two[0]))
    said = " ".join(capsys.readouterr().out.split())
    assert "PART of the benchmark: aime24 4 of 30, math500 4 of 500" in said
    assert said.count("were truncated at the budget") == 1


@pytest.mark.parametrize("unseen", ["", "\r", "\n", "\u00a0", "\ufeff", "\u200b \t"])
def test_no_cell_is_a_formula(tmp_path: Path, unseen: str) -> None:
    rows = [row(0, 0, problem_id=f"{unseen}=1+1"), row(1, 0, problem_id=f"a{unseen}b\r=2")]
    directory = write_evaluation_of(tmp_path / "a", rows)
    write_comparison_files(tmp_path / "out", compare_directories(directory, directory))
    text = (tmp_path / "out" / "problems.csv").read_bytes().decode()
    assert "\r" not in text
    cells = [line[1] for line in csv.reader(text.split("\n")) if len(line) > 1]
    assert (cells[1].startswith("'") and len(cells) == 3) or unseen in ("\r", "\n")
    first = next(csv.reader(text.splitlines()[1:]))[1] if unseen not in ("\r", "\n") else "'"
    assert first.startswith("'")


def test_links_and_images_in_names_stay_text() -> None:
    evil = "![x](http://evil) [y](http://evil) [z]: http://evil \\[w](u)"
    text = sheet_markdown(Sheet("t", ("a",), (((evil,), ("43.1 [34.0, 52.2]",)),), (evil,)))
    assert r"!\[x](http\://" in text and r"\[y](" in text and r"\[z]:" in text and r"\\\[w](u)" in text
    assert "43.1 [34.0, 52.2]" in text


@pytest.mark.parametrize(
    "bare", ["https://evil.com/a", "HTTP://evil", "www.evil.com", "a@evil.com", "mailto:a@evil.com"]
)
def test_a_bare_address_in_a_name_becomes_no_link(bare: str) -> None:
    text = sheet_markdown(Sheet("t", ("a",), (((bare,),),), (bare,)))
    assert bare not in text
    assert text.replace("\\", "").count(bare) == 2, "it reads as before"


def test_the_source_of_published_scores_is_a_link(tmp_path: Path) -> None:
    rows = [row(problem, sample) for problem in range(2) for sample in range(2)]
    directory = write_evaluation_of(tmp_path / "a", rows)
    text = comparison_markdown(compare_directories(directory, directory), with_published=True)
    assert f"<{published().url}>" in text
