"""The charts of a report and their metrics (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deepscaler.report.chart import Chart, Series
from deepscaler.report.formatting import is_number
from deepscaler.report.palette import NUM_RUN_COLOURS
from deepscaler.report.results import test_set_notes
from deepscaler.report.runs import Row, RunRecord, chart_spans

OUTCOMES = {
    "correct": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "truncated",
    "timeout": "grader timeout",
    "grader_failed": "grader failed",
    "bad_reference": "bad reference",
}
MAX_BANDS = 4  # of difficulty
ON_POLICY = 0.9995  # of the effective sample size; the chart is left out where all steps are above it
# A budget far above the lengths would press them flat; beyond this factor of the longest it is not drawn.
BUDGET_IN_SIGHT = 2.2
Value = str | Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class ChartSection:
    """A group of charts with a heading and a sentence on how to read it."""

    heading: str
    text: str
    charts: list[Chart]


class _Builder:
    """Charts of the same runs on the same step axis."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self.runs = runs
        self.spans = chart_spans(runs)
        self.last_step = max(run.last_step for run in runs)
        self.window = smoothing_window(max(len(run.steps) for run in runs))

    def chart(self, key: str, title: str, unit: str, hint: str, series: Sequence[Series], **options: bool) -> Chart:
        shown = tuple(s for s in series if any(v is not None for _, v in s.points))
        smooth = self.window if any(s.low_high is None for s in shown) else 1
        return Chart(key, title, unit, hint, shown, self.spans, self.last_step, window=smooth, **options)

    def lines(self, *wanted: tuple[str, str, Value]) -> list[Series]:
        """One series per run and (label, colour, metric); with several runs colour tells them apart."""
        result = []
        for index, run in enumerate(self.runs):
            for number, (label, colour, value) in enumerate(wanted):
                result.append(
                    Series(
                        self._label(run, label if len(wanted) > 1 else ""),
                        self._colour(index, colour),
                        run.points(value),
                        dashed=len(self.runs) > 1 and number > 0,
                    )
                )
        return result

    def _label(self, run: RunRecord, label: str) -> str:
        return label if len(self.runs) == 1 else " · ".join(filter(None, (run.label, label)))

    def _colour(self, index: int, colour: str) -> str:
        return colour if len(self.runs) == 1 else f"run-{index % NUM_RUN_COLOURS}"

    def budget(self) -> list[Series]:
        """The completion budget as a stepped line, where the lengths come near it."""
        if len(self.runs) > 1:
            return []
        run = self.runs[0]
        lengths = [r[n] for r in run.steps for n in ("length_mean", "length_wrong_mean") if is_number(r.get(n))]
        highest = BUDGET_IN_SIGHT * max(lengths, default=0.0)
        points = run.points("max_completion_tokens")
        near = tuple((step, v if v is not None and v <= highest else None) for step, v in points)
        return [Series("budget", "muted", near, measured=False)]

    def pass_at_1(self) -> list[Series]:
        series = []
        for index, run in enumerate(self.runs):
            rows = [r for r in run.evaluations if all(is_number(r.get(n)) for n in ("pass@1", "low", "high"))]
            points = tuple((float(r["step"]), float(r["pass@1"])) for r in rows)
            ends = tuple((float(r["low"]), float(r["high"])) for r in rows)
            series.append(Series(self._label(run, ""), self._colour(index, "accent"), points, low_high=ends))
        return series

    def validation_losses(self) -> list[Series]:
        """A dot where one was measured; before the first step it is in a line of its own."""
        series = []
        for index, run in enumerate(self.runs):
            rows = [r for r in (*run.evaluations, *run.steps) if is_number(r.get("validation_loss"))]
            points = tuple((float(r["step"]), float(r["validation_loss"])) for r in rows)
            label, colour = self._label(run, "validation"), self._colour(index, "second")
            series.append(Series(label, colour, points, low_high=tuple((v, v) for _, v in points)))
        return series


def smoothing_window(num_steps: int) -> int:
    """Steps of the moving mean: odd, none for short runs, a twenty-fifth of long ones."""
    return 1 if num_steps < 30 else 2 * (num_steps // 50) + 1


def per_second(tokens: str, seconds: str) -> Callable[[Row], float | None]:
    def rate(row: Row) -> float | None:
        count, time = row.get(tokens), row.get(seconds)
        return count / time if is_number(count) and is_number(time) and time > 0 else None

    return rate


def sampling_speed(row: Row) -> float | None:
    """Tokens per second of the sampler's work, which a step may have waited for only in part."""
    ahead = is_number(row.get("sampler_busy_s"))
    return per_second("num_sampled_tokens", "sampler_busy_s" if ahead else "sample_s")(row)


def loss_chart(runs: Sequence[RunRecord]) -> Chart:
    """Of supervised fine-tuning."""
    build = _Builder(runs)
    hint = "Mean over the assistant's tokens. A validation loss that rises again means too many epochs."
    lines = [*build.lines(("traces", "accent", "loss")), *build.validation_losses()]
    return build.chart("loss", "Cross-entropy", "nats per token", hint, lines)


def pass_at_1_chart(runs: Sequence[RunRecord]) -> Chart:
    build = _Builder(runs)
    hint = "On the validation sets, with 95% intervals. Should rise from stage to stage."
    notes = dict.fromkeys(note for run in runs if run.evaluations for note in test_set_notes(run.evaluations[-1]))
    hint = " ".join([hint, *(f"{note}." for note in notes)])
    return build.chart("pass1", "Pass@1", "", hint, build.pass_at_1(), percent=True)


def difficulty_chart(runs: Sequence[RunRecord]) -> Chart:
    """Pass@1 of bands of difficulty, for one run whose validation problems say how difficult they are."""
    build = _Builder(runs)
    series = difficulty_bands(runs[0].difficulties) if len(runs) == 1 else []
    hint = "On the validation sets, in bands of about as many problems each. Easy ones rise first."
    return build.chart("difficulty", "Pass@1 by difficulty", "", hint, series, percent=True)


def difficulty_bands(found: Mapping[int, Mapping[str, tuple[float, int]]]) -> list[Series]:
    """At most MAX_BANDS lines, one for each run of neighbouring difficulties with about as many problems."""
    counts = {name: count for groups in found.values() for name, (_, count) in groups.items()}
    names = sorted(counts, key=float)
    bands: list[list[str]] = []
    share, seen = sum(counts.values()) / MAX_BANDS, 0.0
    for name in names:
        place = int((seen + counts[name] / 2) / share)
        band = min(MAX_BANDS - 1, place) if len(names) > MAX_BANDS else len(bands)
        while len(bands) <= band:
            bands.append([])
        bands[band].append(name)
        seen += counts[name]
    series = []
    for number, band in enumerate(filter(None, bands)):
        points = []
        for step, groups in sorted(found.items()):
            inside = [groups[name] for name in band if name in groups]
            problems = sum(count for _, count in inside)
            points.append((float(step), sum(m * c for m, c in inside) / problems if problems else None))
        label = f"difficulty {band[0]}" + (f" to {band[-1]}" if len(band) > 1 else "")
        series.append(Series(label, f"run-{number % NUM_RUN_COLOURS}", tuple(points)))
    return series


def reward_chart(runs: Sequence[RunRecord]) -> Chart:
    build = _Builder(runs)
    hint = "Mean over all completions of a step. Should rise; flat at 0 or 1 means nothing is learned."
    return build.chart("reward", "Reward", "", hint, build.lines(("reward", "accent", "reward_mean")))


def length_chart(runs: Sequence[RunRecord]) -> Chart:
    build = _Builder(runs)
    right, wrong = ("right", "correct", "length_correct_mean"), ("wrong", "wrong", "length_wrong_mean")
    wanted = [right, wrong] if len(runs) > 1 else [right, wrong, ("all", "muted", "length_mean")]
    hint = "Wrong answers start out longer than right ones; a longer budget lets lengths grow again."
    series = [*build.lines(*wanted), *build.budget()]
    return build.chart("length", "Completion length", "tokens", hint, series)


def truncated_chart(runs: Sequence[RunRecord]) -> Chart:
    build = _Builder(runs)
    hint = "Completions truncated at the budget. Falls, then rises again when the policy needs more room."
    series = build.lines(("truncated", "truncated", "truncated_frac"))
    return build.chart("truncated", "Truncated share", "", hint, series, percent=True)


def _outcomes(runs: Sequence[RunRecord]) -> list[Chart]:
    """One stacked chart per run: shares of different runs cannot be stacked together."""
    charts = []
    for index, run in enumerate(runs):
        build = _Builder([run])
        build.last_step = max(r.last_step for r in runs)
        metrics = {name: f"outcome_{name}_frac" for name in OUTCOMES}
        seen = [n for n, m in metrics.items() if any(row.get(m) for row in run.steps)]
        series = [Series(OUTCOMES[n], n, run.points(metrics[n])) for n in seen]
        title = "Outcomes" if len(runs) == 1 else f"Outcomes · {run.label}"
        hint = "Share of each verdict among all completions."
        charts.append(build.chart(f"outcomes-{index}", title, "", hint, series, percent=True, stacked=True))
    return charts


def _learning(runs: Sequence[RunRecord]) -> ChartSection:
    build = _Builder(runs)
    groups = build.lines(
        ("all right", "correct", "groups_all_correct_frac"), ("all wrong", "wrong", "groups_all_wrong_frac")
    )
    hint = "Groups whose completions all got the same reward teach nothing."
    silent = build.chart("groups", "Groups without signal", "", hint, groups, percent=True)
    charts = [
        loss_chart(runs),
        pass_at_1_chart(runs),
        difficulty_chart(runs),
        reward_chart(runs),
        length_chart(runs),
        truncated_chart(runs),
    ]
    return ChartSection(
        "Learning",
        _smoothing_text(build.window, staged=bool(build.spans)),
        [*charts, *_outcomes(runs), silent],
    )


def _smoothing_text(window: int, *, staged: bool) -> str:
    within = " of the same stage" if staged else ""
    return f"Thin lines are single steps, bold ones means over {window} steps{within}." if window > 1 else ""


def _health(runs: Sequence[RunRecord]) -> ChartSection:
    build = _Builder(runs)
    entropy = build.chart(
        "entropy",
        "Entropy",
        "nats",
        "Falls slowly. Close to 0 the policy no longer explores; climbing without end it turns to noise.",
        build.lines(("entropy", "accent", "entropy_mean")),
    )
    mismatch = build.chart(
        "mismatch",
        "Trainer–engine mismatch",
        "nats, log scale",
        "Difference of log-probabilities. Small and steady; a jump means stale or imprecise weights.",
        build.lines(("mean", "accent", "mismatch_mean"), ("largest", "muted", "mismatch_max")),
        logarithmic=True,
    )
    effective = build.chart(
        "ess",
        "Effective sample size",
        "share of the tokens",
        "1 where trainer and engine agree on every token. Below 0.5 a few tokens carry the update.",
        build.lines(("effective", "accent", "effective_sample_size")),
    )
    lag = build.chart(
        "lag",
        "Policy lag",
        "versions",
        "How many updates the oldest weights that sampled a step are behind.",
        build.lines(("lag", "accent", "policy_lag")),
    )
    gradient = build.chart(
        "grad",
        "Gradient norm",
        "before clipping",
        "Spikes now and then are normal, a rising trend is not.",
        build.lines(("norm", "accent", "grad_norm")),
    )
    clipped = build.chart(
        "clip",
        "Clipped tokens",
        "",
        "Share of tokens whose ratio left the clip range. Usually below 1%.",
        build.lines(("clipped", "accent", "clip_frac")),
        percent=True,
    )
    kl = build.chart(
        "kl",
        "KL to the reference",
        "nats",
        "Grows as the policy leaves its start; a sharp rise is drift.",
        build.lines(("kl", "accent", "kl_mean")),
    )
    skipped = build.chart(
        "skipped",
        "Skipped updates",
        "count",
        "Updates dropped for a non-finite gradient. Should stay 0.",
        build.lines(("skipped", "wrong", "skipped_updates")),
    )
    charts = [entropy, mismatch, gradient]
    charts += [c for c in (kl, clipped, skipped, lag) if any(v for s in c.series for _, v in s.points)]
    if any(v is not None and v < ON_POLICY for s in effective.series for _, v in s.points):
        charts.append(effective)
    return ChartSection("Health of the optimisation", "", charts)


def _speed(runs: Sequence[RunRecord]) -> ChartSection:
    build = _Builder(runs)
    speeds = build.lines(
        ("sampling", "accent", sampling_speed),
        ("training", "second", per_second("num_trained_tokens", "update_s")),
    )
    hint = "Completion tokens sampled, and prompt and completion tokens trained on, while that phase ran."
    return ChartSection("Speed", "", [build.chart("speed", "Throughput", "tokens/s", hint, speeds)])


def chart_sections(runs: Sequence[RunRecord]) -> list[ChartSection]:
    """Groups of charts; charts without a single value are left out."""
    groups = [_learning(runs), _health(runs), _speed(runs)]
    shown = [ChartSection(g.heading, g.text, [c for c in g.charts if c.series]) for g in groups]
    return [g for g in shown if g.charts]
