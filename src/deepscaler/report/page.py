"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deepscaler.observability.files import write_atomically
from deepscaler.report import facts, wording
from deepscaler.report.chart import Chart, draw, plot_scales
from deepscaler.report.palette import NUM_RUN_COLOURS, chart_css, page_variables
from deepscaler.report.panels import OUTCOMES, all_panels
from deepscaler.report.results import Interval, results_of
from deepscaler.report.rollout_sample import RolloutSample, sample_rollouts
from deepscaler.report.runs import RunRecord, read_runs

CHART_WIDTH, CHART_HEIGHT = 376.0, 214.0
RESULT_WIDTH = 200.0


def write_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the report of one run, or of several side by side, to `out`; returns `out`.

    Raises ValueError when a path is no run directory or one of its files is damaged.
    """
    html = render(read_runs(run_dirs))
    out.parent.mkdir(parents=True, exist_ok=True)
    # Text from elsewhere may hold lone surrogates, which UTF-8 cannot; they become question marks.
    write_atomically(out, lambda path: path.write_bytes(html.encode("utf-8", errors="replace")))
    return out


def render(runs: Sequence[RunRecord]) -> str:
    groups = all_panels(runs)
    charts = [chart for group in groups for chart in group.charts]
    sample = sample_rollouts(runs)
    script = _asset("report.js")
    template = _environment().from_string(_asset("report.html"))
    return template.render(
        title=" · ".join(run.label for run in runs),
        sections=[_section(run) for run in runs],
        groups=groups,
        sample=sample,
        num_run_colours=NUM_RUN_COLOURS,
        css=Markup(f"{page_variables()}\n{_swatches()}\n{chart_css()}\n{_asset('report.css')}"),
        script=Markup(script),
        script_hash=script_hash(script),
        data=embed(_page_data(charts, runs, sample)),
    )


def _section(run: RunRecord) -> dict[str, Any]:
    """Everything the template says about one run."""
    return {
        "run": run,
        "facts": facts.run_facts(run),
        "tiles": facts.key_figures(run),
        "results": results_of(run),
        "alarms": facts.alarms_of(run),
        "events": facts.events_of(run),
        "stages": facts.stage_table(run),
        "phases": facts.time_table(run),
        "recipe": json.dumps(run.recipe, indent=2, ensure_ascii=False),
    }


def embed(value: Any) -> Markup:
    """JSON for a <script type="application/json">: no character that could end or confuse the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def script_hash(script: str) -> str:
    """The hash by which the page's policy knows its own script and refuses every other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _page_data(charts: Sequence[Chart], runs: Sequence[RunRecord], sample: RolloutSample) -> dict[str, Any]:
    return {
        "charts": {chart.key: _chart_data(chart) for chart in charts},
        "outcomes": OUTCOMES,
        "runs": [run.label for run in runs],
        "groups": sample.groups,
    }


def _chart_data(chart: Chart) -> dict[str, Any]:
    """What the pointer shows: values by step, and where steps lie in the drawing."""
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
    span = f"{wording.number(min(values))} to {wording.number(max(values))}" if values else "no values"
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
        if interval is None or not all(map(wording.is_number, (interval.mean, interval.low, interval.high))):
            continue
        places = [RESULT_WIDTH * min(1.0, max(0.0, v)) for v in (interval.low, interval.high, interval.mean)]
        shape = '<path class="c-{c} stroke" stroke-width="2" d="M{a:.1f} 11H{b:.1f}"/>'
        shape += '<circle class="c-{c} fill" cx="{m:.1f}" cy="11" r="4"/>'
        parts.append(Markup(shape).format(c=colour, a=places[0], b=places[1], m=places[2]))
    return Markup('<svg viewBox="-5 0 {w:g} 22" aria-hidden="true">{body}</svg>').format(
        w=RESULT_WIDTH + 10, body=Markup("").join(parts)
    )


def _swatches() -> str:
    names = [*OUTCOMES, "accent", "second", "muted", *(f"run-{i}" for i in range(NUM_RUN_COLOURS))]
    return "".join(f".c-{name}{{--swatch:var(--{name})}}" for name in names)


@lru_cache
def _asset(name: str) -> str:
    return resources.files("deepscaler.report").joinpath(name).read_text(encoding="utf-8")


@lru_cache
def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(chart_svg=chart_svg, result_svg=result_svg)
    environment.filters.update(percent=wording.percent, p_value=wording.p_value)
    return environment
