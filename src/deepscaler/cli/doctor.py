"""`deepscaler doctor`: what this machine, or a recipe on it, lacks. Works without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deepscaler.cli.diagnosis.finding import Finding
from deepscaler.cli.diagnosis.machine import machine, torch_and_gpus
from deepscaler.cli.diagnosis.packages import packages, programs
from deepscaler.observability.terminal import console

COLOURS = {"ok": "green", "note": "yellow", "missing": "red"}


@dataclass(frozen=True, slots=True)
class Asked:
    """recipe: whose needs are looked at as well. run_dir: where its run would write. address: of a Ray cluster."""

    recipe: Path | None = None
    overrides: Sequence[str] = field(default_factory=tuple)
    run_dir: Path = Path()
    address: str | None = None


def diagnose(asked: Asked) -> Iterator[Finding]:
    """All findings, in the order they are shown. Raises RecipeError for a recipe that cannot be used, nothing else."""
    yield from machine(asked.run_dir)
    yield from torch_and_gpus()
    yield from packages()
    yield from programs()
    recipe = None
    if asked.recipe is not None:
        from deepscaler.cli.diagnosis.recipe import recipe_needs
        from deepscaler.config import load_recipe

        recipe = load_recipe(asked.recipe, asked.overrides)
        yield from recipe_needs(recipe, asked.run_dir)
    if asked.address is not None:
        from deepscaler.cli.diagnosis.nodes import nodes

        yield from nodes(asked.address, asked.run_dir, recipe)


def show(*, asked: Asked, as_json: bool) -> bool:
    """Print the findings; returns whether nothing is missing."""
    findings = list(diagnose(asked))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        _print(findings)
    return all(finding.status != "missing" for finding in findings)


def _print(findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.topic), Text(finding.status, COLOURS[finding.status]), Text(finding.text))
    console(highlight=False).print(table)
