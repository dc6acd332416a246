"""Options that commands of several panels share, and how help shows a switch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file, see docs/recipes.md.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. rollout.group_size=16. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ThinkingPrefilled = Annotated[bool, typer.Option("--thinking-prefilled", help="The prompt already opened <think>.")]


class PlainFlags(TyperCommand):
    """Shows a switch by its name alone, without the type of a value that it does not take."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params
