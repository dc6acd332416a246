"""What the commands on stored results do: compare, eval-clean, eval-export, eval-import, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepscaler.evaluation.model_table import ModelTable


def compare(
    evaluation_a: Path,
    evaluation_b: Path,
    *,
    published: bool,
    common: bool,
    out: Path | None,
    names: tuple[str, str] = ("", ""),
) -> None:
    """Files first: whoever reads only the first lines of the tables still gets them."""
    from deepscaler.evaluation.compare import compare_directories
    from deepscaler.evaluation.comparison_files import write_comparison_files
    from deepscaler.evaluation.samples import samples_file
    from deepscaler.evaluation.tables import print_comparison
    from deepscaler.report import write_comparison_page

    comparison = compare_directories(evaluation_a, evaluation_b, common=common, names=names)
    files: list[Path] = []
    if out is not None:
        files = write_comparison_files(out, comparison, with_published=published)
        first, second = samples_file(evaluation_a), samples_file(evaluation_b)
        files.append(write_comparison_page(files[0], first, second, out / "comparison.html"))
    print_comparison(comparison, with_published=published)
    for file in files:
        print(file)


def table(
    evaluations: Sequence[Path], *, names: Sequence[str], published: bool, mixed: bool, kind: str, out: Sequence[Path]
) -> None:
    """Files first, as of `compare`; without --as and --out the table for the terminal."""
    from deepscaler.evaluation.model_table import read_table
    from deepscaler.evaluation.model_table_formats import table_sheets
    from deepscaler.evaluation.tables import print_sheets
    from deepscaler.observability.files import write_atomically

    kinds = {path: _kind_of(path) for path in out}
    made = read_table(evaluations, names, mixed=mixed)
    for path, wanted in kinds.items():
        text = _table_text(made, wanted, published)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
    if kind == "terminal":
        print_sheets(table_sheets(made, with_published=published))
    else:
        print(_table_text(made, kind, published), end="")
    for path in out:
        print(f"written to {path}", file=sys.stderr)


_TABLE_KINDS = {".md": "markdown", ".tex": "latex", ".html": "html"}


def _kind_of(path: Path) -> str:
    kind = _TABLE_KINDS.get(path.suffix)
    if kind is None:
        raise ValueError(f"--out {path}: the ending says the format; known are {', '.join(_TABLE_KINDS)}")
    return kind


def _table_text(made: ModelTable, kind: str, published: bool) -> str:
    from deepscaler.evaluation.model_table_formats import table_content, table_latex, table_markdown
    from deepscaler.report import model_table_page

    if kind == "html":
        return model_table_page(table_content(made, with_published=published))
    return (table_latex if kind == "latex" else table_markdown)(made, with_published=published)


def eval_clean(directory: Path, contamination: Path) -> None:
    from deepscaler.evaluation.results import add_clean_subset
    from deepscaler.evaluation.tables import print_results

    print_results(add_clean_subset(directory, contamination))


def eval_export(directory: Path, *, kind: str, out: Path, benchmarks: Path | None) -> None:
    from deepscaler.data.benchmarks.load import BENCHMARKS, load_benchmark
    from deepscaler.evaluation.exports import export
    from deepscaler.evaluation.samples import read_results

    prompts: dict[str, str] = {}
    if benchmarks is not None:
        for name in read_results(directory)["benchmarks"].keys() & BENCHMARKS.keys():
            prompts |= {p.id: p.prompt for p in load_benchmark(name, benchmarks).problems}
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    for file in export(kind, directory, out, prompts=prompts, date=date):
        print(file)


def eval_import(
    file: Path,
    *,
    benchmarks: Path | None,
    out: Path,
    benchmark: str | None,
    columns: Sequence[str],
    thinking_prefilled: bool,
    workers: int,
) -> None:
    from deepscaler.config.evaluation import COMPETITION
    from deepscaler.config.sections.evaluation import GraderSection
    from deepscaler.data.benchmarks.load import BENCHMARKS, is_in, load_benchmark
    from deepscaler.evaluation.imports import ImportedFile, import_completions
    from deepscaler.evaluation.tables import print_results
    from deepscaler.loop.evaluate import grader_settings
    from deepscaler.rewards.isolation.pool import make_grader

    names = [benchmark] if benchmark is not None else list(COMPETITION)
    if benchmark is None and benchmarks is not None:
        names += [name for name, spec in BENCHMARKS.items() if name not in COMPETITION and is_in(spec, benchmarks)]
    sets = {name: load_benchmark(name, benchmarks).problems for name in names}
    section = GraderSection(workers=workers)
    imported = ImportedFile(file, _mapping(columns), sets, benchmark, thinking_prefilled)
    with make_grader(section) as grader:
        results, _ = import_completions(imported, out, grader, {"grader": grader_settings(section)})
    print_results(results.content)
    print(f"written to {out / 'results.json'}")


def report(runs: Sequence[Path], *, out: Path | None) -> None:
    from deepscaler.report import write_report

    compared = {run: found for run in runs if (found := _validation_compared(run)) is not None}
    print(write_report(runs, out or runs[0] / "report.html", compared))


def _validation_compared(run: Path) -> dict[str, Any] | None:
    """The first and the last evaluation inside training, paired by problem; None where there are no two to pair."""
    from deepscaler.evaluation.compare import compare_directories
    from deepscaler.evaluation.comparison_files import comparison_json

    whole = sorted(file.parent for file in (run / "evaluations").glob("step-*/results.json"))
    made = [path for path in whole if path.name.removeprefix("step-").isdigit()]
    if len(made) < 2:
        return None
    try:
        comparison = compare_directories(made[0], made[-1], common=True)
    except ValueError as error:
        print(f"note: {error}; the report has no difference between them", file=sys.stderr)
        return None
    return {
        **comparison_json(comparison),
        "steps": [int(path.name.removeprefix("step-")) for path in (made[0], made[-1])],
    }


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    """`completion=response` -> {"completion": "response"}."""
    pairs: dict[str, str] = {}
    for text in columns:
        name, equals, column = text.partition("=")
        if not equals or not name or not column:
            raise ValueError(f"--map {text}: expected FIELD=COLUMN, such as completion=response")
        pairs[name] = column
    return pairs
