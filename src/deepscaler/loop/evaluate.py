"""Runs an evaluation: embedded engine or server, one store, one grader, one directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepscaler.cluster.model_directory import ModelDirectory, device_metadata, open_model
from deepscaler.config import Recipe
from deepscaler.config.evaluation import EvalRecipe, evaluation_recipe, settings_of
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.config.setting import shapes_of, values_shaping
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.engines.registry import load_engine
from deepscaler.evaluation.completions import EVALUATION_STEP, Plan, Source
from deepscaler.evaluation.datasets import Datasets, announced
from deepscaler.evaluation.output_files import write_evaluation, write_partial_results
from deepscaler.evaluation.results import Results
from deepscaler.evaluation.session import run_session
from deepscaler.evaluation.sources import EngineSource
from deepscaler.evaluation.store import SampleStore
from deepscaler.json_text import canonical_digest
from deepscaler.loop.held_out_sets import held_out_sets
from deepscaler.loop.progress import Progress
from deepscaler.modeling.generic import note_of
from deepscaler.observability.counts import counted
from deepscaler.observability.environment import git_commit, hardware, package_versions
from deepscaler.observability.files import new_directory
from deepscaler.protocols import Grader
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.rewards.registry import REWARDS
from deepscaler.types import RunError, SamplingParams

Settings = dict[str, Any]


def grader_settings(section: GraderSection) -> Settings:
    """The version of the grader and its settings that shape verdicts."""
    return {"version": REWARDS[section.profile].version, **values_shaping(section, "verdict")}


def recorded_grader(settings: Mapping[str, Any], workers: int) -> GraderSection:
    """The grader that an evaluation recorded in its settings, with this many processes."""
    recorded = settings.get("grader", {})
    shaping = [name for name, field in GraderSection.model_fields.items() if shapes_of(field) == "verdict"]
    kept = {name: recorded[name] for name in shaping if name in recorded}
    return GraderSection(**kept, workers=workers)


def sampling_params(recipe: EvalRecipe) -> SamplingParams:
    s = recipe.sampling
    return SamplingParams(
        s.max_completion_tokens,
        s.temperature,
        s.top_p,
        s.top_k,
        seed=recipe.seed,
        step=EVALUATION_STEP,
        stop_token_ids=s.stop_token_ids,
        stop=s.stop,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """Inputs of an evaluation, except the source of its completions."""

    recipe: EvalRecipe
    datasets: Datasets
    out: Path
    progress: Progress

    @property
    def plan(self) -> Plan:
        return Plan(self.datasets.sets, self.recipe.sampling.num_samples)

    @property
    def prompt_format(self) -> PromptFormat:
        return PromptFormat.of(self.recipe.suite, self.recipe.suite.instruction)

    @property
    def params(self) -> SamplingParams:
        return sampling_params(self.recipe)

    def settings(self, model: Mapping[str, Any], engine: Mapping[str, Any], template: Mapping[str, Any]) -> Settings:
        """Everything that shapes a result; the store compares it before it resumes."""
        switches = self.recipe.suite.template
        return {
            **settings_of(self.recipe),
            "datasets": dict(self.datasets.identity),
            "model": dict(model),
            "engine": dict(engine),
            "template": {**template, **({"variables": switches} if switches else {})},
            "grader": grader_settings(self.recipe.grader),
        }


def evaluate_model(model: str | Path, job: Job) -> Results:
    """Evaluate a model directory or hub id with an engine in this process.

    Raises ModelError for a model that cannot be used, ValueError for a directory of other settings or an engine that
    is not installed.
    """
    engine = load_engine(job.recipe.engine.kind)
    files = open_model(model, job.recipe.engine.dtype, prompt_format=job.prompt_format, section="suite")
    settings = job.settings(
        {"sha256": files.sha256()}, engine.fingerprint(files, job.recipe.engine), asdict(files.template)
    )
    prefilled = files.template.thinking_prefilled
    gguf = {"gguf": asdict(files.gguf)} if files.gguf else {}
    if job.recipe.engine.kind == "torch" and (note := note_of(files.config)):
        job.progress.message(note)
    with make_grader(job.recipe.grader) as grader:
        return run_job(
            job,
            settings,
            lambda: _engine_source(files, job),
            grader,
            model={"name": str(model), **gguf},
            thinking_prefilled=prefilled,
        )


def evaluate_endpoint(address: str, model: str, job: Job) -> Results:
    """Evaluate the model of an OpenAI-compatible server.

    Raises EndpointError when the server cannot be used, ValueError for a directory of other settings.
    """
    from deepscaler.engines.openai.client import OpenAIClient

    client = OpenAIClient(address, model, job.params, job.recipe.client, job.recipe.suite.template)
    changed = {"omit": sorted(job.recipe.client.omit), "extra_body": job.recipe.client.extra_body}
    settings = job.settings(
        {"name": model},
        {
            "kind": "openai",
            "endpoint": client.endpoint.address,
            "max_tokens_field": client.max_tokens_field,
            **{name: value for name, value in changed.items() if value},
        },
        {"sha256": None, "thinking_prefilled": False},  # the server applies its own
    )
    with make_grader(job.recipe.grader) as grader:
        return run_job(job, settings, lambda: _server_source(client, job), grader, model={}, thinking_prefilled=False)


def evaluate_directory(
    model_path: Path,
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    limit: int | None = None,
    limit_seed: int | None = None,
) -> Results:
    """Evaluate a model directory on a training recipe's held-out sets."""
    datasets = held_out_sets(recipe, limit=limit, limit_seed=limit_seed)
    asked = evaluation_recipe(recipe, tuple(datasets.sets), limit=limit, limit_seed=limit_seed)
    progress.message(announced(datasets, asked))
    return evaluate_model(model_path, Job(asked, datasets, out, progress))


@contextmanager
def _engine_source(files: ModelDirectory, job: Job) -> Iterator[Source]:
    prompts = {p: files.prompt_ids(p) for problems in job.datasets.sets.values() for p in problems}
    files.check_context(list(prompts.values()), job.params.max_completion_tokens)
    capacity = max(map(len, prompts.values())) + job.params.max_completion_tokens
    open_engine = load_engine(job.recipe.engine.kind).open
    with open_engine(files, job.recipe.engine, capacity=capacity, params=job.params) as (sampler, decode):
        yield EngineSource(sampler, job.params, encode=prompts.__getitem__, decode=decode)


@contextmanager
def _server_source(client: Any, job: Job) -> Iterator[Source]:
    from deepscaler.engines.openai.probe import check_server, probe_sampling
    from deepscaler.evaluation.server_source import ServerSource

    metadata = check_server(client)
    first = next(iter(job.plan.problems.values()))
    found = probe_sampling(client, job.prompt_format.question(first))
    for text in found:
        job.progress.warning(text)
    yield ServerSource(client, job.prompt_format, found, metadata)


def run_job(
    job: Job,
    settings: Settings,
    open_source: Callable[[], AbstractContextManager[Source]],
    grader: Grader,
    *,
    model: Mapping[str, Any],
    thinking_prefilled: bool,
    metadata: Mapping[str, Any] | None = None,
) -> Results:
    """Generate missing samples, grade them, write the files. An interrupted evaluation leaves results.partial.json.

    model: name of the model, recorded beside its digest. thinking_prefilled: whether the prompt opens `<think>`.
    metadata: further entries of results.json.
    """
    started, plan = time.time(), job.plan
    with _new_store(job.out, settings) as store:
        before = len(store)
        _say_what_is_there(job, store)
        content: dict[str, Any] = {
            **(metadata or {}),
            "settings": {**settings, "recipe": job.recipe.name, "model": {**settings["model"], **model}},
            "settings_sha256": canonical_digest(settings),
            "warnings": list(job.datasets.warnings),
        }

        def session(source: Source | None) -> None:
            run_session(plan, source, grader, store, thinking_prefilled=thinking_prefilled, show=job.progress.session)

        try:
            if before == plan.num_completions:  # nothing to generate, so neither weights nor server are needed
                session(None)
            else:
                with open_source() as source:
                    session(source)
                    content["warnings"] += source.warnings()
                    content["server"] = source.metadata
        except (KeyboardInterrupt, RunError):
            if len(store):
                path = write_partial_results(store, plan, content)
                job.progress.message(
                    f"{len(store)} of {counted(plan.num_completions, 'sample')} are kept; Pass@1 so far: {path}"
                )
            raise
        content["run"] = _run_metadata(started, before, job)
        content["row_hashes"] = {name: list(hashes) for name, hashes in job.datasets.row_hashes.items()}
        results = write_evaluation(store, plan, content)
    job.progress.end_evaluation(results.average.mean, results.average.low, results.average.high)
    return results


@contextmanager
def _new_store(out: Path, settings: Settings) -> Iterator[SampleStore]:
    """The store of a directory; a new directory is removed again if no sample was stored."""
    new = not out.exists()
    with new_directory(out):
        store = SampleStore(out, settings)
        try:
            with store:
                yield store
        except BaseException:
            if new and not len(store):
                store.remove()
            raise


def _say_what_is_there(job: Job, store: SampleStore) -> None:
    if store.num_damaged:
        torn = counted(store.num_damaged, "line")
        job.progress.message(f"{torn} damaged by a crash and dropped; the samples are generated again")
    if len(store):
        job.progress.message(f"{len(store)} of {counted(job.plan.num_completions, 'sample')} exist already")


def _run_metadata(started: float, before: int, job: Job) -> dict[str, Any]:
    """Metadata of the process that finished the evaluation; `resumed_samples`: samples of earlier ones."""
    return {
        "started": started,
        "seconds": time.time() - started,
        "resumed_samples": before,
        "new_samples": job.plan.num_completions - before,
        "concurrency": job.recipe.client.concurrency,
        "hardware": {**hardware(), **device_metadata()},
        "versions": package_versions(),
        "git_commit": git_commit(),
    }
