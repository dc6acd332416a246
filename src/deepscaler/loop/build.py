"""Builds a `Run` with all its workers from a recipe and a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from deepscaler.algorithms.batch import make_samples
from deepscaler.algorithms.own import check_algorithm
from deepscaler.cluster.local import WORKERS, PolicyFiles
from deepscaler.cluster.model_directory import device_metadata, open_model
from deepscaler.cluster.registry import load_cluster
from deepscaler.config import Recipe, recipe_hash
from deepscaler.config.derived import mini_batches_per_step
from deepscaler.config.evaluation import evaluation_recipe, rollout_engine
from deepscaler.config.parts import ENGINES
from deepscaler.curriculum.controller import Curriculum
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.prompts import Prompts, longest_sequence, make_prompts
from deepscaler.data.requests import PromptEncoder
from deepscaler.data.sources.other_columns import NO_OTHERS
from deepscaler.data.templates import decoder
from deepscaler.engines.registry import load_engine
from deepscaler.evaluation.sources import EngineSource
from deepscaler.loop.ahead import Ahead
from deepscaler.loop.evaluate import sampling_params
from deepscaler.loop.experience import Experience, MakeSamples, OnPolicy, Step
from deepscaler.loop.held_out_sets import write_held_out
from deepscaler.loop.inputs import code_digests, inputs_of
from deepscaler.loop.locked_directory import locked_directory, removed_unless_begun, storage_faults_named
from deepscaler.loop.progress import Progress
from deepscaler.loop.publishing import CANARY_LIMIT, Canary
from deepscaler.loop.resume import find_start
from deepscaler.loop.resume_check import Origin, check_directory
from deepscaler.loop.run import Run
from deepscaler.loop.stop import StopRequest
from deepscaler.loop.training_data import TrainingData, load_training_data, validation_notes
from deepscaler.loop.validation import Evaluator
from deepscaler.loop.watchdog import Watchdog
from deepscaler.modeling.generic import note_of
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.environment import run_info
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.protocols import Cluster, Learner
from deepscaler.rewards.manager import RewardManager, open_reward
from deepscaler.rewards.scoring import items_of
from deepscaler.training.checkpoint_writer import CheckpointWriter
from deepscaler.types import IntArray, ScoredGroup, TrainSample, WantedColumns


@dataclass(frozen=True, slots=True)
class Inputs:
    """The validated inputs of a run; the weights are not loaded yet."""

    training: TrainingData
    prompts: Prompts
    encode: PromptEncoder
    decode: Callable[[IntArray], str]  # ids of a completion -> the text to grade
    policy: PolicyFiles


@contextmanager
def open_run(
    recipe: Recipe, model_path: Path, path: Path, progress: Progress, origin: Origin | None = None
) -> Iterator[Run]:
    """A run ready for the loop, new or continued from the newest checkpoint; closes its workers at the end.

    origin: checkpoint that a new directory starts from instead of the base model. Raises ValueError for bad input, for
    a directory that belongs to another recipe, and when another process works in it; the directory is untouched then.
    """
    check_directory(recipe, path)
    check_algorithm(recipe.algorithm)
    with (
        removed_unless_begun(path / "rewards") as printed,
        open_reward(recipe.reward, recipe.grader, printed) as reward,
    ):
        read = read_inputs(recipe, model_path, progress, NO_OTHERS if reward is None else reward.columns)
        with _open(recipe, model_path, path, progress, origin, read, reward) as run:
            yield run


@contextmanager
def _open(
    recipe: Recipe,
    model_path: Path,
    path: Path,
    progress: Progress,
    origin: Origin | None,
    read: Inputs,
    reward: RewardManager | None,
) -> Iterator[Run]:
    files = read.policy.files
    with (
        locked_directory(path),
        storage_faults_named(path),
        StopRequest() as stop,
        load_cluster(recipe.cluster.kind)(recipe, read.policy, path) as workers,
        _experience(recipe, read, workers, progress, reward) as (experience, cluster),
    ):
        weights = cluster.learner.publish()
        inputs = inputs_of(
            weights.digest("float32"), files.path, files.tokenizer, read.policy.stop_ids, code_digests(recipe, reward)
        )
        start = find_start(recipe, inputs, read.prompts.stream, path, origin)
        directory = RunDirectory(path)
        directory.write_recipe(recipe.model_dump(mode="json"))
        run = Run(
            recipe=recipe,
            recipe_digest=recipe_hash(recipe),
            cluster=cluster,
            experience=experience,
            make_samples=_make_samples_of(recipe),
            weights=weights,
            stream=read.prompts.stream,
            curriculum=Curriculum(recipe.stages, recipe.curriculum),
            alarms=Alarms(
                recipe.alarms,
                dtype=recipe.model.dtype,
                kl_estimator=recipe.algorithm.kl.estimator,
                max_policy_lag=recipe.rollout.max_policy_lag,
            ),
            directory=directory,
            saves=CheckpointWriter(path / "checkpoints", in_background=recipe.checkpoint.async_save),
            progress=progress,
            stop=stop,
            validation=_evaluator(recipe, read, cluster, directory, progress),
            save_tokenizer=files.tokenizer.save_pretrained,
            decode_prompt=lambda ids: files.tokenizer.decode(ids, skip_special_tokens=False),
            inputs=inputs,
            base_model=model_path,
            canary=_canary(recipe, read, cluster.learner),
        )
        start.begin(run)
        if start.is_new:
            info = run_info(run.recipe_digest, str(model_path), device_metadata())
            gguf = {"gguf": asdict(files.gguf)} if files.gguf else {}
            directory.write_run_info({**info, **gguf, "template": asdict(files.template), "origin": run.origin})
        stall_s, write_stacks = recipe.cluster.stall_s, cluster.write_stacks
        watchdog = Watchdog(path / WORKERS, lambda: f"step {run.step + 1}", stall_s, write_stacks=write_stacks)
        with watchdog.watching():
            yield run


@contextmanager
def _experience(
    recipe: Recipe, read: Inputs, cluster: Cluster, progress: Progress, reward: RewardManager | None
) -> Iterator[tuple[Experience, Cluster]]:
    """What makes the groups of a step, and the cluster with its sampler as everything else may use it."""
    prefilled = read.policy.files.template.thinking_prefilled
    arguments = (
        recipe.rollout,
        recipe.algorithm,
        recipe.seed,
        read.prompts.stream,
        cluster.sampler,
        cluster.grader,
        read.encode,
        partial(items_of, decode=read.decode, thinking_prefilled=prefilled),
        progress.on_rollout,
        list if reward is None else partial(reward.score, thinking_prefilled=prefilled),
    )
    if recipe.rollout.max_policy_lag == 0:
        yield OnPolicy(*arguments), cluster
        return
    ahead = Ahead(*arguments, num_steps=recipe.num_steps, limit_s=2 * recipe.cluster.stall_s)
    try:
        yield ahead, replace(cluster, sampler=ahead.sampler)
    finally:
        ahead.close()


def _canary(recipe: Recipe, read: Inputs, learner: Learner) -> Canary | None:
    """The first training problem, unless the engine computes with the learner's own code."""
    if not ENGINES[recipe.rollout.engine].own_kernels:
        return None
    prompt = read.encode(read.training.problems[0])
    return Canary(prompt, recipe.rollout.temperature, learner.logprobs, CANARY_LIMIT[recipe.model.dtype])


def _make_samples_of(recipe: Recipe) -> MakeSamples:
    """Advantages and token weights by the recipe's algorithm."""
    num_updates = mini_batches_per_step(recipe)

    def make(groups: Sequence[ScoredGroup], step: Step) -> list[list[TrainSample]]:
        budget = step.stage.max_completion_tokens
        return make_samples(groups, recipe.algorithm, max_completion_tokens=budget, num_updates=num_updates)

    return make


def read_inputs(recipe: Recipe, model_path: Path, progress: Progress, others: WantedColumns = NO_OTHERS) -> Inputs:
    """Read problems, tokenizer and model files. Raises ValueError for invalid ones.

    others: columns that reward functions take.
    """
    training = load_training_data(recipe, others)
    prompt_format = PromptFormat.of(recipe.data, recipe.data.instruction)
    files = open_model(model_path, recipe.model.dtype, recipe.model.revision, prompt_format=prompt_format)
    if files.template.depends_on_date:
        progress.message("note: the chat template writes the date into every prompt, so a run on another day differs")
    if note := note_of(files.config):
        progress.message(note)
    for text in validation_notes(training):
        progress.message(text)
    prompts = make_prompts(
        recipe, files.tokenizer, training.problems, training.source_of, training.asked, progress.message
    )
    stop_ids = files.stop_ids(recipe.rollout.stop_token_ids)
    policy = PolicyFiles(files, stop_ids, longest_sequence(recipe, files.context, prompts))
    encode = PromptEncoder(files.tokenizer, prompt_format, prompts.ids)
    decode = decoder(files.tokenizer, stop_ids, recipe.rollout.stop)
    return Inputs(training, prompts, encode, decode, policy)


def _evaluator(
    recipe: Recipe, read: Inputs, cluster: Cluster, directory: RunDirectory, progress: Progress
) -> Evaluator | None:
    """Evaluations inside training with the run's own sampler and grader, on problems not in the training data."""
    training, files = read.training, read.policy.files
    if not training.validation.sets:
        return None
    asked = evaluation_recipe(recipe, tuple(training.validation.sets), inside_training=True)
    path = directory.path / "evaluations"
    write_held_out(path, training.validation, training.left_out, len(training.problems))
    return Evaluator(
        recipe=asked,
        datasets=training.validation,
        source=EngineSource(cluster.sampler, sampling_params(asked), encode=read.encode, decode=read.decode),
        grader=cluster.grader,
        engine=load_engine(recipe.rollout.engine).fingerprint(files, rollout_engine(recipe)),
        template=files.template,
        directory=path,
        progress=progress,
    )
