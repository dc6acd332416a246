"""Commands of the panel Understand: explain, presets, doctor."""

from __future__ import annotations

from pathlib import Path
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


def doctor(
    recipe: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Also say what a run of this recipe lacks.")
    ] = None,
    overrides: Overrides = None,
    run_dir: Annotated[Path, typer.Option(help="Where the run would write.")] = Path(),
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Also look at the machines of this Ray cluster.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Versions, cores, memory, disk, limits and GPUs of this machine, and what is missing.

    The exit code is 1 where something is missing that is needed.
    """
    from deepscaler.cli.doctor import Asked, show

    if not show(asked=Asked(recipe, tuple(overrides or ()), run_dir, address), as_json=as_json):
        raise typer.Exit(1)


COMMANDS = {"explain": explain, "presets": presets, "doctor": doctor}
