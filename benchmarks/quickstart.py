"""Put the figures of finished quickstart runs into docs/quickstart.md, and the figure of the first into docs/images.

    python benchmarks/quickstart.py runs/quickstart/seed-1 runs/quickstart/seed-2 runs/quickstart/seed-3

Everything written between the markers comes from the runs' summary.json, metrics.jsonl and run.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from markers import replace_between_markers

from deepscaler.evaluation.markdown import markdown
from deepscaler.evaluation.tables import SUMMARY_COLUMNS, percent, summary_rows, with_interval
from deepscaler.observability.run_directory import read_metrics
from deepscaler.report.figure import write_figure

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "quickstart.py"
Summary = dict[str, Any]


def main(directories: list[Path]) -> None:
    summaries = [json.loads((d / "summary.json").read_text()) for d in directories]
    text = "\n\n".join(
        [
            machine(directories[0]),
            "## Three seeds\n" + seeds_table(summaries),
            "## Dynamics\n" + dynamics_table(directories, summaries),
            *(f"## Seed {s['seed']}, per set\n" + markdown(SUMMARY_COLUMNS, summary_rows(s)) for s in summaries),
        ]
    )
    replace_between_markers(ROOT / "docs" / "quickstart.md", SCRIPT, text)
    first = summaries[0]
    replace_between_markers(
        ROOT / "README.md", SCRIPT, markdown(SUMMARY_COLUMNS[:-1], [row[:-1] for row in summary_rows(first)])
    )
    print(write_figure(directories[0], ROOT / "docs" / "images" / "quickstart.svg"))


def machine(directory: Path) -> str:
    info = json.loads((directory / "run.json").read_text())
    hardware, versions = info["hardware"], info["versions"]
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Machine: {json.dumps(hardware)}. Versions: {names}."


def seeds_table(summaries: list[Summary]) -> str:
    columns = ("seed", "base", "trained", "difference, paired", "wall", "base made in", "sampling", "training")
    rows = [
        (
            str(s["seed"]),
            _side(s["base"]),
            _side(s["trained"]),
            with_interval(s["difference"]["mean"], s["difference"]["low"], s["difference"]["high"], signed=True),
            f"{s['wall_s']:.0f} s",
            f"{s['sft_s']:.0f} s",
            f"{s['sampling_tokens_per_s']:,.0f} tok/s",
            f"{s['training_tokens_per_s']:,.0f} tok/s",
        )
        for s in summaries
    ]
    return markdown(columns, rows)


def dynamics_table(directories: list[Path], summaries: list[Summary]) -> str:
    columns = ("seed", "stage", "steps", "truncated, %", "lowest", "length", "reward", "wrong / right length", "Pass@1")
    rows = []
    for directory, summary in zip(directories, summaries, strict=True):
        before = f"base {percent(validation(directory)[0])}"
        for stage in summary["stages"]:
            wrong, right = stage["length_wrong_mean_start"], stage["length_correct_mean_start"]
            after = percent(stage["pass@1_end"])
            rows.append(
                (
                    str(summary["seed"]),
                    stage["name"],
                    str(stage["steps"]),
                    f"{percent(stage['truncated_frac_start'])} → {percent(stage['truncated_frac_end'])}",
                    percent(stage["truncated_frac_lowest"]),
                    f"{stage['length_mean_start']:.0f} → {stage['length_mean_end']:.0f}",
                    f"{stage['reward_mean_start']:.2f} → {stage['reward_mean_end']:.2f}",
                    f"{wrong:.0f} / {right:.0f}",
                    f"{before} → {after}" if before else f"→ {after}",
                )
            )
            before = ""
    return markdown(columns, rows)


def validation(directory: Path) -> list[float]:
    rows = read_metrics(directory / "metrics.jsonl")
    return [row["pass@1"] for row in rows if row["kind"] == "evaluation"]


def _side(side: Summary) -> str:
    return with_interval(side["pass@1"], side["low"], side["high"])


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
