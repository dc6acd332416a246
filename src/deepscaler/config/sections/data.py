"""The problems that a run trains on."""

from __future__ import annotations

from deepscaler.config.sections.prompt import PromptSettings
from deepscaler.config.setting import Section, setting


class SourceSection(Section):
    """One source of a mixture."""

    name: str = setting(shapes="samples", doc="what stages.N.sources and messages call it")
    path: str = setting(
        shapes="samples", compared="content", doc="a .json, .jsonl or .parquet file of problems, or a hub dataset"
    )
    weight: float = setting(
        1.0, shapes="samples", doc="its share of the prompts, relative to the other sources of the stage", gt=0
    )
    prompt_field: str = setting("problem", shapes="samples", compared="content", doc="column that holds the problem")
    answer_field: str = setting(
        "answer", shapes="samples", compared="content", doc="column that holds the answer or list of answers"
    )


class DataSection(PromptSettings):
    source: str = setting(
        shapes="samples",
        compared="content",
        doc="`synthetic`, a .json, .jsonl or .parquet file of problems, a hub dataset, or `mix` of data.sources",
    )
    sources: tuple[SourceSection, ...] = setting(
        (), shapes="samples", doc="with source = 'mix': files that take turns by weight"
    )
    prompt_field: str = setting("problem", shapes="samples", compared="content", doc="column that holds the problem")
    answer_field: str = setting(
        "answer", shapes="samples", compared="content", doc="column that holds the answer or list of answers"
    )
    instruction: str = setting(
        "Let's think step by step and output the final answer within \\boxed{}.",
        shapes="base",
        doc="appended to every problem after a space (docs/recipe.md)",
    )
    min_pass_rate: float | None = setting(
        None,
        unit="share",
        shapes="samples",
        added=True,
        doc="without problems that a model solves less often, by the column pass_rate of `deepscaler data score`",
        ge=0,
        le=1,
    )
    max_pass_rate: float | None = setting(
        None,
        unit="share",
        shapes="samples",
        added=True,
        doc="without problems that a model solves more often, by the column pass_rate",
        ge=0,
        le=1,
    )
    max_prompt_tokens: int = setting(
        1024, unit="tokens", shapes="samples", doc="longer prompts are dropped at load and counted", gt=0
    )
    raw_sources: tuple[str, ...] = setting(
        (),
        shapes="nothing",
        doc="`data prepare` only: files and hub datasets to make the training set of; empty = source",
    )
    benchmarks: str | None = setting(
        None, shapes="nothing", doc="`data prepare` only: directory of the benchmarks to keep out"
    )
    validation_frac: float = setting(
        0.0, shapes="nothing", doc="`data prepare` only: share of rows kept out of training", ge=0, lt=1
    )
    num_problems: int = setting(
        20000, unit="problems", shapes="samples", doc="synthetic only: size of the training set", gt=0
    )
    min_operations: int = setting(2, shapes="base", doc="synthetic only: shortest chain", ge=1)
    max_operations: int = setting(9, shapes="base", doc="synthetic only: longest chain", ge=1)
