"""What `eval` and `regrade` do: a benchmark suite or a training recipe's held-out sets, here or at a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.cli.startup import loading, prepare
from deepscaler.config import load_recipe
from deepscaler.config.evaluation import EvalRecipe, is_evaluation_recipe, load_evaluation
from deepscaler.config.parts import require_engine
from deepscaler.config.schema import RecipeError


@dataclass(frozen=True, slots=True)
class EvalArguments:
    """The command line of `eval`. Exactly one of `model` (directory or hub id) and `endpoint` says what to ask."""

    model: str | None
    endpoint: str | None
    served_model: str | None
    suite: str | None
    recipe: Path | None
    benchmarks: Path | None
    out: Path
    engine: str | None
    overrides: Sequence[str]
    samples: int | None
    max_tokens: int | None
    limit: int | None
    limit_seed: int | None
    concurrency: int | None
    api_key_env: str | None


def evaluate(arguments: EvalArguments) -> None:
    _check(arguments)
    if arguments.recipe is not None and not is_evaluation_recipe(arguments.recipe):
        _held_out(arguments, arguments.recipe)
        return
    _suite(arguments, load_evaluation(arguments.recipe, _overrides(arguments), suite=arguments.suite))


def _check(a: EvalArguments) -> None:
    if a.endpoint is None and a.model is None:
        raise ValueError("say what to evaluate: a model directory or hub id, or --endpoint with --model")
    if a.endpoint is not None and a.model is not None:
        raise ValueError(f"{a.model} is evaluated here or --endpoint {a.endpoint} there; give one of them")
    if a.endpoint is not None and a.served_model is None:
        raise ValueError("--endpoint needs --model NAME, the name the server knows the model by")
    if a.endpoint is None and a.served_model is not None:
        raise ValueError("--model names a model of --endpoint; give a directory or hub id without --model")
    if a.endpoint is not None and a.engine is not None:
        raise ValueError(f"--engine {a.engine} is for a model evaluated in this process; a server has its own")
    for flag, value in (("--concurrency", a.concurrency), ("--api-key-env", a.api_key_env)):
        if a.endpoint is None and value is not None:
            raise ValueError(f"{flag} is for a server; give --endpoint, or leave it out")
    if a.suite is None and a.recipe is None:
        raise ValueError("say which problems: --suite competition, a benchmark's name or file, or --recipe FILE")
    if a.limit_seed is not None and a.limit is None:
        raise ValueError("--limit-seed says which problems --limit keeps; give --limit N, or leave it out")


def _overrides(a: EvalArguments) -> list[str]:
    """Flags as settings of an evaluation recipe, after those of --set."""
    flags = {
        "sampling.num_samples": a.samples,
        "sampling.max_completion_tokens": a.max_tokens,
        "suite.limit": a.limit,
        "suite.limit_seed": a.limit_seed,
        "client.concurrency": a.concurrency,
    }
    named = [] if a.api_key_env is None else [f'client.api_key_env="{a.api_key_env}"']
    named += [] if a.engine is None else [f'engine.kind="{a.engine}"']
    return [*a.overrides, *(f"{key}={value}" for key, value in flags.items() if value is not None), *named]


def _suite(a: EvalArguments, recipe: EvalRecipe) -> None:
    if a.endpoint is None:
        require_engine(recipe.engine.kind, recipe.engine)
    print(f"evaluating {a.model or a.served_model}", flush=True)  # before what takes seconds to load
    from deepscaler.evaluation.datasets import announced, load_suite

    datasets = load_suite(recipe.suite, a.benchmarks)
    print(announced(datasets, recipe), flush=True)
    with loading():
        from deepscaler.loop.evaluate import Job, evaluate_endpoint, evaluate_model

    progress = prepare()
    job = Job(recipe, datasets, a.out, progress)
    if a.endpoint is not None:
        assert a.served_model is not None
        results = evaluate_endpoint(a.endpoint, a.served_model, job)
    else:
        assert a.model is not None
        results = evaluate_model(a.model, job)
    _print(results, a.out, progress.warned)


def _held_out(a: EvalArguments, path: Path) -> None:
    """The held-out sets of a training recipe: its own benchmarks and validation files, or synthetic ones."""
    if a.suite is not None or a.endpoint is not None or a.model is None:
        raise RecipeError(
            f"{path} is a training recipe: `deepscaler eval MODEL_DIR --recipe {path}` evaluates on its held-out sets, "
            "without --suite and --endpoint"
        )
    if a.engine not in (None, "torch"):
        raise RecipeError(
            f"{path} is a training recipe, and its held-out sets are evaluated with the engine that training samples "
            f"with; --engine {a.engine} is for benchmarks (--suite, or the recipe of an evaluation)"
        )
    extra = [] if a.samples is None else [f"evaluation.num_samples={a.samples}"]
    extra += [] if a.max_tokens is None else [f"evaluation.max_completion_tokens={a.max_tokens}"]
    extra += [] if a.benchmarks is None else [f"evaluation.benchmarks_dir={json.dumps(str(a.benchmarks))}"]
    chosen = load_recipe(path, [*a.overrides, *extra])
    print(f"evaluating {a.model} on the sets of {path}", flush=True)  # before what takes seconds to load
    with loading():
        from deepscaler.loop.evaluate import evaluate_directory

    progress = prepare()
    results = evaluate_directory(Path(a.model), chosen, a.out, progress, limit=a.limit, limit_seed=a.limit_seed)
    _print(results, a.out, progress.warned)


def regrade(directory: Path, workers: int) -> None:
    from deepscaler.evaluation.regrade import regrade as grade_again
    from deepscaler.evaluation.regrade import worded
    from deepscaler.evaluation.samples import read_results
    from deepscaler.loop.evaluate import grader_settings, recorded_grader
    from deepscaler.rewards.isolation.pool import make_grader

    section = recorded_grader(read_results(directory)["settings"], workers)  # its limits stay; its version does not
    with make_grader(section) as grader:
        regraded = grade_again(directory, grader, grader_settings(section))
    for line in worded(regraded.transitions):
        print(line)
    print(f"the figures before are kept in {regraded.old_results}")
    _print(regraded.results, directory)


def _print(results: Any, out: Path, shown: Sequence[str] = ()) -> None:
    """The table; shown: warnings that were on the screen already."""
    from deepscaler.evaluation.tables import print_results

    print_results(results.content, shown)
    print(f"written to {out / 'results.json'}")
