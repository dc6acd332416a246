"""`deepscaler explain` and `deepscaler presets`: recipes and presets on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deepscaler.cli.explain_context import with_context
from deepscaler.config.derived import Size
from deepscaler.config.explain import Explanation, SettingRow
from deepscaler.config.explain import explain as explain_recipe
from deepscaler.config.load import resolve
from deepscaler.config.presets import PRESETS
from deepscaler.cpu import available_cores
from deepscaler.observability import terminal

NAME_WIDTH, VALUE_WIDTH = 26, 25  # leaves 25 columns of 80 for the origin
STAGES_ABREAST = 3


def show_recipe(path: Path, overrides: Sequence[str], *, world_size: int, as_json: bool) -> None:
    """Print a recipe's settings, derived sizes and warnings. Raises RecipeError for a recipe that cannot be used."""
    resolved = resolve(path, overrides)
    explanation = with_context(explain_recipe(resolved, world_size, available_cores()), resolved.recipe)
    if as_json:
        print(json.dumps(explanation.as_dict(), indent=2, ensure_ascii=False))
        return
    console: Console = terminal.console(highlight=False)
    _print_settings(console, explanation.settings)
    _print_sizes(console, explanation.sizes)
    _print_closing(console, explanation)


def _print_settings(console: Console, rows: Iterable[SettingRow]) -> None:
    sources: dict[str, str] = {}
    sections: dict[str, list[SettingRow]] = {}  # not groupby: [algorithm.kl] is between keys of [algorithm]
    for row in rows:
        sections.setdefault(row.key.rpartition(".")[0], []).append(row)
    for section, members in sections.items():
        console.print(Text(f"[{section}]" if section else "recipe", style="bold"))
        for row in members:
            _print_setting(console, row, sources)
        console.print()
    for short, source in sources.items():
        console.print(Text(f"{short}: {source}\n", style="dim"))


def _print_setting(console: Console, row: SettingRow, sources: dict[str, str]) -> None:
    name = row.key.rpartition(".")[2]
    value = f"{shown(row.value)} {row.unit}".rstrip() if row.value is not None else "-"
    table = Table.grid(padding=(0, 1))
    table.add_column(width=NAME_WIDTH, overflow="fold")
    table.add_column(width=VALUE_WIDTH, overflow="fold")
    table.add_column(overflow="fold")
    origin = row.origin.removeprefix("file:")
    if origin.startswith("preset "):
        short, _, source = origin.partition(" (")
        sources[short] = source.removesuffix(")")
        origin = short
    table.add_row(Text(name), Text(value), Text(origin, style="dim" if origin == "default" else "cyan"))
    console.print(Padding(table, (0, 0, 0, 2)))
    if row.doc:
        console.print(Padding(Text(row.doc, style="dim"), (0, 0, 0, 6)))


def _print_sizes(console: Console, sizes: Iterable[Size]) -> None:
    scopes: dict[str, dict[str, Size]] = {}
    for size in sizes:
        scopes.setdefault(size.scope, {})[size.name] = size
    stages = [scope for scope in scopes if scope.startswith("stage ")]
    side_by_side = [stages[i : i + STAGES_ABREAST] for i in range(0, len(stages), STAGES_ABREAST)]
    for columns in (["run"], *side_by_side, ["evaluation"]):
        _print_columns(console, columns, [scopes[scope] for scope in columns])


def _print_columns(console: Console, titles: list[str], columns: list[dict[str, Size]]) -> None:
    def row(name: str, cells: Iterable[str], style: str) -> None:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=NAME_WIDTH)
        for _ in titles:
            table.add_column(width=16, justify="right", overflow="fold")
        table.add_row(Text(name, style), *(Text(cell, style) for cell in cells))
        console.print(Padding(table, (0, 0, 0, 2)))

    row("derived", titles, "bold")
    for name, size in {name: size for column in columns for name, size in column.items()}.items():
        row(name, (_number(column.get(name)) for column in columns), "")
        console.print(Padding(Text(f"{size.unit}: {size.formula}", style="dim"), (0, 0, 0, 6)))
    console.print()


def _number(size: Size | None) -> str:
    return "-" if size is None or size.value is None else f"{size.value:,}"


def _print_closing(console: Console, explanation: Explanation) -> None:
    for warning in explanation.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    console.print(Text(f"{explanation.name}, recipe hash {explanation.digest[:16]}"))


def show_presets(*, as_json: bool) -> None:
    """Print every preset with its source and the values it sets."""
    if as_json:
        listing = {p.name: {"source": p.source, "note": p.note, "algorithm": p.algorithm} for p in PRESETS.values()}
        print(json.dumps(listing, indent=2, ensure_ascii=False))
        return
    console: Console = terminal.console(highlight=False)
    for preset in PRESETS.values():
        console.print(Text.assemble((preset.name, "bold"), f"  {preset.source}"))
        console.print(Padding(Text(preset.note), (0, 0, 0, 2)))
        console.print(Padding(Text(_values(preset.algorithm), style="dim"), (0, 0, 1, 2)))


def _values(algorithm: Mapping[str, object], prefix: str = "") -> str:
    parts = [
        _values(value, f"{key}.") if isinstance(value, dict) else f"{prefix}{key} = {shown(value)}"
        for key, value in algorithm.items()
    ]
    return ", ".join(parts)


def shown(value: object) -> str:
    """A value as written in TOML; texts without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return str(value)
