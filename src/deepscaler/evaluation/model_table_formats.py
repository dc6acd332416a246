"""A table of models for the terminal, Markdown and LaTeX, and as plain values for a page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepscaler.data.benchmarks.specs import BENCHMARKS
from deepscaler.evaluation.markdown import sheet_markdown
from deepscaler.evaluation.model_table import LEVEL, Cell, ModelRow, ModelTable
from deepscaler.evaluation.published import Published, published_beside
from deepscaler.evaluation.tables import AVERAGE, MISSING, WIDTH, Row, Sheet, percent, with_interval

BEST, OTHER_SETTINGS, OTHER_PROBLEMS = "*", "†", "‡"
LONGEST_LABEL = 24  # characters of a model's name before it is folded, in the terminal
SEPARATION = 1


def table_sheets(table: ModelTable, *, width: int | None = WIDTH, with_published: bool = False) -> list[Sheet]:
    """The table, in pieces of columns that fit the width, and the published rows apart. width: None for one piece."""
    columns = {name: _column(table, name) for name in (*table.benchmarks, AVERAGE)}
    if len(table.benchmarks) == 1:
        del columns[AVERAGE]
    labels = tuple(_label(row) for row in table.rows)
    sheets = []
    pieces = _pieces(columns, labels, width)
    for number, names in enumerate(pieces):
        rows = tuple((label, *(columns[n][i + 1] for n in names)) for i, label in enumerate(labels))
        title = _title(table) if number == 0 else "The same models, continued"
        notes = _notes(table) if number + 1 == len(pieces) else ()
        sheets.append(Sheet(title, ("model", *(columns[n][0] for n in names)), (rows,), notes))
    if with_published and (published := _published(table)) is not None:
        sheets.append(published)
    return sheets


def _pieces(columns: dict[str, Row], labels: Sequence[str], width: int | None) -> list[list[str]]:
    """The columns in groups, each of which fits beside the labels; one that is wider than that has a group alone."""
    if width is None:
        return [list(columns)]
    first = min(LONGEST_LABEL, max(map(len, ("model", *labels))))
    pieces: list[list[str]] = [[]]
    used = first
    for name, texts in columns.items():
        size = max(map(len, texts)) + SEPARATION
        if pieces[-1] and used + size > width:
            pieces.append([])
            used = first
        pieces[-1].append(name)
        used += size
    return pieces


def _column(table: ModelTable, name: str) -> Row:
    """Heading and cells of a benchmark or the average."""
    heading = name if name == AVERAGE else f"{name} ({table.sizes[name]})"
    return (heading, *(_text(row.average if name == AVERAGE else row.cells.get(name)) for row in table.rows))


def _text(cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    e = cell.estimate
    marks = f"{BEST if cell.best else ''}{'' if cell.comparable else OTHER_PROBLEMS}"
    return f"{with_interval(e.mean, e.low, e.high)}{marks}"


def _label(row: ModelRow) -> str:
    return f"{row.label}{OTHER_SETTINGS if row.differs else ''}"


def _title(table: ModelTable) -> str:
    return f"Pass@1 in percent, samples per problem: {table.samples} [95% interval over problems]"


def _notes(table: ModelTable) -> tuple[str, ...]:
    notes = [
        f"{BEST} better than every other in its column by the paired test (Holm-adjusted p < {LEVEL:g}); a column "
        "without it has no best that these problems tell apart."
    ]
    notes += [f"{OTHER_SETTINGS} {row.label}: OTHER SETTINGS, {row.differs}" for row in table.rows if row.differs]
    if any(not cell.comparable for row in table.rows for cell in row.cells.values()):
        notes.append(f"{OTHER_PROBLEMS} OTHER PROBLEMS than in the first row with this benchmark, so not compared.")
    parts = [f"{name} {size}" for name, size in table.sizes.items() if " of " in size]
    if parts:
        notes.append(
            f"PART of the benchmark: {', '.join(parts)} problems. Not to be compared with scores of the whole."
        )
    return (*notes, *table.notes)


def published_columns(table: ModelTable) -> tuple[Published, list[str]]:
    """(the published table, which of its columns are beside benchmarks that were asked whole)."""
    source = published_beside(table.benchmarks)
    return source, [name for name in source.columns if name in table.sizes and " of " not in table.sizes[name]]


def _published(table: ModelTable) -> Sheet | None:
    """Rows of others on the benchmarks that this table has whole; None where it has none of them."""
    source, names = published_columns(table)
    if not names:
        return None
    whole = set(table.benchmarks) == set(source.columns) == set(names)
    rows = tuple(
        (row.model, *(percent(row.scores.get(name)) for name in names), *((percent(row.average),) if whole else ()))
        for row in source.rows
        if any(name in row.scores for name in names)
    )
    notes = (
        f"Published: {source.source}, {source.url}. {source.note}",
        "Other prompts, graders and budgets: no difference, interval or p-value can be given against these rows.",
    )
    columns = ("model", *(source.columns[name] for name in names), *(("avg",) if whole else ()))
    return Sheet("PUBLISHED, not measured here: Pass@1 in percent", columns, (rows,), notes, (source.url,))


def table_markdown(table: ModelTable, *, with_published: bool = False) -> str:
    """Markdown with the best in bold."""
    sheets = table_sheets(table, width=None, with_published=with_published)
    bold = [
        Sheet(
            sheet.title,
            sheet.columns,
            tuple(tuple(tuple(map(_bold, row)) for row in section) for section in sheet.sections),
            tuple(note.replace(f"{BEST} better", "Bold: better", 1) for note in sheet.notes),
            sheet.links,
        )
        for sheet in sheets
    ]
    return "# Models\n\n" + "\n".join(map(sheet_markdown, bold))


def _bold(text: str) -> str:
    return f"**{text.removesuffix(BEST)}**" if text.endswith(f"]{BEST}") else text


def table_latex(table: ModelTable, *, with_published: bool = False) -> str:
    """A `table` of LaTeX's booktabs with the best in bold; published rows below a rule of their own."""
    names = [*table.benchmarks, *([AVERAGE] if len(table.benchmarks) > 1 else [])]
    titles = [
        BENCHMARKS[name].title if name in BENCHMARKS else "Average" if name == AVERAGE else name for name in names
    ]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
        r"\toprule",
        " & ".join(map(latex_text, ["Model", *titles])) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [row.average if name == AVERAGE else row.cells.get(name) for name in names]
        mark = r"$^\dagger$" if row.differs else ""
        lines.append(" & ".join([latex_text(row.label) + mark, *map(_latex_cell, cells)]) + r" \\")
    if with_published:
        lines += _latex_published(table, names)
    caption = latex_text(f"{_title(table)}. Bold: {_notes(table)[0].removeprefix(f'{BEST} ')}")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}", ""]
    lines += [f"% {' '.join(note.split())}" for note in _notes(table)[1:]]
    return "\n".join(lines).rstrip() + "\n"


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    e = cell.estimate
    mean = rf"\textbf{{{percent(e.mean)}}}" if cell.best else percent(e.mean)
    mark = "" if cell.comparable else r"$^\ddagger$"
    return rf"{mean}{mark} {{\scriptsize [{percent(e.low)}, {percent(e.high)}]}}"


def _latex_published(table: ModelTable, names: Sequence[str]) -> list[str]:
    source, beside = published_columns(table)
    if not beside:
        return []
    whole = set(table.benchmarks) == set(source.columns) == set(beside)
    heading = latex_text(f"Published, not measured here: {source.source}")
    lines = [r"\midrule", rf"\multicolumn{{{len(names) + 1}}}{{l}}{{\emph{{{heading}}}}} \\"]
    for row in source.rows:
        scores = [percent(row.scores.get(name) if name in beside else None) for name in names if name != AVERAGE]
        scores += [percent(row.average if whole else None)] if AVERAGE in names else []
        if any(score != MISSING for score in scores):
            lines.append(" & ".join([latex_text(row.model), *("--" if s == MISSING else s for s in scores)]) + r" \\")
    return lines


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text as LaTeX shows it: no character of it is a command."""
    return re.sub(r"[\\&%$#_{}~^<>]", lambda found: _LATEX[found[0]], " ".join(text.split()))


def table_content(table: ModelTable, *, with_published: bool = False) -> dict[str, object]:
    """Plain values for a page: fractions of 1."""
    names = [*table.benchmarks, *([AVERAGE] if len(table.benchmarks) > 1 else [])]
    rows = []
    for row in table.rows:
        cells = [row.average if name == AVERAGE else row.cells.get(name) for name in names]
        rows.append({"label": row.label, "differs": row.differs, "cells": [_cell_content(cell) for cell in cells]})
    content: dict[str, object] = {
        "title": _title(table),
        "columns": [[name, table.sizes.get(name, "")] for name in names],
        "rows": rows,
        "notes": [note.replace(f"{BEST} better", "Bold: better", 1) for note in _notes(table)],
    }
    sheet = _published(table) if with_published else None
    if sheet is not None:
        content["published"] = {
            "columns": sheet.columns, "rows": sheet.sections[0], "notes": sheet.notes
        }  # fmt: skip
    return content


def _cell_content(cell: Cell | None) -> dict[str, object] | None:
    if cell is None:
        return None
    e = cell.estimate
    return {"mean": e.mean, "low": e.low, "high": e.high, "best": cell.best, "comparable": cell.comparable}
