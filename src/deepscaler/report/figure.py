"""The figure of the README: one SVG file with four panels, readable on light and dark pages alike."""

from __future__ import annotations

from pathlib import Path

from markupsafe import escape

from deepscaler.observability.files import write_atomically
from deepscaler.report.chart import LETTER_WIDTH, Chart, Series, draw
from deepscaler.report.palette import FONT, chart_css
from deepscaler.report.runs import read_runs
from deepscaler.report.training_charts import length_chart, pass_at_1_chart, reward_chart, truncated_chart

PANEL_WIDTH, PANEL_HEIGHT = 400.0, 220.0
MARGIN, GAP, HEADING = 18.0, 20.0, 42.0


def write_figure(run_dir: Path, out_svg: Path) -> Path:
    """Pass@1, reward, length of right and wrong completions, and truncated share by step; returns `out_svg`.

    Raises ValueError when `run_dir` is no run directory.
    """
    runs = read_runs([run_dir])
    charts = [
        c for c in (pass_at_1_chart(runs), reward_chart(runs), length_chart(runs), truncated_chart(runs)) if c.series
    ]
    svg = _figure(charts, runs[0].label)
    out_svg.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out_svg, lambda path: path.write_text(svg, encoding="utf-8"))
    return out_svg


def _figure(charts: list[Chart], name: str) -> str:
    """Two columns on a background of its own: the page behind it may be of either colour."""
    width = 2 * MARGIN + 2 * PANEL_WIDTH + GAP
    rows = (len(charts) + 1) // 2
    height = 2 * MARGIN + rows * (HEADING + PANEL_HEIGHT) + max(0, rows - 1) * GAP
    panels = "".join(_panel(chart, index) for index, chart in enumerate(charts))
    box = f'width="{width - 1:g}" height="{height - 1:g}" rx="8"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="Training curves of {escape(name)}">\n'
        f"<style>\n{chart_css()}\n"
        f"text{{font:11px {FONT}}} .title{{font-weight:600;font-size:13px}}\n</style>\n"
        f'<g transform="translate(0.5 0.5)"><rect class="p-surface fill" {box}/>'
        f'<rect class="p-line stroke" fill="none" {box}/></g>\n{panels}\n</svg>\n'
    )


def _panel(chart: Chart, index: int) -> str:
    x = MARGIN + (index % 2) * (PANEL_WIDTH + GAP)
    y = MARGIN + (index // 2) * (HEADING + PANEL_HEIGHT + GAP)
    title = escape(chart.title + (f", {chart.unit}" if chart.unit else ""))
    plot = draw(chart, PANEL_WIDTH, PANEL_HEIGHT)
    return (
        f'<g transform="translate({x:g} {y:g})"><text class="title p-ink fill" x="4" y="14">{title}</text>'
        f'{_legend(chart)}<g transform="translate(0 {HEADING:g})">{plot}</g></g>\n'
    )


def _legend(chart: Chart) -> str:
    """Names of the lines under the title; a single line is explained by the first sentence of its hint."""
    if len(chart.series) < 2:
        return f'<text class="p-soft fill" x="4" y="31">{escape(chart.hint.partition(". ")[0])}</text>'
    parts, left = [], 4.0
    for series in chart.series:
        parts.append(_key(series, left))
        parts.append(f'<text class="p-soft fill" x="{left + 21:.1f}" y="31">{escape(series.label)}</text>')
        left += 21 + len(series.label) * LETTER_WIDTH + 16
    return "".join(parts)


def _key(series: Series, x: float) -> str:
    dash = "" if series.measured else ' stroke-dasharray="5 4"'
    return f'<path class="c-{series.colour} stroke" stroke-width="2"{dash} d="M{x:.1f} 27h16"/>'
