"""Reads run directories and comparisons, writes self-contained HTML pages and a static figure."""

from deepscaler.report.comparison_page import write_comparison_page
from deepscaler.report.figure import write_figure
from deepscaler.report.model_table_page import model_table_page
from deepscaler.report.page import write_report

__all__ = ["model_table_page", "write_comparison_page", "write_figure", "write_report"]
