"""The findings of the benchmark lint as a page for readers (docs/benchmarks-lint.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepscaler.data.benchmarks.lint import KINDS, Finding
from deepscaler.data.benchmarks.load import BENCHMARKS, LoadedBenchmark
from deepscaler.data.benchmarks.review import Reading, ReviewedRow, reviewed_rows

READINGS: dict[Reading, str] = {
    "reference_wrong": "reference wrong",
    "partly_wrong": "one alternative wrong",
    "solution_wrong": "solution's box wrong, reference right",
    "both_readings": "either can be defended",
}
SHOWN_CHARACTERS = 90


@dataclass(frozen=True, slots=True)
class LintedBenchmark:
    loaded: LoadedBenchmark
    findings: tuple[Finding, ...]


def lint_page(linted: Sequence[LintedBenchmark]) -> str:
    """Markdown: an overview, the reviewed references row by row, then every other finding."""
    parts = [
        "# Oddities in the benchmarks\n",
        "Written by `deepscaler data lint-benchmarks --benchmarks DIR --out DIR`. Rows count from 0, as in the ids "
        "(`minerva/41`).\n",
        _overview(linted),
        *(_review(benchmark) for benchmark in linted if reviewed_rows(benchmark.loaded.name)),
        *(_others(benchmark) for benchmark in linted),
    ]
    return "\n".join(part for part in parts if part)


def _overview(linted: Sequence[LintedBenchmark]) -> str:
    seen = {finding.kind for benchmark in linted for finding in benchmark.findings}
    kinds = [kind for kind in KINDS if kind in seen]
    rows = []
    for benchmark in linted:
        loaded, counts = benchmark.loaded, Counter(finding.kind for finding in benchmark.findings)
        known = "registered" if loaded.registered else "**not the registered file**"
        title = BENCHMARKS[loaded.name].title
        rows.append([title, len(loaded.problems), f"{known} `{loaded.sha256[:12]}`", *map(counts.__getitem__, kinds)])
    legend = "\n".join(f"- *{kind.replace('_', ' ')}*: {KINDS[kind]}." for kind in kinds)
    absent = [kind.replace("_", " ") for kind in KINDS if kind not in kinds]
    none = f"\nLooked for and not found: {', '.join(absent)}.\n" if absent else ""
    head = ["benchmark", "problems", "file", *(kind.replace("_", " ") for kind in kinds)]
    return f"{_table(head, rows)}\n{legend}\n{none}"


def _review(benchmark: LintedBenchmark) -> str:
    name, problems = benchmark.loaded.name, benchmark.loaded.problems
    # Of a changed file only the rows that are still the ones somebody read.
    reviews = {
        row: review
        for row, review in reviewed_rows(name).items()
        if row < len(problems) and problems[row].references == review.original
    }
    found = {finding.row: finding for finding in benchmark.findings if finding.kind == "contradiction"}
    other = sorted(set(found) - set(reviews))
    missed = sorted(set(reviews) - set(found))
    changed = sum(review.changes for review in reviews.values())
    repeated = sum(row in found and found[row].repeats is not None for row in reviews)
    text = [
        f"## {BENCHMARKS[name].title}: references against their own solutions\n",
        f"The lint compares every reference with the boxed value of the row's own solution, by the grader: "
        f"{len(found)} of {len(problems)} rows differ. {len(reviews)} rows were read one by one; "
        f"{_readings(reviews.values())}. In {repeated} of them the lint itself finds the reference equal to the answer "
        "of an earlier sub-question that is in the prompt.\n",
        f"`load_benchmark(..., corrected=True)` replaces {changed} references; the file's own stay the default, for "
        "comparability. Scores on both sets belong side by side.\n",
        _table(
            ["row", "question", "reference", "corrected", "reading", "certain", "evidence"],
            [_reviewed(benchmark, review) for review in reviews.values()],
        ),
    ]
    if missed:
        text.append(f"\nRead, but not found by the lint: rows {', '.join(map(str, missed))}.\n")
    if other:
        text.append("\nFound by the lint, and not among the rows above: another spelling of the same value.\n")
        text.append(_table(["row", "difference"], [[row, _code(found[row].detail)] for row in other]))
    return "\n".join(text)


def _readings(reviews: Iterable[ReviewedRow]) -> str:
    reviews = list(reviews)
    counts = Counter(review.verdict for review in reviews)
    words = [f"{counts[verdict]} {words}" for verdict, words in READINGS.items() if counts[verdict]]
    certain = sum(review.certain for review in reviews)
    return f"{', '.join(words)}; {certain} readings are certain, {len(reviews) - certain} are not"


def _reviewed(benchmark: LintedBenchmark, review: ReviewedRow) -> list[object]:
    prompt = benchmark.loaded.problems[review.row].prompt
    question = " ".join(prompt.rpartition("Subproblem ")[2].split())
    return [
        review.row,
        _code("…" + question[-SHOWN_CHARACTERS:] if len(question) > SHOWN_CHARACTERS else question),
        " or ".join(map(_code, review.original)),
        " or ".join(map(_code, review.corrected)) if review.changes else "as it is",
        f"{READINGS[review.verdict]}: {review.why}",
        "yes" if review.certain else "no",
        _code(review.evidence),
    ]


def _others(benchmark: LintedBenchmark) -> str:
    name = benchmark.loaded.name
    shown = [f for f in benchmark.findings if f.kind != "contradiction" or not reviewed_rows(name)]
    if not shown:
        return ""
    rows = [[finding.row, finding.kind.replace("_", " "), _code(finding.detail)] for finding in shown]
    return f"\n## {BENCHMARKS[name].title}: the rest\n\n{_table(['row', 'kind', 'detail'], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _code(text: str) -> str:
    """Text of a data set as code, on one line and inside one cell of a table."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return f"`` {plain} ``" if "`" in plain else f"`{plain}`"
