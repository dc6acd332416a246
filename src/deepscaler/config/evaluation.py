"""The recipe of an evaluation as frozen models. Its defaults: the suite `competition` (docs/recipe.md, Evaluation)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from deepscaler.config.layers import Layers, read_chain
from deepscaler.config.models import Recipe
from deepscaler.config.parts import EngineName
from deepscaler.config.schema import RecipeError, explain_error
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.config.sections.prompt import PromptSettings
from deepscaler.config.sections.rollout import StopString, TokenId
from deepscaler.config.sections.vllm_servers import VllmServersSection
from deepscaler.config.setting import Section, setting, values_shaping

COMPETITION = ("aime24", "amc23", "math500", "minerva", "olympiadbench")
# The nine sets of JustRL (arXiv:2512.16649), on which the strongest models of 1.5B parameters report.
NINE = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench", "hmmt25", "brumo25", "cmimc25")
SUITES = {"competition": COMPETITION, "nine": NINE}


class SuiteSection(PromptSettings):
    benchmarks: tuple[str, ...] = setting(
        COMPETITION,
        shapes="samples",
        compared="content",
        doc="benchmarks by name, NAME=FILE:PROBLEM,ANSWER or .toml files, in the order of the tables",
        min_length=1,
    )
    limit: int | None = setting(
        None, unit="problems", shapes="samples", doc="only the first of each benchmark; absent = all", gt=0
    )
    limit_seed: int | None = setting(
        None, shapes="samples", doc="with limit: a random subset drawn with this seed, not the first", ge=0
    )
    corrected: bool = setting(
        False, shapes="samples", doc="leave out or correct references known to be wrong, where a list of them exists"
    )
    instruction: str = setting(
        "Let's think step by step and output the final answer within \\boxed{}.",
        shapes="samples",
        doc="appended to every problem after a space, one user message (docs/recipe.md)",
    )


class SamplingSection(Section):
    num_samples: int = setting(16, unit="completions", shapes="samples", doc="samples per problem", gt=0)
    temperature: float = setting(0.6, shapes="samples", doc="sampling temperature; 0 = greedy", ge=0)
    top_p: float = setting(0.95, shapes="samples", doc="nucleus", gt=0, le=1)
    top_k: int = setting(0, shapes="samples", doc="0 = off", ge=0)
    max_completion_tokens: int = setting(32768, unit="tokens", shapes="samples", doc="completion budget", gt=0)
    stop_token_ids: tuple[TokenId, ...] = setting(
        (), shapes="samples", doc="tokens that end a completion, beside EOS and the chat template's end of a turn"
    )
    stop: tuple[StopString, ...] = setting(
        (), shapes="samples", doc="strings that end a completion and are removed before grading"
    )


class EngineSection(VllmServersSection):
    """Settings of the engine in this process, or of its vLLM servers."""

    kind: EngineName = setting(
        "torch",
        shapes="samples",
        compared="content",
        doc="torch = embedded; vllm where it is installed; vllm_server (docs/evaluation.md, docs/engines.md)",
    )
    dtype: Literal["float32", "bfloat16", "auto"] = setting(
        "auto", shapes="samples", compared="content", doc="auto = bfloat16 on a GPU, float32 on CPU"
    )
    max_active: int = setting(
        256,
        unit="sequences",
        shapes="samples",
        compared="rounding",
        doc="decoded at once, fewer where memory is short",
        gt=0,
    )
    processes: int | None = setting(
        None,
        unit="processes",
        shapes="samples",
        compared="rounding",
        doc="on CPU: one thread each (vllm: threads); absent = one per core",
        gt=0,
    )


# Fields of a request that may be left out; the server's own value then applies.
RequestField = Literal[
    "seed", "temperature", "top_p", "top_k", "n", "stop", "stop_token_ids", "stream_options", "min_p",
    "repetition_penalty", "skip_special_tokens",
]  # fmt: skip
# Fields of a request that have a setting of their own, so that `client.extra_body` must not set them beside it.
OWN_SETTING = {
    "model": "--model",
    "messages": "suite.instruction",
    "seed": "seed",
    "n": "sampling.num_samples",
    "stream": "client.stream",
    "max_tokens": "sampling.max_completion_tokens",
    "max_completion_tokens": "sampling.max_completion_tokens",
    **{name: f"sampling.{name}" for name in ("temperature", "top_p", "top_k", "stop", "stop_token_ids")},
}


class ClientSection(Section):
    """Settings of the client of a server."""

    concurrency: int = setting(64, unit="requests", shapes="nothing", doc="requests under way at once", gt=0)
    max_attempts: int = setting(8, shapes="nothing", doc="attempts per sample before it is left out", gt=0)
    connect_attempts: int = setting(
        3, shapes="nothing", doc="attempts to reach the server before the first sample", gt=0
    )
    backoff_s: float = setting(
        1.0, unit="s", shapes="nothing", doc="longest wait after the first failure; doubles, with full jitter", ge=0
    )
    backoff_max_s: float = setting(60.0, unit="s", shapes="nothing", doc="longest wait after any failure", ge=0)
    connect_s: float = setting(15.0, unit="s", shapes="nothing", doc="time limit to connect", gt=0)
    stream: bool = setting(
        True,
        shapes="nothing",
        doc="ask for answers piece by piece, where the server can, so that its silence is noticed early",
    )
    silence_s: float = setting(
        180.0,
        unit="s",
        shapes="nothing",
        doc="the server counts as dead when no request at all has heard from it for so long",
        gt=0,
    )
    lost_s: float = setting(
        60.0,
        unit="s",
        shapes="nothing",
        doc="a request silent for so long, and for many times the slowest answer, is asked again while others are "
        "answered",
        gt=0,
    )
    read_s: float = setting(
        3600.0,
        unit="s",
        shapes="nothing",
        doc="longest silence of one request, which may wait in the server's queue",
        gt=0,
    )
    total_s: float = setting(7200.0, unit="s", shapes="nothing", doc="time limit of one attempt", gt=0)
    api_key_env: str = setting(
        "OPENAI_API_KEY", shapes="nothing", doc="environment variable that holds the key; only its name is kept"
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = setting(
        "max_tokens", shapes="samples", compared="content", doc="what the server calls the completion budget"
    )
    omit: tuple[RequestField, ...] = setting(
        (), shapes="samples", compared="content", doc="fields of the request that the server refuses: left out"
    )
    extra_body: dict[str, JsonValue] = setting(
        {}, shapes="samples", compared="content", doc="further fields of every request, passed on as they are"
    )


class EvalRecipe(Section):
    name: str = setting("competition", shapes="nothing", doc="name of the suite")
    description: str = setting("", shapes="nothing", doc="one line about it")
    seed: int = setting(
        1, shapes="samples", doc="every draw is a function of it, the problem and the sample index", ge=0
    )
    suite: SuiteSection = SuiteSection()
    sampling: SamplingSection = SamplingSection()
    engine: EngineSection = EngineSection()
    client: ClientSection = ClientSection()
    grader: GraderSection = GraderSection(workers=2)


def is_evaluation_recipe(path: Path) -> bool:
    """Whether a recipe file, or one it extends, has a [suite] section. Raises RecipeError."""
    return any("suite" in table for _, table in read_chain(path))


def load_evaluation(path: Path | None, overrides: Sequence[str] = (), *, suite: str | None = None) -> EvalRecipe:
    """Defaults < file < `suite` < overrides (`a.b=value`). Raises RecipeError, one line for each mistake."""
    layers = Layers()
    for file, table in read_chain(path) if path is not None else ():
        layers.merge(table, f"file:{file}")
    if suite is not None and suite != "competition":
        layers.merge({"name": suite, "suite": {"benchmarks": suite_entries(suite)}}, "--suite")
    elif suite is not None and path is not None:
        raise RecipeError("--suite and --recipe both say what to evaluate; give one of them")
    for override in overrides:
        layers.override(override)
    return _validate(layers, str(path or "--suite"))


def suite_entries(suite: str) -> list[str]:
    """The benchmarks of `--suite`: names, suites, files; the comma in `NAME=FILE:PROBLEM,ANSWER` separates columns."""
    entries: list[str] = []
    for part in (part.strip() for part in suite.split(",")):
        last = entries[-1] if entries else ""
        if "=" in last and ":" in last and "," not in last and "=" not in part:
            entries[-1] = f"{last},{part}"
        else:
            entries += SUITES.get(part, (part,))
    return entries


def _validate(layers: Layers, otherwise: str) -> EvalRecipe:
    try:
        recipe = EvalRecipe.model_validate_json(json.dumps(layers.table), strict=True)
        if recipe.suite.limit_seed is not None and recipe.suite.limit is None:
            raise RecipeError("suite.limit_seed: says which problems suite.limit keeps; set suite.limit, or remove it")
        for name in recipe.client.extra_body.keys() & OWN_SETTING.keys():
            raise RecipeError(f"client.extra_body.{name}: has a setting of its own; set {OWN_SETTING[name]} instead")
        return recipe
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            place = layers.place(key, otherwise).removeprefix("file:")
            lines.append(f"{place}: {explain_error(item, EvalRecipe)}")
        raise RecipeError("\n".join(lines)) from None


def evaluation_recipe(
    recipe: Recipe,
    sets: tuple[str, ...],
    *,
    limit: int | None = None,
    limit_seed: int | None = None,
    inside_training: bool = False,
) -> EvalRecipe:
    """A training recipe's [evaluation] as the recipe of an evaluation of these sets.

    limit, limit_seed: as in SuiteSection. inside_training: with the smaller subset and the fewer samples of the
    evaluations inside the run.
    """
    section = recipe.evaluation
    shared = section.model_dump(include={"temperature", "top_p", "top_k", "max_completion_tokens"})
    prompt = recipe.data.model_dump(include=set(PromptSettings.model_fields))
    stops = recipe.rollout.model_dump(include={"stop_token_ids", "stop"})
    if inside_training:
        limit, num_samples = section.during_training_problems, section.during_training_samples
    else:
        num_samples = section.num_samples
    return EvalRecipe(
        name=recipe.name,
        seed=recipe.seed,
        suite=SuiteSection(
            benchmarks=sets, limit=limit, limit_seed=limit_seed, instruction=recipe.data.instruction, **prompt
        ),
        sampling=SamplingSection(num_samples=num_samples, **shared, **stops),
        engine=EngineSection(
            dtype=recipe.model.dtype, max_active=recipe.rollout.max_active, processes=recipe.training.processes
        ),
        grader=recipe.grader,
    )


def rollout_engine(recipe: Recipe) -> EngineSection:
    """The engine that samples in training, as the settings of an engine."""
    servers = recipe.rollout.model_dump(include=set(VllmServersSection.model_fields))
    if recipe.cluster.kind != "local":  # ranks of a learner publish files
        servers["vllm_weight_transfer"] = "files"
    return EngineSection(
        kind=recipe.rollout.engine,
        dtype=recipe.model.dtype,
        max_active=recipe.rollout.max_active,
        processes=recipe.training.processes,
        **servers,
    )


def settings_of(recipe: EvalRecipe) -> dict[str, object]:
    """The settings that shape the samples and are compared by value, without the names of their sections.

    An empty array, table or text of a prompt, and an added setting at its default are left out, so that samples made
    before there was such a setting stay usable. The chat template's variables are recorded with the template.
    """
    found: dict[str, object] = {}
    for name, value in values_shaping(recipe, "samples").items():
        found |= value if isinstance(value, dict) else {name: value}
    found.pop("template", None)
    if recipe.suite.limit_seed is None:
        found.pop("limit_seed", None)
    absent = {name for name in PromptSettings.model_fields if not found.get(name)}
    return {name: value for name, value in found.items() if value not in ([], {}) and name not in absent}
