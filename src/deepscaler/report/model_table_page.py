"""The page of a table of models: one HTML file without script."""

from __future__ import annotations

from collections.abc import Mapping

from deepscaler.report.style import render_page


def model_table_page(content: Mapping[str, object]) -> str:
    """content: of `evaluation.model_table_formats.table_content`. Every text in it is escaped."""
    return render_page("model_table.html", title="Models side by side", content=content)
