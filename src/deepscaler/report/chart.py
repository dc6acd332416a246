"""Charts as SVG, drawn here rather than by a library so that a report needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from deepscaler.report.formatting import tick_texts
from deepscaler.report.scale import Scale, decades, value_range

Point = tuple[float, float | None]  # (step, value); None is a gap
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 20.0, 26.0
LETTER_WIDTH = 5.6  # pixels of an average character at the chart's font size


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `low_high` are interval ends, one pair per point: the points become dots with whiskers."""

    label: str
    colour: str
    points: tuple[Point, ...]
    dashed: bool = False
    measured: bool = True  # False for a setting such as the budget: drawn as steps, never smoothed
    low_high: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A stage on the step axis, first and last step included."""

    label: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows; how is decided in `draw`. `last_step` > 0 ends the axis, which starts at 0."""

    key: str
    title: str
    unit: str
    hint: str
    series: tuple[Series, ...]
    spans: tuple[Span, ...]
    last_step: int
    percent: bool = False
    stacked: bool = False
    logarithmic: bool = False
    window: int = 1  # steps of the moving mean


def moving_mean(points: Sequence[Point], window: int, spans: Sequence[Span]) -> list[Point]:
    """Centred mean over `window` steps that never mixes two stages; gaps stay gaps. Steps must rise."""
    half = window // 2
    smoothed: list[Point] = []
    for index, (step, value) in enumerate(points):
        stage = next((s for s in spans if s.first <= step <= s.last), None)
        low = max(step - half, stage.first) if stage else step - half
        high = min(step + half, stage.last) if stage else step + half
        around = points[max(0, index - half) : index + half + 1]
        near = [v for s, v in around if v is not None and low <= s <= high]
        smoothed.append((step, None if value is None else sum(near) / len(near)))
    return smoothed


def plot_scales(chart: Chart, width: float, height: float) -> tuple[Scale, Scale]:
    """Horizontal and vertical scale of the plot within a drawing of this size."""
    values = [v for s in chart.series for _, v in s.points if v is not None]
    values += [v for s in chart.series for pair in s.low_high or () for v in pair]
    x = Scale(0.0, float(max(chart.last_step, 1)), LEFT, width - RIGHT)
    powers = decades(values) if chart.logarithmic else None
    if powers:
        return x, Scale(*powers, height - BOTTOM, TOP, logarithmic=True)
    if chart.stacked:
        low, high = 0.0, 1.0
    else:
        low, high = value_range(values, from_zero=True, at_most=1.0 if chart.percent else None)
    return x, Scale(low, high, height - BOTTOM, TOP)


def draw(chart: Chart, width: float, height: float) -> Markup:
    """SVG elements of the whole chart without the <svg> around them, so that figures can place several."""
    x, y = plot_scales(chart, width, height)
    parts = [*_stages(chart, x, y), *_axes(chart, x, y)]
    if chart.stacked:
        parts += _areas(chart, x, y)
        parts += _boundaries(chart, x, y)
    for series in [] if chart.stacked else chart.series:
        parts += _line(chart, series, x, y)
    return Markup("".join(parts))


def _stages(chart: Chart, x: Scale, y: Scale) -> list[str]:
    """Every other stage on a tinted band, its name above, and a line where the stage changes."""
    parts = []
    for index, span in enumerate(chart.spans):
        left, right = x(span.first - 0.5 if index else 0), x(min(span.last + 0.5, x.high))
        if index % 2:
            box = f'x="{left:.1f}" y="{y.end:.1f}" width="{right - left:.1f}" height="{y.start - y.end:.1f}"'
            parts.append(f'<rect class="p-band fill" {box}/>')
        label = _fitting(span.label, right - left)
        if label:
            title = f"<title>{escape(span.label)}</title>"
            parts.append(_text((left + right) / 2, y.end - 7, label, "middle").replace("</text>", f"{title}</text>"))
    return parts + _boundaries(chart, x, y)


def _fitting(label: str, width: float) -> str:
    """As much of a stage's name as its band has room for; a number at least, so that no stage is without a name."""
    room = int(width / LETTER_WIDTH)
    if len(label) <= room:
        return label
    return label[: max(1, room - 1)] + "…" if room > 1 else label[:1]


def _boundaries(chart: Chart, x: Scale, y: Scale) -> list[str]:
    places = [x(span.first - 0.5) for span in chart.spans[1:]]
    style = 'class="p-axis stroke" fill="none" stroke-dasharray="2 3"'
    return [f'<path {style} d="M{place:.1f} {y.start:.1f}V{y.end - 3:.1f}"/>' for place in places]


def _axes(chart: Chart, x: Scale, y: Scale) -> list[str]:
    parts = []
    ticks = y.ticks(5)
    for tick, text in zip(ticks, tick_texts(ticks, as_percent=chart.percent), strict=True):
        height = y(tick)
        parts.append(f'<path class="p-grid stroke" d="M{x.start:.1f} {height:.1f}H{x.end:.1f}"/>')
        parts.append(_text(x.start - 6, height + 3.5, text, "end"))
    for tick in x.ticks(6, whole=True):
        place = x(tick)
        parts.append(f'<path class="p-axis stroke" d="M{place:.1f} {y.start:.1f}v4"/>')
        parts.append(_text(place, y.start + 16, f"{tick:,.0f}", "end" if place > x.end - 6 else "middle"))
    parts.append(f'<path class="p-axis stroke" d="M{x.start:.1f} {y.start:.1f}H{x.end:.1f}"/>')
    return parts


def _line(chart: Chart, series: Series, x: Scale, y: Scale) -> list[str]:
    colour = f"c-{series.colour}"
    if series.low_high is not None:
        return _dots(series, x, y)
    if not series.measured:
        path = _steps_path(series.points, x, y)
        style = 'fill="none" stroke-width="1.2" stroke-dasharray="5 4"'
        return [f'<path class="{colour} stroke" {style} d="{path}"/>']
    dash = ' stroke-dasharray="6 3"' if series.dashed else ""
    parts = []
    if chart.window > 1:
        thin = _path(_thin(series.points, x), x, y, chart.logarithmic)
        parts.append(f'<path class="{colour} stroke" fill="none" stroke-width="1" opacity="0.3" d="{thin}"/>')
    smooth = moving_mean(series.points, chart.window, chart.spans)
    bold = _path(_thin(smooth, x), x, y, chart.logarithmic)
    style = 'fill="none" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"'
    return [*parts, f'<path class="{colour} stroke" {style}{dash} d="{bold}"/>']


def _dots(series: Series, x: Scale, y: Scale) -> list[str]:
    colour = f"c-{series.colour}"
    present = [(s, v, pair) for (s, v), pair in zip(series.points, series.low_high or (), strict=True) if v is not None]
    path = _path([(s, v) for s, v, _ in present], x, y, False)
    parts = [f'<path class="{colour} stroke" fill="none" stroke-width="1.2" opacity="0.5" d="{path}"/>']
    for step, value, (low, high) in present:
        place = x(step)
        caps = "".join(f"M{place - 3:.1f} {y(end):.1f}h6" for end in (low, high))
        whisker = f"M{place:.1f} {y(low):.1f}V{y(high):.1f}{caps}"
        parts.append(f'<path class="{colour} stroke" fill="none" stroke-width="1.3" d="{whisker}"/>')
        parts.append(f'<circle class="{colour} fill" cx="{place:.1f}" cy="{y(value):.1f}" r="3.2"/>')
    return parts


def _areas(chart: Chart, x: Scale, y: Scale) -> list[str]:
    """Shares on top of each other, smoothed like the lines."""
    parts = []
    layers = [moving_mean(s.points, chart.window, chart.spans) for s in chart.series]
    if not layers or not layers[0]:
        return []
    base = [0.0] * len(layers[0])
    for series, layer in zip(chart.series, layers, strict=True):
        top = [b + (v or 0.0) for b, (_, v) in zip(base, layer, strict=True)]
        upper = [f"{x(s):.1f} {y(t):.1f}" for (s, _), t in zip(layer, top, strict=True)]
        lower = [f"{x(s):.1f} {y(b):.1f}" for (s, _), b in zip(layer, base, strict=True)]
        outline = "L".join([*upper, *reversed(lower)])
        parts.append(f'<path class="c-{series.colour} fill" opacity="0.85" d="M{outline}Z"/>')
        base = top
    return parts


def _path(points: Sequence[Point], x: Scale, y: Scale, logarithmic: bool) -> str:
    """Straight lines between neighbours; a gap lifts the pen, and a lone point becomes a short dash."""
    commands, down = [], False
    for step, value in points:
        if value is None or (logarithmic and value <= 0):
            down = False
            continue
        commands.append(f"{'L' if down else 'M'}{x(step):.1f} {y(value):.1f}{'' if down else 'h.1'}")
        down = True
    return "".join(commands)


def _steps_path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    """Horizontal pieces, one per value, from half a step before to half a step after."""
    pieces: list[list[float]] = []
    for step, value in points:
        if value is None:
            continue
        if pieces and pieces[-1][2] == value:
            pieces[-1][1] = step
        else:
            pieces.append([step, step, value])
    return "".join(
        f"M{x(max(0.0, first - 0.5)):.1f} {y(value):.1f}H{x(min(x.high, last + 0.5)):.1f}"
        for first, last, value in pieces
    )


def _thin(points: Sequence[Point], x: Scale) -> list[Point]:
    """At most four points per pixel column (first, lowest, highest, last): small, with every spike kept."""
    if len(points) <= 2 * (x.end - x.start):
        return list(points)
    columns: dict[int, list[Point]] = {}
    for point in points:
        columns.setdefault(math.floor(x(point[0])), []).append(point)
    kept: list[Point] = []
    for members in columns.values():
        present = [p for p in members if p[1] is not None]
        extremes = [min(present, key=_value), max(present, key=_value)] if present else []
        kept += sorted({members[0], *extremes, members[-1]}, key=lambda p: p[0])
    return kept


def _value(point: Point) -> float:
    return point[1] if point[1] is not None else math.nan


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="p-soft fill" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
