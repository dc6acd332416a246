"""The recipe of an evaluation as frozen models. Its defaults: the suite `competition` (docs/recipe.md, Evaluation)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deepscaler.config.layers import Layers, read_chain
from deepscaler.config.models import GraderSection, Section, StopString, TokenId, setting
from deepscaler.config.schema import RecipeError, explain_error

COMPETITION = ("aime24", "amc23", "math500", "minerva", "olympiadbench")


class SuiteSection(Section):
    benchmarks: tuple[str, ...] = setting(COMPETITION, doc="benchmarks, in the order of the tables", min_length=1)
    limit: int | None = setting(None, unit="problems", doc="only the first of each benchmark; absent = all", gt=0)
    corrected: bool = setting(
        False, doc="leave out or correct references known to be wrong, where a list of them exists"
    )
    instruction: str = setting(
        "Let's think step by step and output the final answer within \\boxed{}.",
        doc="appended to every problem after a space, one user message, no system prompt (docs/recipe.md)",
    )


class SamplingSection(Section):
    num_samples: int = setting(16, unit="completions", doc="samples per problem", gt=0)
    temperature: float = setting(0.6, doc="sampling temperature; 0 = greedy", ge=0)
    top_p: float = setting(0.95, doc="nucleus", gt=0, le=1)
    top_k: int = setting(0, doc="0 = off", ge=0)
    max_completion_tokens: int = setting(32768, unit="tokens", doc="completion budget", gt=0)
    stop_token_ids: tuple[TokenId, ...] = setting(
        (), doc="tokens that end a completion, beside EOS and the chat template's end of a turn"
    )
    stop: tuple[StopString, ...] = setting((), doc="texts that end a completion and are cut from what is graded")


class EngineSection(Section):
    """The engine in this process; a server has its own."""

    kind: Literal["torch", "vllm"] = setting(
        "torch", doc="torch = embedded; vllm where it is installed (docs/evaluation.md)"
    )
    dtype: Literal["float32", "bfloat16", "auto"] = setting("auto", doc="auto = bfloat16 on a GPU, float32 on CPU")
    max_active: int = setting(256, unit="sequences", doc="decoded at once, fewer where memory is short", gt=0)
    processes: int | None = setting(
        None, unit="processes", doc="on CPU: one thread each (vllm: threads); absent = one per core", gt=0
    )


class ClientSection(Section):
    """How a server is talked to. None of it shapes a completion."""

    concurrency: int = setting(64, unit="requests", doc="requests under way at once", gt=0)
    max_attempts: int = setting(8, doc="attempts per sample before it is left out", gt=0)
    connect_attempts: int = setting(3, doc="attempts to reach the server before the first sample", gt=0)
    backoff_s: float = setting(
        1.0, unit="s", doc="longest wait after the first failure; doubles, with full jitter", ge=0
    )
    backoff_max_s: float = setting(60.0, unit="s", doc="longest wait after any failure", ge=0)
    connect_s: float = setting(15.0, unit="s", doc="time limit to connect", gt=0)
    stream: bool = setting(
        True, doc="ask for answers piece by piece, where the server can, so that its silence is noticed early"
    )
    silence_s: float = setting(
        180.0, unit="s", doc="the server counts as dead when no request at all has heard from it for so long", gt=0
    )
    lost_s: float = setting(
        60.0,
        unit="s",
        doc="a request silent for so long, and for many times the slowest answer, is asked again while others are "
        "answered",
        gt=0,
    )
    read_s: float = setting(
        3600.0, unit="s", doc="longest silence of one request, which may wait in the server's queue", gt=0
    )
    total_s: float = setting(7200.0, unit="s", doc="time limit of one attempt", gt=0)
    api_key_env: str = setting("OPENAI_API_KEY", doc="environment variable that holds the key; only its name is kept")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = setting(
        "max_tokens", doc="what the server calls the completion budget"
    )


class EvalRecipe(Section):
    name: str = setting("competition", doc="name of the suite")
    description: str = setting("", doc="one line about it")
    seed: int = setting(1, doc="every draw is a function of it, the problem and the sample index", ge=0)
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
        layers.merge({"name": suite, "suite": {"benchmarks": [name.strip() for name in suite.split(",")]}}, "--suite")
    elif suite is not None and path is not None:
        raise RecipeError("--suite and --recipe both say what to evaluate; give one of them")
    for override in overrides:
        layers.override(override)
    return _validate(layers, str(path or "--suite"))


def _validate(layers: Layers, otherwise: str) -> EvalRecipe:
    try:
        return EvalRecipe.model_validate_json(json.dumps(layers.table), strict=True)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            place = layers.place(key, otherwise).removeprefix("file:")
            lines.append(f"{place}: {explain_error(item, EvalRecipe)}")
        raise RecipeError("\n".join(lines)) from None


def settings_of(recipe: EvalRecipe) -> dict[str, Any]:
    """What of a recipe shapes the samples: nothing about processes, retries and time limits of the transport."""
    suite = recipe.suite.model_dump(mode="json", include={"limit", "corrected", "instruction"})
    sampling = recipe.sampling.model_dump(mode="json")
    for name in ("stop_token_ids", "stop"):  # absent as before there were any, so that samples stay usable
        if not sampling[name]:
            del sampling[name]
    return {"seed": recipe.seed, **sampling, **suite}
