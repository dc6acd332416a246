"""Tables of results as Markdown, in which names from elsewhere stay text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepscaler.evaluation.compare import Comparison
from deepscaler.evaluation.tables import Row, Sheet, comparison_sheets

# Where renderers begin a link without any brackets: a URL with its scheme, `www.`, an address of mail.
_BARE_LINK = re.compile(
    r"(?<=[a-z])(?=://)|(?<=\bwww)(?=\.)|(?<=[\w.+-])(?=@[\w-]+\.)|(?<=\bmailto)(?=:)", re.IGNORECASE
)


def comparison_markdown(comparison: Comparison, *, with_published: bool = False) -> str:
    sheets = comparison_sheets(comparison, with_published=with_published)
    return "# Comparison\n\n" + "\n".join(sheet_markdown(sheet) for sheet in sheets)


def sheet_markdown(sheet: Sheet) -> str:
    rows = [row for section in sheet.sections for row in section]
    notes = "".join(f"- {_note(note, sheet.links)}\n" for note in sheet.notes)
    return f"## {sheet.title}\n\n{markdown(sheet.columns, rows)}\n\n{notes}"


def markdown(columns: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _note(note: str, links: Sequence[str]) -> str:
    text = _text(note)
    for url in links:
        text = text.replace(_text(url), f"<{url}>")
    return text


def _text(text: str) -> str:
    """One line that is text in every renderer: no cell ends early, no tag, link or image begins.

    A bracket stays as it is where it opens an interval: `[34.0, 52.2]`, with nothing behind that makes it a link.
    """
    line = " ".join(text.split()).replace("\\", "\\\\").replace("|", r"\|")
    line = re.sub(r"\[(?![-+–\d., ]*\](?![(\[:]))", r"\\[", line)
    return _BARE_LINK.sub(r"\\", re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line))
