"""The report: one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from deepscaler.report import formatting, summary
from deepscaler.report.chart import Chart, draw, plot_scales
from deepscaler.report.palette import NUM_RUN_COLOURS
from deepscaler.report.results import Interval, results_of
from deepscaler.report.rollout_sample import RolloutSample, sample_rollouts
from deepscaler.report.runs import RunRecord, read_runs
from deepscaler.report.style import asset, render_page, write_page
from deepscaler.report.training_charts import OUTCOMES, chart_sections

CHART_WIDTH, CHART_HEIGHT = 376.0, 214.0
RESULT_WIDTH = 200.0


def write_report(
    run_dirs: Sequence[Path], out: Path, validation: Mapping[Path, Mapping[str, object]] | None = None
) -> Path:
    """Write the report of one run, or of several side by side, to `out`; returns `out`.

    validation: by run directory, a comparison of its first and last evaluation inside training (`results_of`).

    Raises ValueError when a path is no run directory or one of its files is damaged.
    """
    return write_page(render(read_runs(run_dirs), validation), out)


def render(runs: Sequence[RunRecord], validation: Mapping[Path, Mapping[str, object]] | None = None) -> str:
    groups = chart_sections(runs)
    charts = [chart for group in groups for chart in group.charts]
    sample = sample_rollouts(runs)
    return render_page(
        "report.html",
        script=asset("report.js"),
        functions={"chart_svg": chart_svg, "result_svg": result_svg},
        title=" · ".join(run.label for run in runs),
        sections=[_section(run, (validation or {}).get(run.path)) for run in runs],
        groups=groups,
        sample=sample,
        num_run_colours=NUM_RUN_COLOURS,
        data=embed(_page_data(charts, runs, sample)),
    )


def _section(run: RunRecord, validation: Mapping[str, object] | None) -> dict[str, object]:
    """Everything the template says about one run."""
    return {
        "run": run,
        "metadata": summary.run_metadata(run),
        "tiles": summary.key_figures(run),
        "results": results_of(run, validation),
        "alarms": summary.alarms_of(run),
        "events": summary.events_of(run),
        "stages": summary.stage_table(run),
        "phases": summary.time_table(run),
        "recipe": json.dumps(run.recipe, indent=2, ensure_ascii=False),
    }


def embed(value: object) -> Markup:
    """JSON for a <script type="application/json">: no character that could end or confuse the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _page_data(charts: Sequence[Chart], runs: Sequence[RunRecord], sample: RolloutSample) -> dict[str, object]:
    return {
        "charts": {chart.key: _chart_data(chart) for chart in charts},
        "outcomes": OUTCOMES,
        "runs": [run.label for run in runs],
        "groups": sample.groups,
    }


def _chart_data(chart: Chart) -> dict[str, object]:
    """Data for the tooltip: values by step, and the position of steps in the drawing."""
    x, y = plot_scales(chart, CHART_WIDTH, CHART_HEIGHT)
    return {
        "left": x.start,
        "right": x.end,
        "top": y.end,
        "bottom": y.start,
        "last": x.high,
        "percent": chart.percent,
        "series": [
            {
                "label": series.label,
                "colour": series.colour,
                "points": [
                    [step, float(f"{value:.5g}"), *(series.low_high[i] if series.low_high else ())]
                    for i, (step, value) in enumerate(series.points)
                    if value is not None
                ],
            }
            for series in chart.series
        ],
    }


def chart_svg(chart: Chart) -> Markup:
    values = [v for s in chart.series for _, v in s.points if v is not None]
    span = f"{formatting.number(min(values))} to {formatting.number(max(values))}" if values else "no values"
    label = f"{chart.title}{', ' + chart.unit if chart.unit else ''} by step: {span}. Arrow keys read values."
    body = draw(chart, CHART_WIDTH, CHART_HEIGHT)
    head = '<svg viewBox="0 0 {w:g} {h:g}" role="img" tabindex="0" data-chart="{key}" aria-label="{label}">'
    svg = Markup(head + "{body}</svg>")
    return svg.format(w=CHART_WIDTH, h=CHART_HEIGHT, key=chart.key, label=label, body=body)


def result_svg(base: Interval | None, trained: Interval | None) -> Markup:
    """Both intervals on a line from 0 to 100%."""
    parts = [Markup('<path class="p-grid stroke" d="M0 11H{w:g}"/>').format(w=RESULT_WIDTH)]
    parts += [Markup('<path class="p-axis stroke" d="M{x:.1f} 7v8"/>').format(x=q * RESULT_WIDTH) for q in (0, 0.5, 1)]
    for interval, colour in ((base, "muted"), (trained, "accent")):
        if interval is None or not all(map(formatting.is_number, (interval.mean, interval.low, interval.high))):
            continue
        places = [RESULT_WIDTH * min(1.0, max(0.0, v)) for v in (interval.low, interval.high, interval.mean)]
        shape = '<path class="c-{c} stroke" stroke-width="2" d="M{a:.1f} 11H{b:.1f}"/>'
        shape += '<circle class="c-{c} fill" cx="{m:.1f}" cy="11" r="4"/>'
        parts.append(Markup(shape).format(c=colour, a=places[0], b=places[1], m=places[2]))
    return Markup('<svg viewBox="-5 0 {w:g} 22" aria-hidden="true">{body}</svg>').format(
        w=RESULT_WIDTH + 10, body=Markup("").join(parts)
    )
