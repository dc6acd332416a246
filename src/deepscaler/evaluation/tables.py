"""Results as tables of at most 80 columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from rich import box
from rich.table import Table
from rich.text import Text

from deepscaler.data.benchmarks.specs import BENCHMARKS
from deepscaler.evaluation.compare import BenchmarkComparison, Comparison, Side
from deepscaler.evaluation.estimators import Estimate
from deepscaler.evaluation.published import published_beside
from deepscaler.observability import terminal
from deepscaler.observability.counts import counted

AVERAGE = "average"
MISSING = "–"
WIDTH = 80
NAME_WIDTH = 30
Row = tuple[str, ...]
SUMMARY_COLUMNS = ("set", "base", "trained", "difference", "p")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A titled table with notes below. sections: groups of rows, set apart by a line; the first column names a row.

    links: URLs in the notes that may be links in Markdown; every other URL stays text.
    """

    title: str
    columns: Row
    sections: tuple[tuple[Row, ...], ...]
    notes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def percent(value: float | None) -> str:
    """`43.1`; a dash where it is unknown."""
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def with_interval(mean: float, low: float, high: float, *, signed: bool = False) -> str:
    """`43.1 [34.0, 52.2]`, in percent; `signed` puts a sign on the mean."""
    head = f"{100 * mean:+.1f}" if signed else percent(mean)
    return f"{head} [{percent(low)}, {percent(high)}]"


def p_text(p_value: float) -> str:
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}".lstrip("0")


def summary_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Base against trained per set and on average, from summary.json."""
    rows = []
    for name, base in summary["base"]["sets"].items():
        trained, difference = summary["trained"]["sets"][name], summary["set_differences"][name]
        rows.append(_summary_row(name, base, trained, difference))
    return [*rows, _summary_row(AVERAGE, summary["base"], summary["trained"], summary["difference"])]


def _summary_row(
    name: str, base: Mapping[str, Any], trained: Mapping[str, Any], difference: Mapping[str, float]
) -> Row:
    return (
        name,
        with_interval(base["pass@1"], base["low"], base["high"]),
        with_interval(trained["pass@1"], trained["low"], trained["high"]),
        with_interval(difference["mean"], difference["low"], difference["high"], signed=True),
        p_text(difference["p_value"]),
    )


def print_summary(summary: Mapping[str, Any]) -> None:
    samples = next(iter(summary["base"]["sets"].values()))["num_samples"]
    title = f"Pass@1 in percent, mean of {counted(samples, 'sample')} [95% interval over problems]"
    rows = summary_rows(summary)
    print_sheets([Sheet(title, SUMMARY_COLUMNS, (tuple(rows[:-1]), (rows[-1],)))])


def results_sheet(results: Mapping[str, Any], shown: Collection[str] = ()) -> Sheet:
    """The table of one evaluation, from the content of results.json. shown: warnings that need no repetition."""
    benchmarks = results["benchmarks"]
    most = min(record["num_samples"] for record in benchmarks.values())
    rows, notes, warnings = [], [], {}
    for name, record in benchmarks.items():
        shares = [record.get("maj@k", {}).get(str(most)), record["pass@k"].get(str(most))]
        shares += [record["truncated_frac"], record["no_answer_frac"]]
        rows.append((*_score(name, record), *map(percent, shares)))
        clean = record.get("clean")
        if clean and "pass@1" in clean:
            text = with_interval(clean["pass@1"], clean["low"], clean["high"])
            notes.append(
                f"{name}: {text} on the {counted(clean['num_problems'], 'problem')} that are not in the training data"
            )
        for warning in record.get("warnings", []):
            warnings.setdefault(warning, []).append(name)
    wholes = {name: num_whole(name, results.get("settings", {})) for name in benchmarks}
    parts = [
        f"{name} {record['num_problems']} of {whole}"
        for name, record in benchmarks.items()
        if (whole := wholes[name]) is not None and record["num_problems"] < whole
    ]
    if parts:
        notes.append(
            f"PART of the benchmark: {', '.join(parts)} problems. Not to be compared with scores of the whole."
        )
    notes += [f"WARNING {', '.join(names)}: {warning}" for warning, names in warnings.items()]
    notes += [f"WARNING {warning}" for warning in results.get("warnings", []) if warning not in shown]
    columns = ("benchmark", "Pass@1", "± again", f"maj@{most}", f"pass@{most}", "truncated", "no answer")
    average = (*_score(AVERAGE, results["average"]), "", "", "", "")
    explanation = (
        "[ ]: 95% interval over problems, for other problems like these. ± again: standard error for these problems "
        "sampled again."
    )
    return Sheet(
        f"Pass@1 in percent, mean of {counted(most, 'sample')}",
        columns,
        (tuple(rows), (average,)),
        (explanation, *notes),
    )


def num_whole(name: str, settings: Mapping[str, Any]) -> int | None:
    """Problems of the whole benchmark: of a registered one, and of another where the evaluation asked a part of it."""
    if name in BENCHMARKS:
        return BENCHMARKS[name].num_problems
    recorded = settings.get("datasets", {}).get(name, {}).get("num_whole")
    return recorded if isinstance(recorded, int) else None


def _score(name: str, record: Mapping[str, Any]) -> Row:
    return (name, with_interval(record["pass@1"], record["low"], record["high"]), percent(record["se_resampling"]))


def comparison_sheets(comparison: Comparison, *, with_published: bool = False) -> list[Sheet]:
    sheets = [_sides_sheet(comparison), _differences_sheet(comparison), _shares_sheet(comparison)]
    return [*sheets, _published_sheet(comparison)] if with_published else sheets


def _sides_sheet(comparison: Comparison) -> Sheet:
    def row(name: str, before: Estimate, after: Estimate, problems: str) -> Row:
        sides = [with_interval(e.mean, e.low, e.high) for e in (before, after)]
        samples = dict.fromkeys(str(e.num_samples) for e in (before, after))
        return (name, *sides, problems, "/".join(samples))

    rows = tuple(row(name, c.before, c.after, _problems(c)) for name, c in comparison.benchmarks.items())
    first, second = comparison.average_before, comparison.average_after
    average = row(AVERAGE, first, second, str(first.num_problems))
    return Sheet(
        "Pass@1 in percent [95% interval over problems]",
        ("benchmark", "A", "B", "problems", "samples"),
        (rows, (average,)),
        (*_about("A", comparison.before), *_about("B", comparison.after), *_left_out(comparison)),
    )


def _problems(c: BenchmarkComparison) -> str:
    """`30`, or `4 of 30` of a benchmark that was not asked whole."""
    return f"{c.before.num_problems} of {c.num_whole}" if c.is_part else str(c.before.num_problems)


def _about(letter: str, side: Side) -> list[str]:
    warnings = [f"WARNING {letter}, {text}" for text in side.warnings]
    return [f"{letter}  {side.label}: {worded_conditions(side)}", *warnings]


def worded_conditions(side: Side) -> str:
    """`temperature 0.6, top-p 0.95, up to 32,768 tokens`."""
    c = side.conditions
    parts = [f"temperature {c['temperature']:g}" if is_number(c["temperature"]) else "temperature not recorded"]
    parts += [f"top-p {c['top_p']:g}"] if is_number(c["top_p"]) else []
    parts += [f"top-k {c['top_k']}"] if c["top_k"] else []
    tokens = c["max_completion_tokens"]
    parts.append(f"up to {counted(tokens, 'token')}" if isinstance(tokens, int) else "budget not recorded")
    return ", ".join(parts)


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shares_sheet(comparison: Comparison) -> Sheet:
    def row(name: str) -> Row:
        sides = (comparison.before, comparison.after)
        shares = [side.figure(name, share) for share in ("truncated_frac", "no_answer_frac") for side in sides]
        return (name, *(percent(share if is_number(share) else None) for share in shares))

    columns = ("benchmark", "truncated A", "truncated B", "no answer A", "no answer B")
    title = "Truncated at the budget, and finished without an answer, in percent of all completions"
    return Sheet(title, columns, (tuple(map(row, comparison.benchmarks)),))


def _left_out(comparison: Comparison) -> list[str]:
    """Everything that makes the pairing less than whole."""
    notes = [f"NOT PAIRED, left out: {name}, {reason}" for name, reason in comparison.skipped.items()]
    for name, c in comparison.benchmarks.items():
        if len(c.unpaired):
            notes.append(f"NOT PAIRED, left out: {counted(len(c.unpaired), 'problem')} of {name}: {c.unpaired.words()}")
    if comparison.settings_differ:
        notes.append(f"SETTINGS DIFFER: {'; '.join(comparison.settings_differ)}")
    return notes


def _differences_sheet(comparison: Comparison) -> Sheet:
    rows = []
    for name, c in comparison.benchmarks.items():
        d = c.difference
        figures = (percent(c.se_resampling), p_text(d.p_value), p_text(c.p_holm), percent(d.smallest_resolvable))
        rows.append((name, with_interval(d.mean, d.low, d.high, signed=True), *figures))
    d = comparison.total
    figures = (percent(comparison.se_resampling), p_text(d.p_value), "", percent(d.smallest_resolvable))
    average = (AVERAGE, with_interval(d.mean, d.low, d.high, signed=True), *figures)
    notes = (
        "± again: standard error had the same problems been sampled again. p: sign flips by problem (average: t test); "
        "Holm: adjusted for all benchmarks. resolves: the smallest true difference that this design finds in 80% of "
        "cases.",
    )
    columns = ("benchmark", "B - A", "± again", "p", "Holm", "resolves")
    title = "Difference in points, paired by problem [95% interval over problems]"
    return Sheet(title, columns, (tuple(rows), (average,)), notes)


def _published_sheet(comparison: Comparison) -> Sheet:
    table = published_beside(comparison.benchmarks)
    columns = ("model", *table.columns.values(), "avg")
    blank = ("",) * (len(columns) - 1)
    parts = {name: _problems(c) for name, c in comparison.benchmarks.items() if c.is_part}

    def measured(side: str) -> Row:
        estimates = {name: getattr(c, side) for name, c in comparison.benchmarks.items()}
        whole = estimates.keys() == table.columns.keys() and not parts
        average = percent(getattr(comparison, f"average_{side}").mean) if whole else MISSING
        shown = estimates.keys() - comparison.drawn
        scores = [percent(estimates[n].mean) if n in shown else MISSING for n in table.columns]
        scores = [
            f"{score}*" if n in parts and n in shown else score for n, score in zip(table.columns, scores, strict=True)
        ]
        return ("A" if side == "before" else "B", *scores, average)

    rows = tuple(
        (row.model, *(percent(row.scores.get(name)) for name in table.columns), percent(row.average))
        for row in table.rows
    )
    here = (("MEASURED HERE", *blank), measured("before"), measured("after"))
    others = (("PUBLISHED, not measured here", *blank), *rows)
    notes = (
        f"Published: {table.source}, {table.url}. {table.note}",
        "Published rows are not paired with A or B: no difference, interval or p-value can be given against them.",
    )
    if parts:
        asked = ", ".join(f"{name} {count}" for name, count in parts.items())
        notes = (f"* Part of the benchmark ({asked}): not to be compared with scores of the whole.", *notes)
    if comparison.drawn:
        asked = ", ".join(sorted(comparison.drawn))
        notes = (f"{asked}: a random subset (--limit-seed) has no place beside published scores.", *notes)
    return Sheet("Beside published scores: Pass@1 in percent", columns, (here, others), notes, (table.url,))


def print_results(results: Mapping[str, Any], shown: Collection[str] = ()) -> None:
    """The table of an evaluation, from the content of results.json."""
    print_sheets([results_sheet(results, shown)])


def print_comparison(comparison: Comparison, *, with_published: bool = False) -> None:
    print_sheets(comparison_sheets(comparison, with_published=with_published))


def print_sheets(sheets: Sequence[Sheet]) -> None:
    console = terminal.console()
    if not console.is_terminal:
        console = terminal.console(width=WIDTH, no_color=True)
    for sheet in sheets:
        console.print(sheet.title, markup=False, highlight=False)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for index, column in enumerate(sheet.columns):
            options: dict[str, Any] = {"overflow": "fold", "max_width": NAME_WIDTH} if index == 0 else {"no_wrap": True}
            table.add_column(column, justify="left" if index == 0 else "right", **options)
        for number, section in enumerate(sheet.sections):
            for row in section:
                style = "bold" if row[0] == AVERAGE else None
                table.add_row(*(Text(terminal.shown(cell)) for cell in row), style=style)
            if number + 1 < len(sheet.sections):
                table.add_section()
        console.print(table)
        for note in sheet.notes:
            console.print(terminal.shown(note), markup=False, highlight=False)
        console.print()
