"""How help shows a switch: by its name alone, without the type of a value that it does not take."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand


class PlainFlags(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


def show_flags_plainly(*apps: typer.Typer) -> None:
    for app in apps:
        for command in app.registered_commands:
            command.cls = PlainFlags
