"""Commands on evaluations that are stored already. Thin, as cli.main: the work is done in compare_commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def add_commands(app: typer.Typer) -> None:
    for name, function in (
        ("compare", compare),
        ("eval-clean", eval_clean),
        ("eval-export", eval_export),
        ("eval-import", eval_import),
    ):
        app.command(name, rich_help_panel="Measure")(function)


def compare(
    evaluation_a: Annotated[Path, typer.Argument(metavar="EVAL_A", help="Directory written by eval.")],
    evaluation_b: Annotated[Path, typer.Argument(metavar="EVAL_B", help="Directory written by eval.")],
    published: Annotated[bool, typer.Option("--published", help="Show published scores beside.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Compare what both hold, say what was left out.")] = False,
    name_a: Annotated[str, typer.Option(metavar="NAME", help="What A is called; else by model and path.")] = "",
    name_b: Annotated[str, typer.Option(metavar="NAME", help="What B is called; else by model and path.")] = "",
    out: Annotated[Path | None, typer.Option(help="Directory for Markdown, JSON, CSV and HTML.")] = None,
) -> None:
    """Difference B - A, paired by problem, per benchmark and on average."""
    from deepscaler.cli import compare_commands

    names = (name_a, name_b)
    compare_commands.compare(evaluation_a, evaluation_b, published=published, common=common, out=out, names=names)


def eval_clean(
    directory: Annotated[Path, typer.Argument(metavar="EVAL", help="Directory written by eval.")],
    contamination: Annotated[Path, typer.Argument(metavar="FILE", help="contamination.json of the training data.")],
) -> None:
    """Add the scores on the problems that are not in the training data."""
    from deepscaler.cli import compare_commands

    compare_commands.eval_clean(directory, contamination)


def eval_export(
    directory: Annotated[Path, typer.Argument(metavar="EVAL", help="Directory written by eval.")],
    kind: Annotated[Literal["lm-eval", "lighteval", "hf"], typer.Option("--as", help="Whose format.")],
    out: Annotated[Path, typer.Option(help="Directory to write below.")],
    benchmarks: Annotated[
        Path | None, typer.Option(help="Benchmark files with the problems' texts, where the evaluation kept none.")
    ] = None,
) -> None:
    """Results and completions in the formats of lm-evaluation-harness, lighteval, or the Hugging Face hub."""
    from deepscaler.cli import compare_commands

    compare_commands.eval_export(directory, kind=kind, out=out, benchmarks=benchmarks)


def eval_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Completions saved by others: .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="Directory for results.json and samples.parquet.")],
    columns: Annotated[
        list[str],
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="completion, problem (id, row or text); benchmark, sample_index, num_tokens, finish_reason, seed.",
        ),
    ],
    benchmarks: Annotated[Path | None, typer.Option(help="Directory of the files; else from the hub.")] = None,
    benchmark: Annotated[str | None, typer.Option(metavar="NAME", help="Of every row, else --map benchmark=.")] = None,
    thinking_prefilled: Annotated[
        bool, typer.Option("--thinking-prefilled", help="The prompt already opened <think>.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Grading processes.")] = 2,
) -> None:
    """Grade completions that others saved, so that they can be compared."""
    from deepscaler.cli import compare_commands

    compare_commands.eval_import(
        file,
        benchmarks=benchmarks,
        out=out,
        benchmark=benchmark,
        columns=columns,
        thinking_prefilled=thinking_prefilled,
        workers=workers,
    )
