"""A comparison as comparison.json, comparison.csv, problems.csv and comparison.md."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from deepscaler.evaluation.compare import BenchmarkComparison, Comparison, Side
from deepscaler.evaluation.estimators import Estimate
from deepscaler.evaluation.markdown import comparison_markdown
from deepscaler.evaluation.paired import Difference
from deepscaler.evaluation.published import Published, published_beside
from deepscaler.evaluation.results import estimate_json, finite
from deepscaler.evaluation.tables import worded_conditions
from deepscaler.observability.files import write_atomically

JSON_FILE = "comparison.json"
# Spaces of every kind, and what shows nothing, may precede the sign.
_FORMULA = re.compile(
    r"[\s\x00-\x1f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]"
)


def comparison_json(comparison: Comparison, *, with_published: bool = False) -> dict[str, object]:
    """The content of comparison.json: fractions of 1; `problems` rows are [id, mean before, mean after]."""
    content: dict[str, object] = {
        "before": _side(comparison.before),
        "after": _side(comparison.after),
        "sets": {
            name: {**_set(c), **_shares(comparison, name), "is_drawn": name in comparison.drawn}
            for name, c in comparison.benchmarks.items()
        },
        "total": {
            **_difference(comparison.total),
            "se_resampling": finite(comparison.se_resampling),
            "before": estimate_json(comparison.average_before),
            "after": estimate_json(comparison.average_after),
        },
        "skipped": comparison.skipped,
        "settings_differ": list(comparison.settings_differ),
    }
    if with_published:
        content["published"] = _published(published_beside(comparison.benchmarks))
    return content


def _side(side: Side) -> dict[str, object]:
    return {
        "label": side.label,
        "path": str(side.path),
        "conditions": worded_conditions(side),
        "warnings": side.warnings,
        "settings": dict(side.settings),
    }


def _set(c: BenchmarkComparison) -> dict[str, object]:
    return {
        **_difference(c.difference),
        "p_holm": c.p_holm,
        "se_resampling": finite(c.se_resampling),
        "before": estimate_json(c.before),
        "after": estimate_json(c.after),
        "unpaired": asdict(c.unpaired),
        "num_whole": c.num_whole,
        "is_part": c.is_part,
        "problems": [
            list(row) for row in zip(c.problem_ids, c.before_means.tolist(), c.after_means.tolist(), strict=True)
        ],
    }


def _shares(comparison: Comparison, name: str) -> dict[str, object]:
    """[before, after] of what each results.json says of all its completions."""
    sides = (comparison.before, comparison.after)
    return {share: [side.figure(name, share) for side in sides] for share in ("truncated_frac", "no_answer_frac")}


def _difference(difference: Difference) -> dict[str, object]:
    return {name: finite(value) for name, value in asdict(difference).items()}


def _published(table: Published) -> dict[str, object]:
    """Marked as what it is; nothing is computed with it."""
    return {**asdict(table), "measured_here": False}


def write_comparison(path: Path, comparison: Comparison, *, with_published: bool = False) -> None:
    content = comparison_json(comparison, with_published=with_published)
    _write(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_comparison_files(directory: Path, comparison: Comparison, *, with_published: bool = False) -> list[Path]:
    """All files of a comparison but the page; returns their paths, comparison.json first."""
    directory.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], str]] = {
        "comparison.md": lambda: comparison_markdown(comparison, with_published=with_published),
        "comparison.csv": lambda: _csv(SET_COLUMNS, set_rows(comparison)),
        "problems.csv": lambda: _csv(PROBLEM_COLUMNS, problem_rows(comparison)),
    }
    write_comparison(directory / JSON_FILE, comparison, with_published=with_published)
    for name, make in texts.items():
        _write(directory / name, make())
    return [directory / JSON_FILE, *(directory / name for name in texts)]


SET_COLUMNS = (
    "benchmark",
    "num_problems",
    "before",
    "before_low",
    "before_high",
    "after",
    "after_low",
    "after_high",
    "difference",
    "low",
    "high",
    "se_problems",
    "se_resampling",
    "p_value",
    "p_holm",
    "smallest_resolvable",
    "num_unpaired",
)
PROBLEM_COLUMNS = ("benchmark", "problem_id", "before", "after", "difference")


def set_rows(comparison: Comparison) -> list[Sequence[object]]:
    """One row per benchmark, then the average, whose Holm p-value and unpaired problems do not exist."""
    rows: list[Sequence[object]] = []
    for name, c in comparison.benchmarks.items():
        rows.append(_row(name, c.before, c.after, c.difference, c.se_resampling, c.p_holm, len(c.unpaired)))
    first, second = comparison.average_before, comparison.average_after
    return [*rows, _row("average", first, second, comparison.total, comparison.se_resampling, None, None)]


def _row(
    name: str,
    before: Estimate,
    after: Estimate,
    d: Difference,
    again: float,
    p_holm: float | None,
    unpaired: int | None,
) -> list[object]:
    sides = [value for e in (before, after) for value in (e.mean, e.low, e.high)]
    values = [*sides, d.mean, d.low, d.high, d.se, again, d.p_value, p_holm, d.smallest_resolvable]
    return [name, d.num_problems, *(finite(v) for v in values), unpaired]


def problem_rows(comparison: Comparison) -> list[Sequence[object]]:
    return [
        (name, identity, float(before), float(after), float(after - before))
        for name, c in comparison.benchmarks.items()
        for identity, before, after in zip(c.problem_ids, c.before_means, c.after_means, strict=True)
    ]


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if v is None else _cell(v) for v in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula is kept a text; a carriage return would begin a row there."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if _FORMULA.match(text) or value[:1] in ("\t", "\r") else text


def _write(path: Path, text: str) -> None:
    # Ids from elsewhere may hold lone surrogates, which UTF-8 cannot.
    write_atomically(path, lambda part: part.write_bytes(text.encode("utf-8", errors="replace")))
