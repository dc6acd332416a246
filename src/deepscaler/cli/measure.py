"""Commands of the panel Measure: evaluations made, compared, exchanged and graded again, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepscaler.cli.options import Overrides, ThinkingPrefilled


def evaluate(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A Hugging Face directory or hub id.")] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="competition, nine, names (aime24,math500), or mine=FILE:PROBLEM,ANSWER or .toml."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Instead of --suite: an evaluation or a training recipe.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for results.json and samples.parquet.")] = Path("runs/eval"),
    benchmarks: Annotated[Path | None, typer.Option(help="Directory of the files; else from the hub.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server's /v1.")] = None,
    served_model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Its name at --endpoint.")] = None,
    engine: Annotated[str | None, typer.Option(help="torch, or vllm where it is installed.")] = None,
    overrides: Overrides = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Completions per problem.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Completion budget in tokens.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems of each benchmark.")] = None,
    limit_seed: Annotated[int | None, typer.Option(min=0, help="With --limit: a random subset instead.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests under way at once at --endpoint.")] = None,
    api_key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Environment variable with the key.")] = None,
) -> None:
    """Pass@1, pass@k and more, with two kinds of uncertainty. Interrupted, the same command goes on."""
    from deepscaler.cli.evaluate import EvalArguments
    from deepscaler.cli.evaluate import evaluate as evaluate_by

    arguments = EvalArguments(
        model=model,
        endpoint=endpoint,
        served_model=served_model,
        suite=suite,
        recipe=recipe,
        benchmarks=benchmarks,
        out=out,
        engine=engine,
        overrides=overrides or [],
        samples=samples,
        max_tokens=max_tokens,
        limit=limit,
        limit_seed=limit_seed,
        concurrency=concurrency,
        api_key_env=api_key_env,
    )
    evaluate_by(arguments)


def regrade(
    directory: Annotated[Path, typer.Argument(metavar="EVAL", help="Directory written by eval.")],
    workers: Annotated[int, typer.Option(min=1, help="Grading processes.")] = 2,
) -> None:
    """Grade the stored completions again, without generating; says which outcomes changed."""
    from deepscaler.cli import evaluate

    evaluate.regrade(directory, workers)


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
    from deepscaler.cli import stored_evaluations

    names = (name_a, name_b)
    stored_evaluations.compare(evaluation_a, evaluation_b, published=published, common=common, out=out, names=names)


def table(
    evaluations: Annotated[list[Path], typer.Argument(metavar="EVAL...", help="Directories written by eval.")],
    names: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="Of each evaluation in order; else the model's.")
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Published scores below, apart.")] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Mark evaluations of other settings or problems instead of refusing them.")
    ] = False,
    kind: Annotated[
        Literal["terminal", "markdown", "latex", "html"], typer.Option("--as", help="What is printed.")
    ] = "terminal",
    out: Annotated[list[Path] | None, typer.Option(help="File to write: .md, .tex or .html. Repeatable.")] = None,
) -> None:
    """Many models in one table; the best is marked where the paired test tells it apart."""
    from deepscaler.cli import stored_evaluations

    stored_evaluations.table(evaluations, names=names or (), published=published, mixed=mixed, kind=kind, out=out or ())


def eval_clean(
    directory: Annotated[Path, typer.Argument(metavar="EVAL", help="Directory written by eval.")],
    contamination: Annotated[Path, typer.Argument(metavar="FILE", help="contamination.json of the training data.")],
) -> None:
    """Add the scores on the problems that are not in the training data."""
    from deepscaler.cli import stored_evaluations

    stored_evaluations.eval_clean(directory, contamination)


def eval_export(
    directory: Annotated[Path, typer.Argument(metavar="EVAL", help="Directory written by eval.")],
    kind: Annotated[Literal["lm-eval", "lighteval", "hf"], typer.Option("--as", help="Whose format.")],
    out: Annotated[Path, typer.Option(help="Directory to write below.")],
    benchmarks: Annotated[
        Path | None, typer.Option(help="Benchmark files with the problems' texts, where the evaluation kept none.")
    ] = None,
) -> None:
    """Results and completions in the formats of lm-evaluation-harness, lighteval, or the Hugging Face hub."""
    from deepscaler.cli import stored_evaluations

    stored_evaluations.eval_export(directory, kind=kind, out=out, benchmarks=benchmarks)


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
    thinking_prefilled: ThinkingPrefilled = False,
    workers: Annotated[int, typer.Option(min=1, help="Grading processes.")] = 2,
) -> None:
    """Grade completions that others saved, so that they can be compared."""
    from deepscaler.cli import stored_evaluations

    stored_evaluations.eval_import(
        file,
        benchmarks=benchmarks,
        out=out,
        benchmark=benchmark,
        columns=columns,
        thinking_prefilled=thinking_prefilled,
        workers=workers,
    )


def _known_profile(name: str) -> str:
    from deepscaler.rewards.registry import REWARDS

    if name not in REWARDS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, REWARDS))}.")
    return name


def _known_answer_rules(names: list[str] | None) -> list[str] | None:
    from deepscaler.config.answer_rules import ANSWER_RULES

    for name in names or ():
        if name not in ANSWER_RULES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, ANSWER_RULES))}.")
    return names


def grade(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Saved completions: .jsonl, .json, .csv or .parquet.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file to write: id, verdict, seconds, answer, detail.")] = None,
    response_column: Annotated[str, typer.Option(help="Holds the completion.")] = "response",
    reference_column: Annotated[
        str, typer.Option(help="Holds a string, a number, or a list of alternatives.")
    ] = "gold",
    id_column: Annotated[str | None, typer.Option(help="Else `id` where there is one, or the row's index.")] = None,
    tolerance_column: Annotated[str | None, typer.Option(help="Holds an absolute tolerance, or nothing.")] = None,
    explained: Annotated[
        str | None,
        typer.Option("--explain", metavar="TEXT", help="Explain one completion: the text, a file of it, or - (stdin)."),
    ] = None,
    references: Annotated[
        list[str] | None,
        typer.Option("--reference", metavar="ANSWER", help="With --explain. Repeatable: any may match."),
    ] = None,
    tolerance: Annotated[float | None, typer.Option(min=0, help="With --explain: an absolute tolerance.")] = None,
    profile: Annotated[
        str,
        typer.Option(callback=_known_profile, help="Mathematical equality (deepscaler), or equality of text (string)."),
    ] = "deepscaler",
    answer: Annotated[
        list[str] | None,
        typer.Option(
            callback=_known_answer_rules,
            metavar="RULE",
            help="Where answers are, as grader.answer: boxed, last_number, after_####, the answer is, answer:, "
            "<answer>. Repeatable: the first that finds one.",
        ),
    ] = None,
    thinking_prefilled: ThinkingPrefilled = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Grading processes; else one per core.")] = None,
) -> None:
    """Grade saved completions, or explain one verdict step by step (--explain)."""
    if (file is None) == (explained is None):
        raise typer.BadParameter("give either a FILE to grade or --explain TEXT")
    if explained is not None and not references:
        raise typer.BadParameter("--explain needs at least one --reference")
    if file is not None and (references or tolerance is not None):
        raise typer.BadParameter(
            "--reference and --tolerance go with --explain; a file has --reference-column and --tolerance-column"
        )
    from deepscaler import cpu
    from deepscaler.cli.grade import completion_text, explain, grade_file
    from deepscaler.cli.grade_rows import Columns

    if explained is not None:
        text = completion_text(explained)
        explain(
            text,
            references=references or (),
            tolerance=tolerance,
            profile=profile,
            answer_rules=tuple(answer or ("boxed",)),
            thinking_prefilled=thinking_prefilled,
        )
        return
    assert file is not None
    grade_file(
        file,
        out=out,
        columns=Columns(response_column, reference_column, id_column, tolerance_column),
        profile=profile,
        answer_rules=tuple(answer or ("boxed",)),
        thinking_prefilled=thinking_prefilled,
        workers=workers or cpu.available_cores(),
    )


def reward(
    function: Annotated[
        str,
        typer.Argument(metavar="FUNCTION", help="FILE.py:NAME, MODULE:NAME, a built-in, or a recipe with [reward]."),
    ],
    rows: Annotated[Path, typer.Option(help="Completions: any file that training reads, a row each.")],
    response_column: Annotated[str, typer.Option(help="Holds the completion.")] = "response",
    reference_column: Annotated[str, typer.Option(help="Holds the answer, or a list of alternatives.")] = "gold",
    prompt_column: Annotated[str, typer.Option(help="Holds the problem; rows of one problem are a group.")] = "problem",
    arguments: Annotated[
        list[str] | None, typer.Option("--argument", metavar="NAME=VALUE", help="Given to the function. Repeatable.")
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Let the function open connections.")] = False,
    thinking_prefilled: ThinkingPrefilled = False,
    out: Annotated[Path | None, typer.Option(help="JSONL file to write: every row's reward and parts.")] = None,
) -> None:
    """Try a reward function on saved completions: values, times and tracebacks before a run."""
    from deepscaler.cli.reward import TrialColumns, try_reward

    try_reward(
        function,
        rows,
        columns=TrialColumns(response_column, reference_column, prompt_column),
        arguments=arguments or (),
        network=network,
        thinking_prefilled=thinking_prefilled,
        out=out,
    )


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; else report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML file about one or several runs."""
    from deepscaler.cli import stored_evaluations

    stored_evaluations.report(runs, out=out)


COMMANDS = {
    "eval": evaluate,
    "regrade": regrade,
    "compare": compare,
    "table": table,
    "eval-clean": eval_clean,
    "eval-export": eval_export,
    "eval-import": eval_import,
    "grade": grade,
    "reward": reward,
    "report": report,
}
