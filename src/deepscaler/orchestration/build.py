"""From a recipe and a run directory to a `Run` whose workers stand ready: the local construction."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from deepscaler.config import Recipe, changed_keys, recipe_hash
from deepscaler.curriculum.controller import Curriculum
from deepscaler.data.templates import TemplateFacts, decoder, render_prompt, template_facts
from deepscaler.json_text import parse_json
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.environment import run_info
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.orchestration.engines import torch_facts
from deepscaler.orchestration.evaluate import sampling_params
from deepscaler.orchestration.local import LocalFleet
from deepscaler.orchestration.progress import Progress
from deepscaler.orchestration.run import Run
from deepscaler.orchestration.stop import StopRequest
from deepscaler.orchestration.team import make_team
from deepscaler.orchestration.training_data import TrainingData, load_training_data, make_stream
from deepscaler.orchestration.validation import Validation, evaluation_recipe, write_held_out
from deepscaler.rewards.pool import GraderPool
from deepscaler.rewards.process import Limits
from deepscaler.rollout.sizing import pick_device
from deepscaler.training.checkpoint import newest_checkpoint
from deepscaler.training.learner import LocalLearner
from deepscaler.training.model import load_model, load_tokenizer, stop_token_ids


def make_grader(recipe: Recipe, tokenizer: Any, stop_ids: frozenset[int]) -> GraderPool:
    """A grader that decodes with `tokenizer` and knows whether its template opens `<think>`."""
    _, prefilled = render_prompt(tokenizer, "x")
    section = recipe.grader
    return GraderPool(
        num_workers=section.workers,
        limits=Limits(wall_s=section.wall_s, cpu_s=section.cpu_s, memory_mib=section.memory_mib),
        profile=section.profile,
        decode=decoder(tokenizer, stop_ids),
        thinking_prefilled=prefilled,
    )


@contextmanager
def open_run(recipe: Recipe, model_path: Path, path: Path, progress: Progress) -> Iterator[Run]:
    """A run ready for the loop, new or continued from the newest checkpoint; closes its workers at the end.

    Raises ValueError for bad input and for a directory that belongs to another recipe, BlockingIOError when another
    process works in it.
    """
    # Everything that can be wrong with the input is found before the run directory is touched.
    device = pick_device()
    training = load_training_data(recipe)
    tokenizer = load_tokenizer(model_path, recipe.model.revision)
    model = load_model(model_path, device=device, revision=recipe.model.revision)
    stream = make_stream(recipe, tokenizer, training, progress.message)
    template = template_facts(tokenizer)
    if template.depends_on_date:
        progress.message("note: the chat template writes today's date into every prompt, so another day's run differs")
    check_same_recipe(recipe, path)
    with _lock(path), StopRequest() as stop:
        directory = RunDirectory(path)
        directory.write_recipe(recipe.model_dump(mode="json"))
        engine_model = model if recipe.model.dtype == "float32" else _half(model_path, device, recipe)
        stop_ids = stop_token_ids(model, tokenizer)
        learner = LocalLearner(model, recipe)
        with (
            make_team(recipe, learner.computer, engine_model, stop_ids) as team,
            make_grader(recipe, tokenizer, stop_ids) as grader,
        ):
            learner.team = team
            fleet = LocalFleet(team, tokenizer, recipe.data.instruction)
            fleet.on_rollout = progress.on_rollout
            run = Run(
                recipe=recipe,
                recipe_digest=recipe_hash(recipe),
                learner=learner,
                fleet=fleet,
                grader=grader,
                stream=stream,
                curriculum=Curriculum(recipe.stages, recipe.curriculum),
                alarms=Alarms(recipe.alarms),
                directory=directory,
                progress=progress,
                stop=stop,
                validation=None,
                num_processes=team.num_processes,
                save_tokenizer=tokenizer.save_pretrained,
            )
            if training.validation.sets:
                run.validation = _validation(run, training, fleet, grader, template, decoder(tokenizer, stop_ids))
            newest = newest_checkpoint(run.checkpoints)
            if newest is None:
                fleet.publish_weights(run.learner)
                directory.write_run_info(
                    {**run_info(recipe_hash(recipe), str(model_path)), "template": asdict(template)}
                )
            else:
                run.load(*newest)
                progress.message(f"continuing after step {run.step} from {newest[0]}")
            yield run


def _validation(
    run: Run,
    training: TrainingData,
    fleet: LocalFleet,
    grader: GraderPool,
    template: TemplateFacts,
    decode: Callable[[Any], str],
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
        engine=torch_facts(run.recipe.model.dtype, pick_device().type),
        template=template,
        directory=directory,
        progress=run.progress,
    )


def _half(path: Path, device: torch.device, recipe: Recipe) -> Any:
    """The engine's own bfloat16 copy; the learner keeps float32 master weights."""
    return load_model(path, dtype=torch.bfloat16, device=device, revision=recipe.model.revision)


def check_same_recipe(recipe: Recipe, path: Path) -> None:
    """A run directory belongs to one recipe. Raises ValueError naming the settings that differ."""
    stored = path / "recipe.json"
    if not stored.is_file():
        return
    changed = changed_keys(parse_json(stored.read_text()), recipe.model_dump(mode="json"))
    if changed:
        raise ValueError(
            f"{path} was started with other settings: {', '.join(changed[:5])} differ. Give another --run-dir, or "
            "the settings it was started with"
        )


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
