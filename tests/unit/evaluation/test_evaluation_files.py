"""An evaluation's files and their comparison, from samples whose right answers are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.comparison_files import write_comparison
from deepscaler.evaluation.exports import export
from deepscaler.evaluation.markdown import markdown
from deepscaler.evaluation.results import add_clean_subset, compute_results, write_results
from deepscaler.evaluation.samples import read_results, read_samples
from deepscaler.evaluation.tables import print_comparison, print_results, print_summary, summary_rows
from made_comparison import write_evaluation_of
from made_samples import row

SIZES = {"easy": 6, "hard": 4}


def write(directory: Path, right: int, sizes: Mapping[str, int] = SIZES) -> Path:
    """Sample i of 4 is right when i < `right`, one more for odd problems; the others have no answer."""
    rows = []
    for name, size in sizes.items():
        for problem in range(size):
            for sample in range(4):
                good = sample < right + problem % 2
                kind = {"outcome": "correct" if good else "no_answer", "answer": "1" if good else None}
                rows.append(row(problem, sample, benchmark=name, num_tokens=3, **kind))
    return write_evaluation_of(directory, rows, model="m")


def test_results_say_what_was_sampled(tmp_path: Path) -> None:
    results = json.loads((write(tmp_path / "a", 1) / "results.json").read_text())
    easy, hard = results["benchmarks"]["easy"], results["benchmarks"]["hard"]
    assert easy["pass@1"] == hard["pass@1"] == pytest.approx(1.5 / 4)
    assert (easy["num_problems"], easy["num_samples"], easy["length_mean"]) == (6, 4, 3)
    assert easy["no_answer_frac"] == pytest.approx(2.5 / 4)
    assert results["average"]["pass@1"] == pytest.approx(1.5 / 4)
    assert results["settings"]["model"] == "m"
    # Even problems: 1 of 4 right, odd ones 2 of 4.
    two, three = (1 / 2 + 5 / 6) / 2, (3 / 4 + 1) / 2
    assert easy["pass@k"] == {"1": pytest.approx(0.375), "2": pytest.approx(two), "3": pytest.approx(three), "4": 1.0}


def test_one_problem_leaves_the_error_unknown_not_infinite(tmp_path: Path) -> None:
    write_evaluation_of(tmp_path, [row(0, 0)])
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["benchmarks"]["made"]["se_problems"] is None
    assert (results["benchmarks"]["made"]["low"], results["benchmarks"]["made"]["high"]) == (0.0, 1.0)


def test_comparison_is_paired_by_problem(tmp_path: Path) -> None:
    comparison = compare_directories(write(tmp_path / "a", 0), write(tmp_path / "b", 2))
    easy = comparison.benchmarks["easy"].difference
    assert easy.mean == comparison.total.mean == pytest.approx(0.5)
    assert easy.se == 0.0  # every problem gained exactly the same
    assert easy.low < 0.5 < easy.high  # but six problems do not say that all problems do
    write_comparison(tmp_path / "c.json", comparison)
    assert json.loads((tmp_path / "c.json").read_text())["total"]["mean"] == pytest.approx(0.5)


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a", 0)
    with pytest.raises(ValueError, match="holds no finished evaluation"):
        compare_directories(a, tmp_path)
    write(tmp_path / "b", 1, {"easy": 3, "hard": 4})
    with pytest.raises(ValueError, match="set easy: 3 problems cannot be paired: 3 only in the first"):
        compare_directories(a, tmp_path / "b")
    write(tmp_path / "c", 1, {"easy": 6})
    with pytest.raises(ValueError, match="different sets"):
        compare_directories(a, tmp_path / "c")


def summary() -> dict[str, object]:
    side = {"pass@1": 0.288, "low": 0.201, "high": 1.0, "num_samples": 16}
    difference = {"mean": 0.143, "low": -0.1, "high": 0.25, "p_value": 0.0004}
    names = [f"chain-{n}" for n in (3, 4, 5, 7, 9)]
    return {
        "base": {**side, "sets": dict.fromkeys(names, side)},
        "trained": {**side, "sets": dict.fromkeys(names, side)},
        "difference": difference,
        "set_differences": dict.fromkeys(names, difference),
    }


def test_tables_fit_80_columns_and_end_with_the_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(summary())
    print_results(read_results(write(tmp_path / "one", 1)))
    print_comparison(compare_directories(write(tmp_path / "a", 0), write(tmp_path / "b", 2)), with_published=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert sum(line.strip().startswith("average") for line in lines) == 4
    assert "+14.3 [-10.0, 25.0]" in "\n".join(lines)


def test_the_markdown_table_has_a_row_per_set() -> None:
    rows = summary_rows(summary())
    text = markdown(("set", "base", "trained", "difference", "p"), rows).splitlines()
    assert len(text) == 2 + 6
    assert text[-1] == "| average | 28.8 [20.1, 100.0] | 28.8 [20.1, 100.0] | +14.3 [-10.0, 25.0] | <.001 |"


def test_samples_that_results_were_not_computed_from_are_refused(tmp_path: Path) -> None:
    """Swapped, edited or half-way through a regrade: the two files would contradict each other."""
    first, second = write(tmp_path / "a", 0), write(tmp_path / "b", 2)
    compare_directories(first, second)
    (second / "samples.parquet").write_bytes((first / "samples.parquet").read_bytes())
    contamination = tmp_path / "contamination.json"
    contamination.write_text('{"matches": {"easy": []}}')
    uses = (
        lambda: compare_directories(first, second),
        lambda: export("lm-eval", second, tmp_path / "out", date="2026-01-01"),
        lambda: add_clean_subset(second, contamination),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"samples.parquet is not the file that results.json .* regrade"):
            use()
    write_results(compute_results(read_samples(second), {}), second)
    compare_directories(first, second)
