"""From a recipe and a run directory to a `Run` whose workers stand ready: the local construction."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from deepscaler.config import Recipe, recipe_hash
from deepscaler.curriculum.controller import Curriculum
from deepscaler.data.stopping import all_stop_ids
from deepscaler.data.templates import TemplateFacts, decoder, render_prompt, template_facts
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.environment import run_info
from deepscaler.observability.files import storage_fault
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.orchestration.directory_check import check_directory
from deepscaler.orchestration.embedded import stopping_facts
from deepscaler.orchestration.engines import torch_facts
from deepscaler.orchestration.evaluate import sampling_params
from deepscaler.orchestration.inputs import inputs_of
from deepscaler.orchestration.lengths import longest_sequences, too_long
from deepscaler.orchestration.local import LocalFleet
from deepscaler.orchestration.origin import Origin
from deepscaler.orchestration.progress import Progress
from deepscaler.orchestration.resume import check_continues, check_fits, restore, start_from
from deepscaler.orchestration.run import Run
from deepscaler.orchestration.stop import StopRequest
from deepscaler.orchestration.team import make_team
from deepscaler.orchestration.training_data import Prompts, TrainingData, load_training_data, make_prompts
from deepscaler.orchestration.validation import Validation, evaluation_recipe, write_held_out
from deepscaler.positions import model_context
from deepscaler.rewards.pool import GraderPool
from deepscaler.rewards.process import Limits
from deepscaler.rollout.sizing import pick_device
from deepscaler.rollout.stops import plain_decode
from deepscaler.training.checkpoint import Checkpoint, newest_checkpoint, remove_leftovers, steps_in
from deepscaler.training.learner import LocalLearner
from deepscaler.training.model import load_model, load_tokenizer, read_config, resolve_model, stop_token_ids
from deepscaler.types import RunError


def make_grader(recipe: Recipe, tokenizer: Any, stop_ids: frozenset[int]) -> GraderPool:
    """A grader that decodes with `tokenizer` and knows whether its template opens `<think>`."""
    _, prefilled = render_prompt(tokenizer, "x")
    section = recipe.grader
    return GraderPool(
        num_workers=section.workers,
        limits=Limits(wall_s=section.wall_s, cpu_s=section.cpu_s, memory_mib=section.memory_mib),
        profile=section.profile,
        decode=decoder(tokenizer, stop_ids, recipe.rollout.stop),
        thinking_prefilled=prefilled,
    )


@contextmanager
def open_run(
    recipe: Recipe, model_path: Path, path: Path, progress: Progress, origin: Origin | None = None
) -> Iterator[Run]:
    """A run ready for the loop, new or continued from the newest checkpoint; closes its workers at the end.

    origin: what a new directory begins with instead of the base model. Raises ValueError for bad input, for a
    directory that belongs to another recipe, and when another process works in it.
    """
    # Everything that can be wrong with the input is found before the run directory is touched.
    check_directory(recipe, path)
    device = pick_device()
    training = load_training_data(recipe)
    tokenizer = load_tokenizer(model_path, recipe.model.revision)
    prompts = make_prompts(recipe, tokenizer, training, progress.message)
    longest = _longest_sequence(recipe, model_path, prompts)

    def load(dtype: torch.dtype) -> Any:
        revision = recipe.model.revision
        return load_model(
            model_path, dtype=dtype, device=device, revision=revision, tokenizer=tokenizer, longest=longest
        )

    model = load(torch.float32)
    template = template_facts(tokenizer)
    if template.depends_on_date:
        progress.message("note: the chat template writes today's date into every prompt, so another day's run differs")
    configured = stop_token_ids(model, tokenizer)
    stop_ids = all_stop_ids(configured, tokenizer, recipe.rollout.stop_token_ids)
    inputs = inputs_of(model, resolve_model(model_path, recipe.model.revision), tokenizer, stop_ids)
    other = origin.read() if origin is not None and not steps_in(path / "checkpoints") else None
    if other is not None:
        check_fits(recipe, inputs, other)
    with _lock(path), _storage_faults_named(path), StopRequest() as stop:
        newest = newest_checkpoint(path / "checkpoints")
        if newest is not None:
            check_continues(recipe, inputs, prompts.stream, newest, origin, path)
        remove_leftovers(path / "checkpoints")
        directory = RunDirectory(path)
        directory.write_recipe(recipe.model_dump(mode="json"))
        # The learner keeps float32 master weights; an engine in bfloat16 has a copy of its own.
        engine_model = model if recipe.model.dtype == "float32" else load(torch.bfloat16)
        learner = LocalLearner(model, recipe)
        with (
            make_team(recipe, learner.computer, engine_model, stop_ids, plain_decode(tokenizer)) as team,
            make_grader(recipe, tokenizer, stop_ids) as grader,
        ):
            learner.team = team
            fleet = LocalFleet(team, tokenizer, recipe.data.instruction, prompts.ids)
            fleet.on_rollout = progress.on_rollout
            run = Run(
                recipe=recipe,
                recipe_digest=recipe_hash(recipe),
                learner=learner,
                fleet=fleet,
                grader=grader,
                stream=prompts.stream,
                curriculum=Curriculum(recipe.stages, recipe.curriculum),
                alarms=Alarms(recipe.alarms, dtype=recipe.model.dtype, kl_estimator=recipe.algorithm.kl.estimator),
                directory=directory,
                progress=progress,
                stop=stop,
                validation=None,
                num_processes=team.num_processes,
                save_tokenizer=tokenizer.save_pretrained,
                decode_prompt=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
                inputs=inputs,
                base_model=model_path,
            )
            if training.validation.sets:
                decode = decoder(tokenizer, stop_ids, recipe.rollout.stop)
                facts = stopping_facts(tokenizer, configured, model.config.vocab_size)
                run.validation = _validation(run, training, fleet, grader, template, decode, facts)
            if newest is not None:
                restore(run, newest)
            else:
                _begin(run, origin, other)
                info = {**run_info(run.recipe_digest, str(model_path)), "template": asdict(template)}
                directory.write_run_info({**info, "origin": run.origin})
            yield run


def _begin(run: Run, origin: Origin | None, found: Checkpoint | None) -> None:
    """Let a new run begin with the base model, or with the checkpoint of another run."""
    if origin is None or found is None:
        run.fleet.publish_weights(run.learner)
    else:
        start_from(run, origin, found)


@contextmanager
def _storage_faults_named(path: Path) -> Iterator[None]:
    """A full disk and its like end a run with one message, wherever they are met."""
    try:
        yield
    except OSError as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise RunError(
            f"{error.filename or path}: {error.strerror}: {fault}, so the run stops. Make room and run the same "
            "command again; it continues from the newest checkpoint"
        ) from error


def _validation(
    run: Run,
    training: TrainingData,
    fleet: LocalFleet,
    grader: GraderPool,
    template: TemplateFacts,
    decode: Callable[[Any], str],
    facts: Mapping[str, Any],
) -> Validation:
    """What evaluates inside the run: its engine, its grader, the problems that training leaves alone."""
    asked = evaluation_recipe(run.recipe, tuple(training.validation.sets))
    directory = run.directory.path / "evaluations"
    write_held_out(directory, training.validation, training.left_out, len(training.problems))
    return Validation(
        recipe=asked,
        datasets=training.validation,
        source=fleet.source(sampling_params(asked), decode),
        grader=grader,
        engine={**torch_facts(run.recipe.model.dtype, pick_device().type), **facts},
        template=template,
        directory=directory,
        progress=run.progress,
    )


def _longest_sequence(recipe: Recipe, model_path: Path, prompts: Prompts) -> int:
    """Tokens. Raises ValueError when a stage, or an evaluation inside training, can exceed the model's context."""
    context = model_context(read_config(resolve_model(model_path, recipe.model.revision)))
    lengths = longest_sequences(recipe, prompts)
    if excess := too_long(lengths, context):
        raise ValueError("\n".join(excess))
    return max(one.total for one in lengths)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process per run directory; the lock dies with the process."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is training in {path}; wait for it, or give another --run-dir"
            ) from error
        yield
