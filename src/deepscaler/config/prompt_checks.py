"""Rules on how prompts are made; `checks.py` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deepscaler.config.models import Recipe
from deepscaler.config.sections.prompt import PromptSettings


def prompt_rule(recipe: Recipe, origins: Mapping[str, str]) -> Iterator[str]:
    data = recipe.data
    is_written = origins.get("data.instruction", "").startswith(("file:", "--set"))
    if data.prompt_template and "{instruction}" not in data.prompt_template and data.instruction and is_written:
        yield (
            "data.instruction does nothing with data.prompt_template, which has no placeholder {instruction}; put "
            "{instruction} into the template where it belongs, or remove data.instruction"
        )
    if recipe.sft is not None:
        for name in PromptSettings.model_fields:
            if getattr(data, name):
                yield (
                    f"data.{name} with [sft]: the small base is made from prompts without it and would see others in "
                    f"training; remove data.{name}, or set model.path to a model of your own"
                )
