"""What the commands that compute do. Imported by cli.main when one of them is called."""

from __future__ import annotations

import gc
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepscaler import cpu
from deepscaler.config import load_recipe
from deepscaler.loop.directory_check import check_directory
from deepscaler.loop.origin import parse_origin
from deepscaler.loop.progress import Progress


def quickstart(recipe: Path, *, seed: int | None, run_dir: Path, overrides: list[str]) -> int:
    chosen = load_recipe(recipe, overrides if seed is None else [*overrides, f"seed={seed}"])
    with loading(f"loading PyTorch for the quickstart by {recipe}"):
        from deepscaler.toy.quickstart import quickstart as run_quickstart
    from deepscaler.report import write_report

    progress = prepare_for_training()
    summary = run_quickstart(chosen, run_dir, progress)
    report_file = Path(summary["report"])
    write_report([report_file.parent], report_file)
    _print_summary(summary)
    print(f"model   {summary['model']}\nreport  {report_file}\nfigures {run_dir / 'summary.json'}")
    print(f"wall time {summary['wall_s']:.0f} s")
    return 0


def sft(recipe: Path, *, out: Path | None, overrides: list[str]) -> int:
    chosen = load_recipe(recipe, overrides)
    if chosen.sft is None:
        raise ValueError(f"{recipe} has no [sft] section, so there is no base model to make")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists; give a directory that does not, or remove it")
    with loading(f"loading PyTorch to make the base model of {recipe}"):
        from deepscaler.toy.base_model import ensure_base

    print(ensure_base(chosen, prepare_for_training(), out)[0])
    return 0


def train(
    recipe: Path,
    *,
    run_dir: Path,
    overrides: list[str],
    origin: str | None = None,
    keep_optimizer: bool = False,
) -> int:
    chosen = load_recipe(recipe, overrides)
    check_directory(chosen, run_dir)
    begin = None if origin is None else parse_origin(origin, keep_optimizer=keep_optimizer)
    with loading(f"loading PyTorch to train by {recipe} in {run_dir}"):
        from deepscaler.loop.build import open_run
        from deepscaler.loop.loop import train as run_loop
        from deepscaler.toy.base_model import ensure_base

    progress = prepare_for_training()
    base, _, _ = ensure_base(chosen, progress)
    with open_run(chosen, base, run_dir, progress, begin) as run:
        step = run_loop(run)
        interrupted = run.stop.signal_number
    if interrupted is not None and step < chosen.num_steps:
        again = train_command(
            recipe, run_dir=run_dir, overrides=overrides, origin=origin, keep_optimizer=keep_optimizer
        )
        print(f"stopped after step {step}; the same command continues: {again}")
        return 128 + interrupted
    print(f"finished after step {step}: {run_dir / 'checkpoints' / f'step-{step:06d}'}")
    return 0


def train_command(
    recipe: Path, *, run_dir: Path, overrides: list[str], origin: str | None = None, keep_optimizer: bool = False
) -> str:
    """The command as it was given, ready to be pasted into a shell."""
    settings = [part for override in overrides for part in ("--set", override)]
    begin = [] if origin is None else ["--from", origin]
    keep = ["--keep-optimizer"] if keep_optimizer else []
    return shlex.join(["deepscaler", "train", str(recipe), "--run-dir", str(run_dir), *settings, *begin, *keep])


def report(runs: list[Path], *, out: Path | None) -> int:
    from deepscaler.report import write_report

    compared = {run: found for run in runs if (found := _validation_compared(run)) is not None}
    print(write_report(runs, out or runs[0] / "report.html", compared))
    return 0


def _validation_compared(run: Path) -> dict[str, object] | None:
    """The first and the last evaluation inside training, paired by problem; None where there are no two to pair."""
    from deepscaler.evaluation.compare import compare_directories
    from deepscaler.evaluation.comparison_files import comparison_json

    whole = sorted(file.parent for file in (run / "evaluations").glob("step-*/results.json"))
    made = [path for path in whole if path.name.removeprefix("step-").isdigit()]
    if len(made) < 2:
        return None
    try:
        comparison = compare_directories(made[0], made[-1], common=True)
    except ValueError as error:
        print(f"note: {error}; the report has no difference between them", file=sys.stderr)
        return None
    return {
        **comparison_json(comparison),
        "steps": [int(path.name.removeprefix("step-")) for path in (made[0], made[-1])],
    }


@contextmanager
def loading(line: str = "") -> Iterator[None]:
    """Around the imports of a computing command, which take seconds: says so first, in a line on the screen.

    Garbage collection, a quarter of their time, is off for them.
    The imports make 700,000 objects that stay to the end. It would go through them again and again, now and in
    the run; what the first imports made is left out of that for good.
    """
    if line:
        print(line, flush=True)
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def prepare() -> Progress:
    """Threads, allocator and progress for a computing command."""
    cpu.prepare(threads=1 if not _cuda() else cpu.available_cores())
    # SIGTERM behaves like Ctrl-C where the training loop does not take over (evaluation, sft).
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return Progress()


def prepare_for_training() -> Progress:
    """`prepare`, and the kernels that training needs on CPU."""
    progress = prepare()
    if not _cuda():
        cpu.compile_kernels(progress.message)
    return progress


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _print_summary(summary: dict) -> None:
    from deepscaler.evaluation.tables import print_summary

    print_summary(summary)
