"""What the commands that compute do. Imported by cli.main when one of them is called."""

from __future__ import annotations

import signal
from pathlib import Path

from deepscaler import cpu
from deepscaler.config import Recipe, load_recipe
from deepscaler.orchestration.progress import Progress


def quickstart(recipe: Path, *, seed: int | None, run_dir: Path, overrides: list[str]) -> int:
    from deepscaler.orchestration.quickstart import quickstart as run_quickstart
    from deepscaler.report import write_report

    chosen = load_recipe(recipe, overrides if seed is None else [*overrides, f"seed={seed}"])
    progress = _prepare(chosen)
    summary = run_quickstart(chosen, run_dir, progress)
    report_file = Path(summary["report"])
    write_report([report_file.parent], report_file)
    _print_summary(summary)
    print(f"model   {summary['model']}\nreport  {report_file}\nfigures {run_dir / 'summary.json'}")
    print(f"wall time {summary['wall_s']:.0f} s")
    return 0


def sft(recipe: Path, *, out: Path | None, overrides: list[str]) -> int:
    from deepscaler.orchestration.base_model import ensure_base

    chosen = load_recipe(recipe, overrides)
    if chosen.sft is None:
        raise ValueError(f"{recipe} has no [sft] section, so there is no base model to make")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists; give a directory that does not, or remove it")
    print(ensure_base(chosen, _prepare(chosen), out)[0])
    return 0


def train(recipe: Path, *, run_dir: Path, overrides: list[str]) -> int:
    from deepscaler.orchestration.base_model import ensure_base
    from deepscaler.orchestration.build import check_same_recipe, open_run
    from deepscaler.orchestration.loop import train as run_loop

    chosen = load_recipe(recipe, overrides)
    check_same_recipe(chosen, run_dir)
    progress = _prepare(chosen)
    base, _, _ = ensure_base(chosen, progress)
    with open_run(chosen, base, run_dir, progress) as run:
        step = run_loop(run)
        interrupted = run.stop.signal_number
    if interrupted is not None and step < chosen.num_steps:
        print(f"stopped after step {step}; the same command continues: deepscaler train {recipe} --run-dir {run_dir}")
        return 128 + interrupted
    print(f"finished after step {step}: {run_dir / 'checkpoints' / f'step-{step:06d}'}")
    return 0


def evaluate(
    model_dir: Path,
    *,
    recipe: Path,
    out: Path,
    overrides: list[str],
    samples: int | None,
    max_tokens: int | None,
    limit: int | None,
) -> int:
    from deepscaler.evaluation.tables import print_evaluation
    from deepscaler.orchestration.quickstart import evaluate_directory

    extra = [] if samples is None else [f"evaluation.num_samples={samples}"]
    extra += [] if max_tokens is None else [f"evaluation.max_completion_tokens={max_tokens}"]
    chosen = load_recipe(recipe, [*overrides, *extra])
    progress = _prepare(chosen)
    result = evaluate_directory(model_dir, chosen, out, progress, limit=limit)
    print_evaluation({name: r.estimate for name, r in result.sets.items()}, result.average)
    print(f"written to {out / 'results.json'}")
    return 0


def compare(evaluation_a: Path, evaluation_b: Path) -> int:
    from deepscaler.evaluation.compare import compare_directories
    from deepscaler.evaluation.tables import print_comparison

    print_comparison(*compare_directories(evaluation_a, evaluation_b))
    return 0


def report(runs: list[Path], *, out: Path | None) -> int:
    from deepscaler.report import write_report

    print(write_report(runs, out or runs[0] / "report.html"))
    return 0


def _prepare(recipe: Recipe) -> Progress:
    """Threads, allocator and progress for a computing command."""
    cpu.prepare(threads=1 if not _cuda() else cpu.available_cores())
    # SIGTERM behaves like Ctrl-C where the training loop does not take over (evaluation, sft).
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return Progress()


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _print_summary(summary: dict) -> None:
    from deepscaler.evaluation.tables import print_summary

    print_summary(summary)
