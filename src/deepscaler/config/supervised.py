"""The recipe of supervised fine-tuning on people's traces: a file with [sft] and without [rollout] and [stages]."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from deepscaler.config.layers import Layers, read_chain
from deepscaler.config.optimizer_checks import idle_schedule
from deepscaler.config.schema import RecipeError, explain_error
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import ClusterSection
from deepscaler.config.sections.supervised import SupervisedSection, TracesSection
from deepscaler.config.sections.training import CheckpointSection, OptimizerSection, TrainingSection
from deepscaler.config.setting import Section, setting

FINE_TUNING = OptimizerSection(learning_rate=1e-5, schedule="cosine", min_learning_rate_ratio=0.1)


class SftRecipe(Section):
    name: str = setting(shapes="nothing", doc="name of the experiment")
    description: str = setting("", shapes="nothing", doc="one line about it")
    seed: int = setting(1, shapes="samples", doc="of the traces' order and of what is kept out", ge=0)
    model: ModelSection
    data: TracesSection
    sft: SupervisedSection
    optimizer: OptimizerSection = FINE_TUNING
    training: TrainingSection = TrainingSection()
    checkpoint: CheckpointSection = CheckpointSection()
    cluster: ClusterSection = ClusterSection()


def is_supervised_recipe(path: Path) -> bool:
    """Whether a recipe file, with those it extends, is one of `deepscaler sft` on traces. Raises RecipeError."""
    keys = {key for _, table in read_chain(path) for key in table}
    return "sft" in keys and not keys & {"rollout", "stages", "suite"}


def load_supervised(path: Path, overrides: Sequence[str] = ()) -> SftRecipe:
    """Defaults < `extends` chain < file < overrides (`a.b=value`). Raises RecipeError, one line for each mistake."""
    layers = Layers()
    for file, table in read_chain(path):
        layers.merge(table, f"file:{file}")
    for override in overrides:
        layers.override(override)
    _put_optimizer_defaults(layers)
    recipe = _validate(layers, str(path))
    if mistakes := [*_contradictions(recipe)]:
        raise RecipeError("\n".join(f"{path}: {line}" for line in mistakes))
    return recipe


def _put_optimizer_defaults(layers: Layers) -> None:
    """A section that sets one value keeps the defaults of fine-tuning for the others."""
    given = layers.table.get("optimizer", {})
    if not isinstance(given, dict):
        return
    floor = {"min_learning_rate_ratio"} if given.get("schedule") != "constant" else set[str]()
    defaults = FINE_TUNING.model_dump(include={"learning_rate", "schedule", *floor})
    layers.put_below({"optimizer": defaults}, "default")


def _validate(layers: Layers, otherwise: str) -> SftRecipe:
    try:
        return SftRecipe.model_validate_json(json.dumps(layers.table), strict=True)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            place = layers.place(key, otherwise).removeprefix("file:")
            lines.append(f"{place}: {explain_error(item, SftRecipe)}")
        raise RecipeError("\n".join(lines)) from None


def _contradictions(recipe: SftRecipe) -> Iterator[str]:
    data, optimizer = recipe.data, recipe.optimizer
    if recipe.model.path is None:
        yield "model.path is missing: name the model that is to be fine-tuned"
    if data.validation is not None and data.validation_frac:
        yield (
            f"data.validation = {data.validation!r} and data.validation_frac = {data.validation_frac} both say which "
            "traces measure the validation loss; remove one of them"
        )
    if recipe.sft.validate_every_steps and data.validation is None and not data.validation_frac:
        yield (
            f"sft.validate_every_steps = {recipe.sft.validate_every_steps} without validation traces; name a file as "
            "data.validation, or set data.validation_frac = 0.02"
        )
    if recipe.cluster.kind != "local":
        yield (
            f"cluster.kind = {recipe.cluster.kind!r}: `deepscaler sft` trains on one machine, on all of its cores or "
            "on one GPU; remove it"
        )
    for name in ("mini_batch_prompts", "num_iterations"):
        if getattr(optimizer, name) != OptimizerSection.model_fields[name].default:
            yield (
                f"optimizer.{name} belongs to training by reinforcement; a step of `deepscaler sft` is one update of "
                f"sft.traces_per_step traces: remove optimizer.{name}"
            )
    if recipe.model.lora != ModelSection().lora:
        yield "model.lora: `deepscaler sft` trains all weights; remove [model.lora]"
    if recipe.checkpoint.async_save:
        yield "checkpoint.async_save: `deepscaler sft` writes a checkpoint before the next step; remove it"
    yield from idle_schedule(optimizer)
    room = recipe.training.tokens_per_micro_batch
    if data.max_tokens is not None and data.max_tokens > room:
        yield (
            f"data.max_tokens = {data.max_tokens} exceeds training.tokens_per_micro_batch = {room}, which holds whole "
            f"traces; set training.tokens_per_micro_batch = {data.max_tokens} or more"
        )
