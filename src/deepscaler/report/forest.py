"""A forest plot: differences with their intervals on one axis, drawn once for wide and once for narrow screens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deepscaler.report import formatting
from deepscaler.report.scale import Scale, value_range

ROW_HEIGHT = 34.0
NARROW_ROW_HEIGHT = 46.0
AXIS_HEIGHT = 44.0
WIDE = (900.0, 150.0, 190.0)  # width, space for names on the left, for figures on the right
NARROW = (340.0, 4.0, 4.0)  # names and figures are above the lines


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One difference as a fraction of 1. inner: its interval had the same problems been sampled again, else None."""

    name: str
    mean: float
    low: float
    high: float
    inner: tuple[float, float] | None
    total: bool = False


def forest_svg(rows: Sequence[ForestRow], *, narrow: bool = False) -> Markup:
    """Thin lines: interval over problems; thick ones: over re-sampling; a diamond for the average."""
    width, left, right = NARROW if narrow else WIDE
    step = NARROW_ROW_HEIGHT if narrow else ROW_HEIGHT
    height = step * len(rows) + AXIS_HEIGHT
    ends = [v for row in rows for v in (row.low, row.high)]
    low, high = value_range([*ends, 0.0], from_zero=True)
    x = Scale(low, high, left + 6, width - right - 6)
    parts = _axis(x, height, narrow)
    for index, row in enumerate(rows):
        top = index * step
        parts += [_labels(row, top, width, narrow), _marks(row, x, top + (step - 11 if narrow else step / 2))]
    label = "; ".join(f"{row.name}: {_figures(row)}" for row in rows)
    head = (
        '<svg viewBox="0 0 {w:g} {h:g}" class="forest {kind}" role="img" aria-label="Differences in points. {label}">'
    )
    return Markup(head + "{body}</svg>").format(
        w=width, h=height, kind="narrow" if narrow else "wide", label=label, body=Markup("").join(parts)
    )


def _figures(row: ForestRow) -> str:
    ends = f"{formatting.percent(row.low)} to {formatting.percent(row.high)}"
    return f"{formatting.percent(row.mean, sign=True)} ({ends})"


def _axis(x: Scale, height: float, narrow: bool) -> list[Markup]:
    bottom = height - AXIS_HEIGHT + 6
    parts = []
    ticks = x.ticks(4 if narrow else 8)
    for tick, text in zip(ticks, formatting.tick_texts([100 * t for t in ticks], as_percent=False), strict=True):
        style = "p-axis" if tick == 0 else "p-grid"
        line = '<path class="{s} stroke" d="M{x:.1f} 2V{b:.1f}"/>'
        text_form = '<text class="p-soft fill" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{t}</text>'
        parts.append(Markup(line + text_form).format(s=style, x=x(tick), b=bottom, y=bottom + 14, t=text))
    words = "← A better · points · B better →"
    middle = '<text class="p-soft fill" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{t}</text>'
    parts.append(Markup(middle).format(x=(x.start + x.end) / 2, y=bottom + 31, t=words))
    return parts


def _labels(row: ForestRow, top: float, width: float, narrow: bool) -> Markup:
    y = top + (16 if narrow else ROW_HEIGHT / 2 + 4)
    weight = Markup(' font-weight="600"') if row.total else ""
    form = (
        '<text class="p-ink fill" x="4" y="{y:.1f}"{weight}>{name}</text>'
        '<text class="p-ink fill" x="{right:.1f}" y="{y:.1f}" text-anchor="end"{weight}>{figures}</text>'
    )
    return Markup(form).format(y=y, weight=weight, name=row.name, right=width - 4, figures=_figures(row))


def _marks(row: ForestRow, x: Scale, y: float) -> Markup:
    caps = "".join(f"M{x(end):.1f} {y - 4:.1f}v8" for end in (row.low, row.high))
    line = Markup('<path class="c-accent stroke" fill="none" stroke-width="1.4" d="{d}"/>')
    parts = [line.format(d=f"M{x(row.low):.1f} {y:.1f}H{x(row.high):.1f}{caps}")]
    if row.inner is not None:
        low, high = (x(min(max(v, x.low), x.high)) for v in row.inner)
        thick = '<path class="c-accent stroke" stroke-width="5" opacity="0.45" d="M{a:.1f} {y:.1f}H{b:.1f}"/>'
        parts.append(Markup(thick).format(a=low, b=high, y=y))
    place = x(row.mean)
    if row.total:
        diamond = '<path class="c-accent fill" d="M{l:.1f} {y:.1f}L{x:.1f} {t:.1f}L{r:.1f} {y:.1f}L{x:.1f} {b:.1f}Z"/>'
        parts.append(Markup(diamond).format(l=place - 7, r=place + 7, x=place, y=y, t=y - 7, b=y + 7))
    else:
        parts.append(Markup('<circle class="c-accent fill" cx="{x:.1f}" cy="{y:.1f}" r="4"/>').format(x=place, y=y))
    return Markup("").join(parts)
