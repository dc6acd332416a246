"""Simulates rollouts and learning on 8 to 1,024 GPUs and writes the tables of docs/scaling.md.

    python benchmarks/scaling.py --json FILE [--write] [--gpus 8 64] [--draws 5] [--steps 10]   # goes on with FILE

Schedules (scaling_schedules.py) over engines (scaling_engines.py) whose costs are those of an H200
(scaling_costs.py): in turns on the same GPUs, one step off, and interruptible with policy lag n, each with the split
between rollout and learner GPUs that is best for it. The bound is the work of a step divided by the GPUs. Every figure
is the mean over draws of completions by seed, with a 95% interval. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markers import replace_between_markers
from records import ROOT, machine
from scaling_costs import Costs, Lengths, Work, fit_errors, measured, work_of
from scaling_schedules import Interruptible, Workload, colocated, one_step_off

from deepscaler.evaluation.intervals import t_quantile
from deepscaler.evaluation.markdown import markdown
from deepscaler.observability.files import write_atomically

PAGE = ROOT / "docs" / "scaling.md"
GROUP_SIZE = 16
RECIPE_GROUPS = 128  # 2,048 rollouts a step, as the recipe's last stage has
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
LAGS = (1, 4, 8, 16)
PER_GPU = ((64, 64), (64, 128), (64, 256), (64, 512), (256, 512), (1024, 2048))  # GPUs, groups
SPLITS = (-0.05, 0.0, 0.03, 0.06, 0.1)  # added to the share of sampling in the work, and tried
OneDraw = Callable[[np.random.Generator], float]


@dataclass(frozen=True, slots=True)
class Options:
    draws: int
    steps: int


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds a step with the ends of the 95% interval; the GPUs that sample, or None where all do both."""

    seconds: float
    low: float
    high: float
    rollout_gpus: int | None

    def cell(self, bound: float) -> str:
        return f"{self.seconds / bound:.2f} [{self.low / bound:.2f}, {self.high / bound:.2f}]"


def over_draws(one: OneDraw, options: Options, first: float | None, rollout_gpus: int | None) -> Result:
    """first: the value of seed 0, where it is known."""
    seeds = range(options.draws)
    values = [first if seed == 0 and first is not None else one(np.random.default_rng(seed)) for seed in seeds]
    mean = statistics.fmean(values)
    half = t_quantile(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
    return Result(mean, mean - half, mean + half, rollout_gpus)


def best_split(make: Callable[[int], OneDraw], gpus: int, share: float, options: Options) -> Result:
    """The split that seed 0 takes least time with, then measured with all seeds. share: of sampling in the work."""
    counts = sorted({min(gpus - 1, max(1, round(gpus * (share + shift)))) for shift in SPLITS})
    tried = {count: make(count)(np.random.default_rng(0)) for count in counts}
    best = min(tried, key=lambda count: tried[count])
    return over_draws(make(best), options, tried[best], best)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table. in_order, recompute: as in `Interruptible`."""

    table: str
    name: str
    costs: Costs
    lengths: Lengths
    gpus: int
    groups: int
    lags: tuple[int, ...]
    in_order: bool = True
    recompute: bool = True

    @property
    def work(self) -> Workload:
        return Workload(self.costs, self.lengths, self.groups, GROUP_SIZE)

    @property
    def total(self) -> Work:
        return work_of(self.costs, self.lengths, self.groups * GROUP_SIZE)

    def schedules(self, options: Options) -> Iterator[tuple[str, Callable[[], Result]]]:
        yield "in turns", partial(over_draws, partial(self._in_turns, options), options, None, None)
        share = self.total.sampling / self.total.total
        for max_lag in self.lags:
            yield f"lag {max_lag}", partial(best_split, partial(self._lag, max_lag, options), self.gpus, share, options)

    def _in_turns(self, options: Options, rng: np.random.Generator) -> float:
        return colocated(self.work, self.gpus, rng, options.steps)

    def _lag(self, max_lag: int, options: Options, engines: int) -> OneDraw:
        """max_lag 1 is one step off: a step is sampled as a whole, without interruption."""
        ranks = self.gpus - engines
        if max_lag == 1:
            return lambda rng: one_step_off(self.work, engines, ranks, rng, options.steps)
        warm_up, steps = 3 * (max_lag + 1), max(options.steps, 2 * (max_lag + 1))
        how = max_lag, self.in_order, self.recompute
        return lambda rng: Interruptible(self.work, engines, ranks, *how).run(rng, warm_up, steps)[0]


def cases(costs: Costs, lengths: Lengths, gpus: Sequence[int]) -> Iterator[Case]:
    for n in gpus:
        yield Case("recipe", str(n), costs, lengths, n, RECIPE_GROUPS, LAGS)
    for n, groups in PER_GPU:
        yield Case("per_gpu", f"{n} x {groups}", costs, lengths, n, groups, (4, 8))
    faster = replace(costs, step=costs.step / 2, row=costs.row / 2, context=costs.context / 2)
    learner = replace(costs, token=costs.token / 2, pair=costs.pair / 2)
    for name, changed, drawn in (
        ("as above", costs, lengths),
        ("decoding twice as fast", faster, lengths),
        ("learning twice as fast", learner, lengths),
        ("publishing takes 10 s", replace(costs, publish=10.0), lengths),
        ("median length 2,000", costs, replace(lengths, median=2000.0)),
        ("median length 8,000", costs, replace(lengths, median=8000.0)),
        ("lengths within a group independent", costs, replace(lengths, alike=0.0)),
        ("lengths within a group nearly equal", costs, replace(lengths, alike=0.9)),
    ):
        yield Case("assumptions", name, changed, drawn, 64, RECIPE_GROUPS, (8,))
    for name, in_order, recompute in (
        ("the cache is kept over an update", True, False),
        ("groups are learned in the order they are complete", False, True),
        ("both", False, False),
    ):
        yield Case("assumptions", name, costs, lengths, 64, RECIPE_GROUPS, (8,), in_order, recompute)


def simulate(options: Options, gpus: Sequence[int], file: Path) -> dict[str, Any]:
    """Writes the file after every schedule, and computes only what it lacks."""
    costs, lengths = measured(), Lengths()
    settings = {"options": asdict(options), "costs": asdict(costs), "lengths": asdict(lengths)}
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if any(record.get(key) != value for key, value in settings.items()):
        tables: dict[str, Any] = {"recipe": {}, "per_gpu": {}, "assumptions": {}}
        record = {"machine": machine(), **settings, "fit_errors": fit_errors(costs), **tables}
    for case in cases(costs, lengths, gpus):
        sizes = {"gpus": case.gpus, "rollouts": case.groups * GROUP_SIZE, "bound_s": case.total.total / case.gpus}
        row = record[case.table].setdefault(case.name, {**sizes, "results": {}})
        for name, measure in case.schedules(options):
            if name not in row["results"]:
                row["results"][name] = asdict(measure())
                print(case.table, case.name, name, row["results"][name], file=sys.stderr, flush=True)
                write_atomically(file, lambda part: part.write_text(json.dumps(record, indent=1) + "\n"))
    return record


def _result(row: dict[str, Any], name: str) -> Result:
    return Result(**row["results"][name])


def recipe_table(rows: Sequence[dict[str, Any]]) -> str:
    head = ("GPUs", "bound, s", "in turns", *(f"lag {n}" for n in LAGS), "rollout GPUs", "in turns / lag 8")
    body = []
    for row in rows:
        results = [_result(row, name) for name in ("in turns", *(f"lag {n}" for n in LAGS))]
        splits = ", ".join(str(result.rollout_gpus) for result in results[1:])
        gain = results[0].seconds / _result(row, "lag 8").seconds
        cells = [result.cell(row["bound_s"]) for result in results]
        body.append((f"{row['gpus']:,}", f"{row['bound_s']:.1f}", *cells, splits, f"**{gain:.1f}**"))
    return markdown(head, body)


def per_gpu_table(rows: Sequence[dict[str, Any]]) -> str:
    names = ("in turns", "lag 4", "lag 8")
    body = [
        (
            str(row["rollouts"] // row["gpus"]),
            f"{row['gpus']:,}",
            f"{row['rollouts']:,}",
            f"{row['bound_s']:.1f}",
            *(_result(row, name).cell(row["bound_s"]) for name in names),
            f"**{_result(row, 'in turns').seconds / _result(row, 'lag 8').seconds:.1f}**",
        )
        for row in rows
    ]
    return markdown(("rollouts a GPU", "GPUs", "rollouts", "bound, s", *names, "in turns / lag 8"), body)


def assumptions_table(rows: Mapping[str, dict[str, Any]]) -> str:
    body = [
        (
            name,
            f"{row['bound_s']:.1f}",
            _result(row, "in turns").cell(row["bound_s"]),
            _result(row, "lag 8").cell(row["bound_s"]),
            str(_result(row, "lag 8").rollout_gpus),
            f"**{_result(row, 'in turns').seconds / _result(row, 'lag 8').seconds:.1f}**",
        )
        for name, row in rows.items()
    ]
    return markdown(("assumption", "bound, s", "in turns", "lag 8", "rollout GPUs", "in turns / lag 8"), body)


def text(record: dict[str, Any]) -> str:
    """The text between the markers of docs/scaling.md."""
    used, off = record["options"], {name: round(100 * error) for name, error in record["fit_errors"].items()}
    note = (
        f"Seconds a step as multiples of the bound, mean of {used['draws']} draws of at least {used['steps']} steps "
        f"with its 95% interval. Fits of the measured costs are off by at most {off['decoding']}% (decoding) and "
        f"{off['learning']}% (learning)."
    )
    return "\n\n".join(
        [
            "A step of 2,048 rollouts, on more and more GPUs (rollout GPUs: the best split for each lag):",
            recipe_table(list(record["recipe"].values())),
            "What decides is the number of rollouts a GPU:",
            per_gpu_table(list(record["per_gpu"].values())),
            "64 GPUs, 2,048 rollouts, with one assumption changed:",
            assumptions_table(record["assumptions"]),
            note,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    record = simulate(Options(arguments.draws, arguments.steps), arguments.gpus, arguments.json)
    print(text(record))
    if arguments.write:
        replace_between_markers(PAGE, "scaling.py", text(record))


if __name__ == "__main__":
    main()
