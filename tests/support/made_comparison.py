"""Two made-up evaluations on disk and the files that `deepscaler compare --out` makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.comparison_files import write_comparison_files
from deepscaler.evaluation.results import compute_results, write_results
from deepscaler.evaluation.samples import samples_table, write_samples
from deepscaler.observability.problem_texts import write_problem_texts
from deepscaler.report import write_comparison_page
from deepscaler.types import Problem
from made_samples import made_rows
from synthetic_run import HOSTILE_TEXTS


def write_evaluation_of(directory: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    table = samples_table(rows)
    write_samples(table, directory / "samples.parquet")
    write_results(compute_results(table, settings), directory)
    return directory


NAMES = ("aime24", "math500", "amc23", "minerva", "olympiadbench")


def suite_rows(rate: float, seed: int, *, names: Sequence[str], problems: int) -> list[dict[str, Any]]:
    return [r for name in names for r in made_rows(problems, 4, rate=rate, seed=seed, benchmark=name)]


def questions(count: int) -> list[Problem]:
    """Short and long ones, all hostile: the ids are those of `made_rows`."""
    texts = [HOSTILE_TEXTS[n % len(HOSTILE_TEXTS)] + " and so on" * (300 * (n % 2)) for n in range(count)]
    return [Problem(f"p{n}", text, (text[:250], "2")) for n, text in enumerate(texts)]


def write_made_comparison(directory: Path, *, names: Sequence[str] = NAMES, problems: int = 12) -> Path:
    """The page, with hostile text in completions, answers, details and the model's name."""
    sides = []
    for letter, rate, seed in (("a", 0.3, 1), ("b", 0.6, 2)):
        rows = suite_rows(rate, seed, names=names, problems=problems)
        for number, row in enumerate(rows):
            text = HOSTILE_TEXTS[number % len(HOSTILE_TEXTS)]
            row |= {
                "completion": f"{text}\n{'x ' * (5000 if row['sample_index'] == 0 else 5)}",
                "answer": text,
                "detail": text,
                "references": [text],
            }
        model = f"<img src=x onerror=alert(1)> {letter} " + "long-name-" * 12
        sides.append(write_evaluation_of(directory / letter, rows, model={"name": model}))
        write_problem_texts(sides[-1], {name: questions(problems) for name in names})
    comparison = compare_directories(*sides)
    files = write_comparison_files(directory / "out", comparison, with_published=True)
    tables = [side / "samples.parquet" for side in sides]
    return write_comparison_page(files[0], tables[0], tables[1], directory / "out" / "comparison.html")
