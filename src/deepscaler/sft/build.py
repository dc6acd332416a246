"""Builds an `SftRun` with its workers from a recipe and a run directory, new or resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from deepscaler.cluster.life_signs import wait_limits
from deepscaler.cluster.local import WORKERS
from deepscaler.cluster.model_directory import ModelDirectory, device_metadata, open_model
from deepscaler.cluster.processes import num_processes, start_helpers
from deepscaler.cluster.replica import SharedReplica
from deepscaler.config.resume import changed_settings, recipe_hash
from deepscaler.config.supervised import SftRecipe
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.loop.inputs import Inputs, in_words, inputs_of
from deepscaler.loop.locked_directory import locked_directory, storage_faults_named
from deepscaler.loop.progress import Progress
from deepscaler.loop.stop import StopRequest
from deepscaler.loop.watchdog import Watchdog
from deepscaler.observability.environment import run_info
from deepscaler.observability.run_directory import METRICS_FILE, RECIPE_FILE, RunDirectory, read_json
from deepscaler.sft.dataset import Batches, TraceSet, read_traces
from deepscaler.sft.learner import SftLearner
from deepscaler.sft.run import SftRun
from deepscaler.training.checkpoint import Checkpoint, newest_checkpoint, remove_leftovers
from deepscaler.training.cross_entropy import cross_entropy_computer
from deepscaler.training.replica import adamw, enable_checkpointing

SHOWN_KEYS = 5


@contextmanager
def open_sft(recipe: SftRecipe, path: Path, progress: Progress) -> Iterator[SftRun]:
    """A run ready for its steps, new or continued from the newest checkpoint; ends its workers at the end.

    Raises ValueError for bad input, for a directory that belongs to another recipe, and when another process works in
    it; the directory is untouched then.
    """
    assert recipe.model.path is not None
    prompt_format = PromptFormat.of(recipe.data, recipe.data.instruction)
    files = open_model(recipe.model.path, recipe.model.dtype, recipe.model.revision, prompt_format=prompt_format)
    traces, validation = read_traces(recipe, files)
    with locked_directory(path), storage_faults_named(path), StopRequest() as stop:
        found = _own_checkpoint(recipe, traces, path)
        for name, part in (("train", traces), ("validation", validation)):
            if part is not None:
                progress.message(f"{name}: {part.counts.words()}")
        with _replica(recipe, files, max(s.counts.longest_tokens for s in (traces, validation or traces)), path) as (
            replica,
            count,
        ):
            weights = replica.publish(0).digest("float32")
            inputs = inputs_of(weights, files.path, files.tokenizer, files.stop_ids(), {})
            if found is not None:
                _check_inputs(inputs, found)
            batches = Batches(
                len(traces.samples), recipe.sft.traces_per_step, recipe.sft.epochs, recipe.seed, recipe.sft.num_steps
            )
            run = SftRun(
                recipe=recipe,
                recipe_digest=recipe_hash(recipe),
                learner=SftLearner(replica, recipe.optimizer, batches.num_steps),
                batches=batches,
                traces=traces,
                validation=validation,
                inputs=inputs,
                num_processes=count,
                directory=RunDirectory(path),
                progress=progress,
                stop=stop,
                save_tokenizer=files.tokenizer.save_pretrained,
            )
            _begin(run, files, found)
            with Watchdog(path / WORKERS, lambda: f"step {run.step + 1}", recipe.cluster.stall_s).watching():
                yield run


@contextmanager
def _replica(recipe: SftRecipe, files: ModelDirectory, longest: int, path: Path) -> Iterator[tuple[SharedReplica, int]]:
    """The model on all cores of this machine or on its GPU, and the number of processes."""
    model = files.load(longest, torch.float32)
    if recipe.model.activation_checkpointing:
        enable_checkpointing(model)
    computer = cross_entropy_computer(model, recipe.training, recipe.model)
    count = num_processes(recipe.training.processes, files.device) if recipe.model.dtype == "float32" else 1
    starting = start_helpers(computer, None, count - 1, limits=wait_limits(recipe.cluster), logs=path / WORKERS)
    with starting as helpers:
        yield SharedReplica(computer, adamw(recipe.optimizer), helpers), count


def _own_checkpoint(recipe: SftRecipe, traces: TraceSet, path: Path) -> Checkpoint | None:
    """The newest checkpoint of this directory; None in a new one. Raises ValueError where it is another run's."""
    stored = read_json(path / RECIPE_FILE)
    found = newest_checkpoint(path / "checkpoints")
    if found is None and stored is not None and (path / METRICS_FILE).exists() and stored.get("rollout"):
        raise ValueError(f"{path} is the run of a training recipe; give another --run-dir")
    if found is None:
        remove_leftovers(path / "checkpoints")
        return None
    if found.state.get("kind") != "sft":
        raise ValueError(f"{path} is no run of `deepscaler sft`; give another --run-dir")
    before = read_json(found.path / RECIPE_FILE) or {}
    changed = changed_settings(before, recipe.model_dump(mode="json"), SftRecipe)
    if changed:
        shown = ", ".join(f"{one.key} ({one.before} -> {one.after})" for one in changed[:SHOWN_KEYS])
        more = f" and {len(changed) - SHOWN_KEYS} more" if len(changed) > SHOWN_KEYS else ""
        raise ValueError(
            f"{path} was started with other settings: {shown}{more}. Give it the settings it was started with, or "
            f"another --run-dir; model.path may name {found.path}"
        )
    if found.state["traces"] != traces.digest:
        raise ValueError(f"since {found.path} was written, the traces changed; restore them, or give another --run-dir")
    remove_leftovers(path / "checkpoints")
    return found


def _check_inputs(inputs: Inputs, found: Checkpoint) -> None:
    differing = inputs.differing(found.state["inputs"])
    if differing:
        raise ValueError(
            f"since {found.path} was written, {in_words(differing)} changed; restore the old version, or give another "
            "--run-dir"
        )


def _begin(run: SftRun, files: ModelDirectory, found: Checkpoint | None) -> None:
    """Load the checkpoint of a resumed run, or write what a new one records of itself."""
    recipe, directory = run.recipe, run.directory
    directory.write_recipe(recipe.model_dump(mode="json"))
    if found is None:
        info = run_info(run.recipe_digest, str(recipe.model.path), device_metadata())
        sets = {"train": run.traces, "validation": run.validation}
        counts = {name: part.counts.as_json() for name, part in sets.items() if part is not None}
        directory.write_run_info({**info, "template": asdict(files.template), "traces": counts})
        return
    run.learner.load(found.path)
    run.step = found.state["step"]
    remarks = [*found.passed_over, *directory.check_records(found.path)]
    if found.state["num_processes"] != run.num_processes:
        remarks.append(
            f"training.processes {found.state['num_processes']} -> {run.num_processes}, so sums are rounded in another "
            "order"
        )
    for text in remarks:
        run.progress.message(f"note: {text}")
    directory.log_event(run.step, "resume", "; ".join([f"continued after step {run.step}", *remarks]), {})
    run.progress.message(f"continuing after step {run.step} from {found.path}")
