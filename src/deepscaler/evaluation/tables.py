"""Results as tables of at most 80 columns, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deepscaler.evaluation.estimators import Estimate
from deepscaler.evaluation.paired import Difference

AVERAGE = "average"
Row = tuple[str, ...]
COLUMNS = ("set", "base", "trained", "difference", "p")


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


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
        rows.append(_row(name, base, trained, difference))
    return [*rows, _row(AVERAGE, summary["base"], summary["trained"], summary["difference"])]


def _row(name: str, base: Mapping[str, Any], trained: Mapping[str, Any], difference: Mapping[str, float]) -> Row:
    return (
        name,
        with_interval(base["pass@1"], base["low"], base["high"]),
        with_interval(trained["pass@1"], trained["low"], trained["high"]),
        with_interval(difference["mean"], difference["low"], difference["high"], signed=True),
        p_text(difference["p_value"]),
    )


def markdown(columns: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def print_summary(summary: Mapping[str, Any]) -> None:
    samples = next(iter(summary["base"]["sets"].values()))["num_samples"]
    title = f"Pass@1 in percent, mean of {samples} samples [95% interval over problems]"
    _print(title, COLUMNS, summary_rows(summary))


def print_evaluation(estimates: Mapping[str, Estimate], average: Estimate) -> None:
    columns = ("set", "Pass@1", "se problems", "se resampling", "problems")
    rows = [
        (
            name,
            with_interval(e.mean, e.low, e.high),
            percent(e.se_problems),
            percent(e.se_resampling),
            str(e.num_problems),
        )
        for name, e in [*estimates.items(), (AVERAGE, average)]
    ]
    _print("Pass@1 in percent [95% interval over problems]", columns, rows)


def print_comparison(differences: Mapping[str, Difference], total: Difference) -> None:
    rows = [
        (name, with_interval(d.mean, d.low, d.high, signed=True), p_text(d.p_value), str(d.num_problems))
        for name, d in [*differences.items(), (AVERAGE, total)]
    ]
    _print(
        "Difference of Pass@1 in points, paired by problem [95% interval]",
        ("set", "difference", "p", "problems"),
        rows,
    )


def _print(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """The last row is the average and stands apart."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=100, no_color=True)
    console.print(title, markup=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1], style="bold")
    console.print(table)
