"""Commands of the panel Understand: explain, presets, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from deepscaler.cli.options import AsJson, Overrides, RecipeArgument


def explain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(min=1, help="Show numbers per rank for so many ranks.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Every setting of a recipe with unit and origin, and every size derived from it."""
    from deepscaler.cli.explain import show_recipe

    show_recipe(recipe, overrides or [], world_size=world_size, as_json=as_json)


def presets(as_json: AsJson = False) -> None:
    """The named algorithms, their values and sources."""
    from deepscaler.cli.explain import show_presets

    show_presets(as_json=as_json)


def doctor(as_json: AsJson = False) -> None:
    """Versions, cores, memory, disk and GPU of this machine, and what is missing for which extra."""
    from deepscaler.cli.doctor import show

    show(as_json=as_json)


COMMANDS = {"explain": explain, "presets": presets, "doctor": doctor}
