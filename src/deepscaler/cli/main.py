"""The command line. Thin: every command imports what it needs inside, so that --help answers at once.

A mistake of the user's (ValueError, OSError, a missing optional package) and a run that ended for a stated reason
(RunError) become one message on stderr; the
traceback is shown with DEEPSCALER_DEBUG=1. Exit codes: 0 done, 1 failed, 2 wrong usage or recipe,
130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deepscaler.cli.flags import show_flags_plainly
from deepscaler.cli.stored import add_commands as add_stored_commands

app = typer.Typer(
    name="deepscaler",
    help="Turn a base language model into a better reasoner, and know that it got better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(help="Look at data sets and prepare them.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel="Data")

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file, see docs/recipes.md.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. rollout.group_size=16. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command(rich_help_panel="Run")
def quickstart(
    recipe: RecipeArgument = Path("recipes/quickstart.toml"),
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the recipe's seed.")] = None,
    run_dir: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/quickstart"),
    overrides: Overrides = None,
) -> None:
    """Base model, training, evaluation and report in one go, on a laptop."""
    from deepscaler.cli import run_commands

    _exit(run_commands.quickstart(recipe, seed=seed, run_dir=run_dir, overrides=overrides or []))


@app.command(rich_help_panel="Run")
def sft(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="Model directory to write; else below sft.output.")] = None,
    overrides: Overrides = None,
) -> None:
    """Make the base model that a recipe's sft section describes, from synthetic worked solutions."""
    from deepscaler.cli import run_commands

    _exit(run_commands.sft(recipe, out=out, overrides=overrides or []))


@app.command(rich_help_panel="Run")
def train(
    recipe: RecipeArgument,
    run_dir: Annotated[Path, typer.Option(help="New, or a run to go on with.")],
    overrides: Overrides = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN[@STEP]", help="Begin a new --run-dir with a checkpoint of another run."),
    ] = None,
    keep_optimizer: Annotated[
        bool, typer.Option("--keep-optimizer", help="With --from: keep the optimizer's state too.")
    ] = False,
) -> None:
    """Train by reinforcement learning; goes on by itself where the run directory left off."""
    if keep_optimizer and origin is None:
        raise typer.BadParameter("--keep-optimizer goes with --from RUN")
    from deepscaler.cli import run_commands

    _exit(
        run_commands.train(
            recipe, run_dir=run_dir, overrides=overrides or [], origin=origin, keep_optimizer=keep_optimizer
        )
    )


@app.command("eval", rich_help_panel="Measure")
def evaluate(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A Hugging Face directory or hub id.")] = None,
    suite: Annotated[str | None, typer.Option(help="competition, or benchmarks by name: aime24,math500.")] = None,
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
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests under way at once at --endpoint.")] = None,
    api_key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Environment variable with the key.")] = None,
) -> None:
    """Pass@1, pass@k and more, with two kinds of uncertainty. Interrupted, the same command goes on."""
    from deepscaler.cli import eval_commands

    arguments = eval_commands.EvalArguments(
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
        concurrency=concurrency,
        api_key_env=api_key_env,
    )
    _exit(eval_commands.evaluate(arguments))


@app.command(rich_help_panel="Measure")
def regrade(
    directory: Annotated[Path, typer.Argument(metavar="EVAL", help="Directory written by eval.")],
    workers: Annotated[int, typer.Option(min=1, help="Grading processes.")] = 2,
) -> None:
    """Grade the stored completions again, without generating; says which outcomes changed."""
    from deepscaler.cli import eval_commands

    _exit(eval_commands.regrade(directory, workers))


@app.command(rich_help_panel="Run")
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face directory or hub id.")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Any but loopback needs a key in the environment.")] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="What clients call the model; else the directory's name.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or auto.")] = "auto",
    max_active: Annotated[int, typer.Option(min=1, help="Completions decoded at once.")] = 64,
    max_queued: Annotated[int, typer.Option(min=1, help="Completions under way or waiting; more get HTTP 429.")] = 1024,
    context: Annotated[int, typer.Option(min=0, help="Tokens of prompt and completion; 0 = the model's.")] = 0,
    token_env: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "DEEPSCALER_API_KEY",
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends every completion. Repeatable.")
    ] = None,
    stop_token_ids: Annotated[
        list[int] | None,
        typer.Option("--stop-token-id", min=0, help="Ends every completion, beside the model's own. Repeatable."),
    ] = None,
) -> None:
    """Serve a model through an OpenAI-compatible API."""
    from deepscaler.cli import eval_commands

    settings = {"host": host, "port": port, "name": name, "dtype": dtype, "context": context, "token_env": token_env}
    settings |= {"stop": tuple(stop or ()), "stop_token_ids": tuple(stop_token_ids or ())}
    _exit(eval_commands.serve(model, max_active=max_active, max_queued=max_queued, **settings))


add_stored_commands(app)


def _known_profile(name: str) -> str:
    from deepscaler.rewards.registry import REWARDS

    if name not in REWARDS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, REWARDS))}.")
    return name


@app.command(rich_help_panel="Measure")
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
    thinking_prefilled: Annotated[
        bool, typer.Option("--thinking-prefilled", help="The prompt already opened <think>.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Grading processes; else one per core.")] = None,
) -> None:
    """Grade saved completions, or explain one verdict step by step (--explain)."""
    if (file is None) == (explained is None):
        raise typer.BadParameter("give either a FILE to grade or --explain TEXT")
    from deepscaler import cpu
    from deepscaler.cli import grade_commands
    from deepscaler.cli.grade_rows import Columns

    if explained is not None:
        if not references:
            raise typer.BadParameter("--explain needs at least one --reference")
        text = _text(explained)
        _exit(
            grade_commands.explain(
                text,
                references=references,
                profile=profile,
                thinking_prefilled=thinking_prefilled,
                tolerance=tolerance,
            )
        )
        return
    assert file is not None
    if references or tolerance is not None:
        raise typer.BadParameter(
            "--reference and --tolerance go with --explain; a file has --reference-column and --tolerance-column"
        )
    columns = Columns(response_column, reference_column, id_column, tolerance_column)
    _exit(
        grade_commands.grade_file(
            file,
            out=out,
            columns=columns,
            profile=profile,
            thinking_prefilled=thinking_prefilled,
            workers=workers or cpu.available_cores(),
        )
    )


@app.command(rich_help_panel="Measure")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; else report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML file about one or several runs."""
    from deepscaler.cli import run_commands

    _exit(run_commands.report(runs, out=out))


@app.command(rich_help_panel="Understand")
def explain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(min=1, help="Show numbers per rank for so many ranks.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Every setting of a recipe with unit and origin, and every size derived from it."""
    from deepscaler.cli.explain import show_recipe

    show_recipe(recipe, overrides or [], world_size=world_size, as_json=as_json)


@app.command(rich_help_panel="Understand")
def presets(as_json: AsJson = False) -> None:
    """The named algorithms, their values and sources."""
    from deepscaler.cli.explain import show_presets

    show_presets(as_json=as_json)


@app.command(rich_help_panel="Understand")
def doctor(as_json: AsJson = False) -> None:
    """Versions, cores, memory, disk and GPU of this machine, and what is missing for which extra."""
    from deepscaler.cli.doctor import show

    show(as_json=as_json)


@data_app.command("prepare")
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
    from deepscaler.cli.data_commands import prepare_command

    if layout not in ("plain", "verl", "trl"):
        raise typer.BadParameter(f"{layout!r} is not plain, verl or trl", param_hint="--as")
    _exit(
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
    )


@data_app.command("lint-benchmarks")
def lint_benchmarks(
    benchmarks: Annotated[Path, typer.Option(help="Directory of the five benchmark files.")],
    out: Annotated[Path, typer.Option(help="Directory for benchmarks-lint.md and benchmarks-lint.json.")],
) -> None:
    """What is odd in the benchmarks: references against their own solutions, duplicates, units, several answers."""
    from deepscaler.cli import benchmark_commands

    _exit(benchmark_commands.lint_benchmarks(benchmarks, out=out))


show_flags_plainly(app, data_app)


def _exit(code: int | None) -> None:
    if code:
        raise typer.Exit(code)


def _text(argument: str) -> str:
    """The completion itself, or the content of standard input (`-`) or of the file it names."""
    if argument == "-":
        return sys.stdin.read()
    # A completion may be longer than any path and hold characters no path can: never ask the file system
    # about it.
    if "\n" not in argument and len(argument) < 1000 and "\0" not in argument and Path(argument).is_file():
        return Path(argument).read_text(encoding="utf-8")
    return argument


def main() -> None:
    """Entry point of the `deepscaler` command."""
    from deepscaler.observability import terminal

    terminal.install()
    try:
        app()
    except KeyboardInterrupt:  # outside a command; inside one the command line turns it into 130 itself
        sys.exit(130)
    except Exception as error:
        if os.environ.get("DEEPSCALER_DEBUG") == "1" or not _explains_itself(error):
            raise
        print(f"deepscaler: error: {_one_message(error)}", file=sys.stderr)
        sys.exit(2 if type(error).__name__ == "RecipeError" else 1)


def _explains_itself(error: Exception) -> bool:
    """Whether the message is written for the user; anything else is a fault of ours and keeps its traceback."""
    from deepscaler.types import RunError

    return isinstance(error, (ValueError, OSError, ModuleNotFoundError, RunError))


def _one_message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed; `deepscaler doctor` says which extra brings it"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or f"{type(error).__name__} without a message; DEEPSCALER_DEBUG=1 shows where"


if __name__ == "__main__":
    main()
