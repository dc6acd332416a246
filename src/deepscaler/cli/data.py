"""Commands of the panel Data: `deepscaler data prepare`, `data score` and `data lint-benchmarks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepscaler.cli.options import Overrides


def prepare_data(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Its data section says what to read.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="FILE", help="File, directory or hub dataset (NAME@COMMIT). Repeatable."),
    ] = None,
    benchmarks: Annotated[Path | None, typer.Option(help="Directory of the benchmark files to keep out.")] = None,
    without_benchmarks: Annotated[bool, typer.Option("--without-benchmarks", help="Do not look for any.")] = False,
    out: Annotated[Path, typer.Option(help="Directory to write.")] = Path("data/prepared"),
    problem_column: Annotated[str | None, typer.Option(help="Column of the problem.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column of the answer or answers.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Directory of the tokenizer that measures prompts.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Longer prompts are dropped.")] = None,
    validation_frac: Annotated[float | None, typer.Option(min=0, max=0.99, help="Share kept out of training.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the split and of MinHash.")] = None,
    layout: Annotated[str, typer.Option("--as", metavar="plain|verl|trl", help="Layout of train.parquet.")] = "plain",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier preparation.")] = False,
    overrides: Overrides = None,
) -> None:
    """Clean, deduplicate and decontaminate problems; says where every row went."""
    from deepscaler.cli.prepare import prepare_command

    if layout not in ("plain", "verl", "trl"):
        raise typer.BadParameter(f"{layout!r} is not plain, verl or trl", param_hint="--as")
    prepare_command(
        recipe,
        inputs=inputs or [],
        benchmarks=benchmarks,
        without_benchmarks=without_benchmarks,
        out=out,
        columns=(problem_column, answer_column),
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        validation_frac=validation_frac,
        seed=seed,
        layout=layout,
        overwrite=overwrite,
        overrides=overrides or [],
    )


def score_data(
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, directory or hub dataset (NAME@COMMIT).")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face directory or hub id.")],
    samples: Annotated[int, typer.Option(min=1, help="Completions per problem.")] = 8,
    to: Annotated[
        Path | None, typer.Option(help="File to write: .jsonl, .json or .parquet; else scored.jsonl.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Completion budget in tokens.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A training recipe, whose prompts and columns are used.")] = None,
    problem_column: Annotated[str | None, typer.Option(help="Column of the problem.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column of the answer or answers.")] = None,
    overrides: Overrides = None,
) -> None:
    """Pass rate of every problem under a model, as columns. Interrupted, the same command goes on."""
    from deepscaler.cli.score import score_command

    score_command(
        data,
        model,
        samples=samples,
        to=to or Path("scored.jsonl"),
        max_tokens=max_tokens,
        recipe=recipe,
        columns=(problem_column, answer_column),
        overrides=overrides or [],
    )


def lint_benchmarks(
    benchmarks: Annotated[Path, typer.Option(help="Directory of the five benchmark files.")],
    out: Annotated[Path, typer.Option(help="Directory for benchmarks-lint.md and benchmarks-lint.json.")],
) -> None:
    """What is odd in the benchmarks: references against their own solutions, duplicates, units, several answers."""
    from deepscaler.cli import lint

    lint.lint_benchmarks(benchmarks, out=out)


COMMANDS = {"prepare": prepare_data, "score": score_data, "lint-benchmarks": lint_benchmarks}
