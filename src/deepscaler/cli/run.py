"""Commands of the panel Run: quickstart, sft, train, serve, convert."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deepscaler.cli.options import Overrides, RecipeArgument


def quickstart(
    recipe: RecipeArgument = Path("recipes/quickstart.toml"),
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the recipe's seed.")] = None,
    run_dir: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/quickstart"),
    overrides: Overrides = None,
) -> None:
    """Base model, training, evaluation and report in one go, on a laptop."""
    from deepscaler.cli.startup import loading, prepare_for_training
    from deepscaler.config import load_recipe
    from deepscaler.config.parts import require_cluster, require_engine, require_lora
    from deepscaler.rewards.manager import check_reward

    chosen = load_recipe(recipe, [*(overrides or []), *([] if seed is None else [f"seed={seed}"])])
    require_engine(chosen.rollout.engine, chosen.rollout)
    require_cluster(chosen.cluster.kind)
    require_lora(chosen.model.lora.rank)
    if chosen.cluster.kind == "torchrun":
        raise ValueError(
            "quickstart evaluates in one process; under torchrun use `deepscaler train` with the same recipe, then "
            "`deepscaler eval`"
        )
    check_reward(chosen.reward, chosen.grader)
    with loading(f"loading PyTorch for the quickstart by {recipe}"):
        from deepscaler.algorithms.own import check_algorithm
        from deepscaler.toy.quickstart import quickstart as run_quickstart
    from deepscaler.evaluation.tables import print_summary
    from deepscaler.report import write_report

    check_algorithm(chosen.algorithm)
    progress = prepare_for_training()
    summary = run_quickstart(chosen, run_dir, progress)
    report_file = Path(summary["report"])
    write_report([report_file.parent], report_file)
    print_summary(summary)
    print(f"model   {summary['model']}\nreport  {report_file}\nfigures {run_dir / 'summary.json'}")
    print(f"wall time {summary['wall_s']:.0f} s")


def sft(
    recipe: RecipeArgument,
    run_dir: Annotated[Path | None, typer.Option(help="For traces of your own: new, or a run to go on with.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="For synthetic solutions: model directory; else below sft.output.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Fine-tune a model on traces, or make the small base model of a recipe from synthetic worked solutions."""
    from deepscaler.config.supervised import is_supervised_recipe

    if is_supervised_recipe(recipe):
        if out is not None:
            raise typer.BadParameter(
                "goes with recipes of synthetic solutions; traces take --run-dir", param_hint="--out"
            )
        if run_dir is None:
            raise typer.BadParameter("missing: where the run is written, new or to go on with", param_hint="--run-dir")
        _sft_on_traces(recipe, run_dir, overrides or [])
    elif run_dir is not None:
        raise typer.BadParameter(
            f"{recipe} makes a base model from synthetic solutions and takes --out; a recipe for traces has [sft] and "
            "neither [rollout] nor [[stages]] (docs/sft.md)",
            param_hint="--run-dir",
        )
    else:
        _synthetic_base(recipe, out, overrides or [])


def _sft_on_traces(recipe: Path, run_dir: Path, overrides: Sequence[str]) -> None:
    from deepscaler.cli.startup import loading, prepare_for_training
    from deepscaler.config.supervised import load_supervised

    chosen = load_supervised(recipe, overrides)
    with loading(f"loading PyTorch to fine-tune by {recipe} in {run_dir}"):
        from deepscaler.sft.build import open_sft
        from deepscaler.sft.run import train as train_supervised

    progress = prepare_for_training()
    with open_sft(chosen, run_dir, progress) as run:
        step = train_supervised(run)
    if step < run.num_steps and run.stop.signal_number is not None:
        again = _command("sft", recipe, run_dir, overrides)
        print(f"stopped after step {step}; the same command continues: {again}")
        raise typer.Exit(128 + run.stop.signal_number)
    print(f"finished after step {step}: {run_dir / 'checkpoints' / f'step-{step:06d}'}")


def _synthetic_base(recipe: Path, out: Path | None, overrides: Sequence[str]) -> None:
    from deepscaler.cli.startup import loading, prepare_for_training
    from deepscaler.config import load_recipe

    chosen = load_recipe(recipe, overrides)
    if chosen.sft is None:
        raise ValueError(f"{recipe} has no [sft] section, so there is no base model to make")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists; give a directory that does not, or remove it")
    with loading(f"loading PyTorch to make the base model of {recipe}"):
        from deepscaler.toy.base_model import ensure_base

    print(ensure_base(chosen, prepare_for_training(), out)[0])


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
    from deepscaler.cli.startup import loading, prepare, prepare_for_training
    from deepscaler.cluster.torchrun_environment import is_controller
    from deepscaler.config import load_recipe
    from deepscaler.config.cluster_checks import max_restarts
    from deepscaler.config.parts import require_cluster, require_engine, require_lora
    from deepscaler.loop.resume_check import check_directory, parse_origin
    from deepscaler.rewards.manager import check_reward

    chosen = load_recipe(recipe, overrides or [])
    require_engine(chosen.rollout.engine, chosen.rollout)
    require_cluster(chosen.cluster.kind)
    require_lora(chosen.model.lora.rank)
    if chosen.cluster.kind == "torchrun" and not is_controller():
        with loading():
            from deepscaler.cluster.torchrun import serve_rank
        prepare()
        serve_rank()
        return
    check_directory(chosen, run_dir)
    check_reward(chosen.reward, chosen.grader)
    begin = None if origin is None else parse_origin(origin, keep_optimizer=keep_optimizer)
    with loading(f"loading PyTorch to train by {recipe} in {run_dir}"):
        from deepscaler.algorithms.own import check_algorithm
        from deepscaler.loop.build import open_run
        from deepscaler.loop.restarts import train_restarting
        from deepscaler.toy.base_model import ensure_base

    check_algorithm(chosen.algorithm)
    progress = prepare_for_training()
    base, _, _ = ensure_base(chosen, progress)
    opened = partial(open_run, chosen, base, run_dir, progress, begin)
    run = train_restarting(opened, max_restarts(chosen.cluster), progress.message)
    step, interrupted = run.step, run.stop.signal_number
    if interrupted is not None and step < chosen.num_steps:
        again = train_command(recipe, run_dir, overrides or [], origin=origin, keep_optimizer=keep_optimizer)
        print(f"stopped after step {step}; the same command continues: {again}")
        raise typer.Exit(128 + interrupted)
    print(f"finished after step {step}: {run_dir / 'checkpoints' / f'step-{step:06d}'}")


def train_command(
    recipe: Path, run_dir: Path, overrides: Sequence[str], *, origin: str | None = None, keep_optimizer: bool = False
) -> str:
    """The command as it was given, ready to be pasted into a shell."""
    begin = [] if origin is None else ["--from", origin]
    keep = ["--keep-optimizer"] if keep_optimizer else []
    return " ".join([_command("train", recipe, run_dir, overrides), shlex.join([*begin, *keep])]).strip()


def _command(name: str, recipe: Path, run_dir: Path, overrides: Sequence[str]) -> str:
    settings = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["deepscaler", name, str(recipe), "--run-dir", str(run_dir), *settings])


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face directory, hub id or GGUF file.")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Any but loopback needs a key in the environment.")] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="What clients call the model; else the directory's name.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or auto.")] = "auto",
    max_active: Annotated[int, typer.Option(min=1, help="Completions decoded at once.")] = 64,
    max_queued: Annotated[int, typer.Option(min=1, help="Completions under way or waiting; more get HTTP 429.")] = 1024,
    context: Annotated[int, typer.Option(min=0, help="Tokens of prompt and completion; 0 = the model's.")] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="Engines on CPU; else one per core.")] = None,
    token_env: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "DEEPSCALER_API_KEY",
    system_prompt: Annotated[str, typer.Option(help="Of chats without a system message.")] = "",
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Variable of the chat template that requests may change. Repeatable."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends every completion. Repeatable.")
    ] = None,
    stop_token_ids: Annotated[
        list[int] | None,
        typer.Option("--stop-token-id", min=0, help="Ends every completion, beside the model's own. Repeatable."),
    ] = None,
) -> None:
    """Serve a model through an OpenAI-compatible API."""
    from deepscaler.cli.startup import loading, prepare

    with loading(f"loading PyTorch to serve {model}"):
        from deepscaler.data.prompt_format import PromptFormat
        from deepscaler.serve.server import ServeOptions, open_service
        from deepscaler.serve.server import run as run_server

    options = ServeOptions(
        host=host,
        port=port,
        name=name,
        dtype=dtype,
        max_active=max_active,
        max_queued=max_queued,
        context=context,
        processes=processes,
        token_env=token_env,
        stop=tuple(stop or ()),
        stop_token_ids=tuple(stop_token_ids or ()),
        prompt_format=PromptFormat(system_prompt=system_prompt, template=_template_variables(template or [])),
    )
    prepare()
    with open_service(model, options) as service:
        print(f"serving {service.model} at http://{options.host}:{options.port}/v1", flush=True)
        run_server(service, options)


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file, quantised or not.", exists=True)],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write; must not exist.")],
    dtype: Annotated[str, typer.Option(metavar="float32|bfloat16", help="float32 is exact.")] = "float32",
) -> None:
    """Dequantise a GGUF file into a Hugging Face directory."""
    from deepscaler.cli.startup import loading

    if dtype not in ("float32", "bfloat16"):
        raise typer.BadParameter(f"{dtype!r} is not float32 or bfloat16", param_hint="--dtype")
    if to.exists():
        raise ValueError(f"{to} exists; give a directory that does not, or remove it")
    with loading(f"loading PyTorch to convert {file}"):
        import torch

        from deepscaler.modeling.gguf.conversion import convert_gguf
    source = convert_gguf(file, to, getattr(torch, dtype))
    print(f"{to}  {source.architecture}, {source.quantisation} dequantised to {dtype}, SHA-256 {source.sha256}")


def _template_variables(given: Sequence[str]) -> dict[str, bool | int | float | str]:
    from deepscaler.config.layers import parse_value

    found: dict[str, bool | int | float | str] = {}
    for text in given:
        name, equals, raw = (part.strip() for part in text.partition("="))
        value = parse_value(raw)
        if not name or not equals or not isinstance(value, bool | int | float | str):
            raise typer.BadParameter(
                f"{text}: expected KEY=VALUE, for example enable_thinking=false", param_hint="--template"
            )
        found[name] = value
    return found


COMMANDS = {"quickstart": quickstart, "sft": sft, "train": train, "serve": serve, "convert": convert}
