"""Loads a TOML file into a frozen `Recipe` and records the origin of every value.

    defaults < preset's [algorithm] values < `extends` chain < file < --set

Tables are merged key by key; arrays, including `stages`, are replaced as a whole. One error lists all mistakes, one per
line, each with its file and key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from deepscaler.config import checks, schema
from deepscaler.config.import_paths import located
from deepscaler.config.layers import Layers, read_chain
from deepscaler.config.models import Recipe
from deepscaler.config.presets import PRESETS, Preset
from deepscaler.config.schema import RecipeError


@dataclass(frozen=True)
class Resolved:
    """A recipe and the origin of each of its settings.

    origins: dotted key -> `file:NAME` (NAME relative to the recipe's folder), `preset 'x' (source)`, `--set`
        or `default`; has every key of `schema.leaves(recipe)`.
    """

    recipe: Recipe
    origins: Mapping[str, str]
    path: Path


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and check a recipe. `overrides` are `a.b=value`, as given to --set. Raises RecipeError."""
    return resolve(path, overrides).recipe


def resolve(path: str | Path, overrides: Sequence[str] = ()) -> Resolved:
    """`load_recipe` with the origin of each value. Raises RecipeError."""
    path = Path(path)
    layers = Layers()
    for file, table in read_chain(path):
        layers.merge(located(table, file.parent), f"file:{os.path.relpath(file, path.parent)}")
    for override in overrides:
        layers.override(override)
    if "suite" in layers.table:
        raise RecipeError(
            f"{path}: a recipe with [suite] is for an evaluation, not for a training run; use it with "
            f"`deepscaler eval MODEL --recipe {path}`. docs/evaluation.md explains its settings"
        )
    if "sft" in layers.table and not layers.table.keys() & {"rollout", "stages"}:
        raise RecipeError(
            f"{path}: a recipe with [sft] and without [rollout] and [[stages]] fine-tunes on traces; use it with "
            f"`deepscaler sft {path} --run-dir DIR`. docs/sft.md explains its settings"
        )
    preset = _preset_of(layers, path)
    if isinstance(layers.table.get("algorithm", {}), dict):  # otherwise validation reports the error
        layers.put_below({"algorithm": preset.algorithm}, f"preset '{preset.name}' ({preset.source})")
    recipe = _validate(layers, path)
    origins = {key: layers.origin(key) for key, _, _ in schema.leaves(recipe)}
    contradictions = checks.contradictions(recipe, origins)
    if contradictions:
        raise RecipeError("\n".join(f"{path}: {line}" for line in contradictions))
    return Resolved(recipe, origins, path)


def _preset_of(layers: Layers, path: Path) -> Preset:
    name = layers.table.get("preset", Recipe.model_fields["preset"].default)
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(str(name), PRESETS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError(
        f"{_where(layers, 'preset', path)}: preset: no preset {name!r}; {hint}Presets: {', '.join(PRESETS)}"
    )


def _validate(layers: Layers, path: Path) -> Recipe:
    # Validated as JSON, because strict mode then accepts arrays for tuples and integers for floats, and nothing else:
    # "12" for a number or true for a count is an error.
    try:
        return Recipe.model_validate_json(json.dumps(layers.table), strict=True)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            lines.append(f"{_where(layers, key, path)}: {schema.explain_error(item)}")
        raise RecipeError("\n".join(lines)) from None


def _where(layers: Layers, key: str, path: Path) -> str:
    """The file that sets a key, relative to the working directory, or --set."""
    place = layers.place(key, f"file:{path.name}")
    return str(path.parent / place.removeprefix("file:")) if place.startswith("file:") else place
