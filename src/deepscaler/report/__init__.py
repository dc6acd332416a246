"""Reads run directories, writes a self-contained HTML report and a static figure."""

from deepscaler.report.figure import write_figure
from deepscaler.report.page import write_report

__all__ = ["write_figure", "write_report"]
