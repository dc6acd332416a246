"""`deepscaler data prepare`: hands the preparation its files, the grader and a tokenizer, and shows what it did."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepscaler.config import load_recipe
from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.load import BENCHMARKS, LoadedBenchmark, is_in, load_benchmark
from deepscaler.data.prepare.files import write_preparation
from deepscaler.data.prepare.preparation import Preparation, Settings, Tools, prepare
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.sources.layouts import Columns, Layout
from deepscaler.data.sources.readers import DataError
from deepscaler.data.sources.references import value_in
from deepscaler.evaluation.held_out import same_answer
from deepscaler.observability.counts import counted
from deepscaler.observability.terminal import control
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome, Problem

WIDTH = 80
BAR = 30  # characters of the longest bar


def prepare_command(
    recipe: Path | None,
    *,
    inputs: Sequence[str],
    benchmarks: Path | None,
    without_benchmarks: bool,
    out: Path,
    columns: tuple[str | None, str | None],
    tokenizer: str | None,
    max_prompt_tokens: int | None,
    validation_frac: float | None,
    seed: int | None,
    layout: Layout,
    overwrite: bool,
    overrides: list[str],
) -> None:
    """Flags win over the recipe's settings. Raises ValueError for what cannot be done, before anything is written."""
    _check_out(out, overwrite)
    if recipe is None and not inputs:
        raise ValueError("nothing to prepare: name a RECIPE, or files with --input FILE")
    if recipe is None and overrides:
        raise ValueError("--set changes a recipe's settings, and no RECIPE was named")
    chosen = None if recipe is None else load_recipe(recipe, overrides)
    data = chosen.data if chosen else None
    sources = list(inputs) or list(data.raw_sources or (data.source,)) if data else list(inputs)
    if sources in (["synthetic"], ["mix"]):
        raise ValueError(
            f"{recipe}: data.source = {sources[0]!r} is no file to prepare; name files with --input FILE or "
            "data.raw_sources"
        )
    directory = benchmarks or (Path(data.benchmarks) if data and data.benchmarks else None)
    problem, answer = columns
    settings = Settings(
        columns=Columns(
            problem or (data.prompt_field if data else "problem"),
            answer or (data.answer_field if data else "answer"),
            data.instruction if data else "",
        ),
        max_prompt_tokens=max_prompt_tokens or (data.max_prompt_tokens if data else None),
        validation_frac=validation_frac if validation_frac is not None else (data.validation_frac if data else 0.0),
        seed=seed if seed is not None else (chosen.seed if chosen else 1),
    )
    model = tokenizer or (chosen.model.path if chosen else None)
    if max_prompt_tokens is not None and model is None:
        raise ValueError(
            "--max-prompt-tokens needs a tokenizer to count with: --tokenizer DIR, or a recipe's model.path"
        )
    loaded = _load_benchmarks(directory, without_benchmarks)
    progress = _Progress()
    revision = chosen.model.revision if chosen and not tokenizer else None
    asked = PromptFormat.of(data, data.instruction) if data else PromptFormat()
    count = None if model is None else _prompt_tokens(model, revision, asked, progress)
    done = prepare(sources, loaded, settings, Tools(same_answer, readable, count, progress))
    for benchmark in loaded:
        done.warnings += [w for w in benchmark.warnings if not benchmark.registered]
    recorded = {"sources": sources, "tokenizer": model, "recipe": str(recipe) if recipe else None}
    progress("write", 0, 1)
    manifest = write_preparation(done, loaded, settings, out, layout=layout, recorded=recorded)
    progress("write", 1, 1)
    _show(done, manifest, out)
    if recipe and data and Path(data.source) != out / "train.parquet":
        print(f"to train on it: deepscaler train {recipe} --set data.source={out / 'train.parquet'} --run-dir DIR")


def readable(reference: str) -> bool:
    """Whether the value that a person would box for a reference is graded correct against it."""
    boxed = f"\\boxed{{{value_in(reference)}}}"
    return grade(GradeItem(boxed, [reference], thinking_prefilled=False)).outcome is Outcome.CORRECT


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists; give another --out, or --overwrite to replace it once everything is ready")
    if not (out / "manifest.json").is_file():
        raise ValueError(f"{out} is no directory that `deepscaler data prepare` wrote, so --overwrite leaves it alone")


def _load_benchmarks(directory: Path | None, without: bool) -> list[LoadedBenchmark]:
    """The benchmarks of `competition`, and the other registered ones that are there.

    One of the former that is missing would go unnoticed among thousands of rows.
    """
    if without:
        return []
    if directory is None:
        files = ", ".join(BENCHMARKS[name].file for name in COMPETITION)
        raise ValueError(
            f"no benchmarks to keep out of training: name their directory with --benchmarks DIR or data.benchmarks "
            f"(it holds {files}), or say --without-benchmarks"
        )
    names = [name for name in BENCHMARKS if name in COMPETITION or is_in(BENCHMARKS[name], directory)]
    return [load_benchmark(name, directory, allow_changed=True) for name in names]


def _prompt_tokens(
    model: str, revision: str | None, prompt_format: PromptFormat, progress: Callable[[str, int, int], None]
) -> Callable[[Sequence[Problem]], list[int]]:
    """Counts a prompt as training will: the question in the tokenizer's chat template."""
    from huggingface_hub.constants import ENDPOINT
    from transformers import AutoTokenizer

    from deepscaler.data.sources.hub import reachable
    from deepscaler.data.templates import encode_problem

    # Without a network a copy from the hub's cache does as well, and its client would retry for a minute.
    offline = not Path(model).exists() and not reachable(ENDPOINT)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, local_files_only=offline)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no tokenizer at {model} ({str(error).splitlines()[0]}); give a directory that holds one with "
            "--tokenizer DIR; training drops overlong prompts at load as well"
        ) from error

    def count(problems: Sequence[Problem]) -> list[int]:
        lengths = []
        for number, problem in enumerate(problems):
            if number % 200 == 0:
                progress("prompt length", number, len(problems))
            lengths.append(len(encode_problem(tokenizer, problem, prompt_format)))
        progress("prompt length", len(problems), len(problems))
        return lengths

    return count


class _Progress:
    """A line per step on stderr: rewritten in place on a terminal, at the step's end otherwise."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._shown_at = 0.0

    def __call__(self, step: str, done: int, of: int) -> None:
        now = time.monotonic()
        started = self._started.setdefault(step, now)
        last = done >= of
        live = sys.stderr.isatty()
        if not last and (not live or now - self._shown_at < 0.2):
            return
        self._shown_at = now
        line = f"{step:14} {done:>9,} of {of:>9,}  {now - started:6.1f} s"
        if live:
            control(sys.stderr, "\r")
        print(line[:WIDTH], end="\n" if last else "", file=sys.stderr, flush=True)


def _show(done: Preparation, manifest: dict[str, Any], out: Path) -> None:
    print(f"{'step':16}{'in':>9}{'out':>9}  dropped")
    for step in done.steps:
        reasons = [f"{reason} {count:,}" for reason, count in step.reasons.items()]
        lines = _wrapped(reasons, WIDTH - 36) or [""]
        print(f"{step.name:16}{step.rows_in:>9,}{step.rows_out:>9,}  {lines[0]}".rstrip())
        for line in lines[1:]:
            print(f"{'':36}{line}")
    for benchmark in manifest["benchmarks"]:
        found = {f.problem.id for f in done.findings if f.contaminates and f.benchmark == benchmark["name"]}
        print(
            f"{benchmark['name']:16}{len(found):>4} of {counted(benchmark['problems'], 'problem'):>13} stood in the "
            "training rows"
        )
    if done.conflicts:
        print(f"problems with conflicting answers, all rows of which were dropped: {len(done.conflicts)}")
    for warning in done.warnings[:5]:
        print(f"warning: {warning}")
    if len(done.warnings) > 5:
        print(f"{counted(len(done.warnings) - 5, 'more warning')} in manifest.json")
    _show_difficulties(manifest["difficulty"])
    rows = manifest["rows"]
    print(f"rows to train on {rows['train']:,}, to validate on {rows['validation']:,}")
    print(f"written to {out}; matched pairs side by side in {out / 'contamination.html'}")


def _show_difficulties(counts: Mapping[str, int]) -> None:
    """A bar for each difficulty; nothing where all rows have the same, or none."""
    if len(counts) < 2:
        return
    print("difficulty of the rows to train on")
    longest = max(counts.values())
    for name, count in counts.items():
        print(f"{name:>16}{count:>9,}  {'#' * -(-BAR * count // longest)}")


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines
