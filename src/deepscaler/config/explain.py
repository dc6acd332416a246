"""Resolved settings with their origins, derived sizes and warnings of a recipe. Plain data, no printing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from deepscaler.config import schema
from deepscaler.config.advice import warnings_for
from deepscaler.config.derived import Size, derived
from deepscaler.config.load import Resolved
from deepscaler.config.resume import recipe_hash
from deepscaler.config.setting import unit_of


@dataclass(frozen=True)
class SettingRow:
    """One setting. value: JSON-like (arrays are lists), None = absent; origin: as in `Resolved.origins`."""

    key: str
    value: object
    unit: str
    origin: str
    doc: str


@dataclass(frozen=True)
class Explanation:
    name: str
    digest: str
    settings: tuple[SettingRow, ...]
    sizes: tuple[Size, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For `--json`; keys are part of the interface."""
        return {
            "name": self.name,
            "recipe_hash": self.digest,
            "settings": [asdict(row) for row in self.settings],
            "derived": [asdict(size) for size in self.sizes],
            "warnings": list(self.warnings),
        }


def explain(resolved: Resolved, world_size: int = 1, cores: int = 1) -> Explanation:
    """Settings, derived sizes and warnings of a recipe. world_size: number of ranks for the per-rank numbers."""
    recipe = resolved.recipe
    rows = tuple(
        SettingRow(
            key,
            list(value) if isinstance(value, tuple) else value,
            unit_of(field),
            resolved.origins[key],
            field.description or "",
        )
        for key, value, field in schema.leaves(recipe)
    )
    sizes = tuple(derived(recipe, world_size, cores))
    warnings = [
        *warnings_for(recipe, resolved.origins),
        *_idle_ranks(sizes, world_size, recipe.training.context_parallel),
    ]
    return Explanation(recipe.name, recipe_hash(recipe), rows, sizes, tuple(warnings))


def _idle_ranks(sizes: tuple[Size, ...], world_size: int, context_parallel: int) -> list[str]:
    together = "" if context_parallel == 1 else f" in groups of {context_parallel}"
    return [
        f"{size.scope}: {world_size} ranks{together} share {size.value} sequences per update, so some stay idle"
        for size in sizes
        if size.name == "sequences per update" and size.value is not None and size.value * context_parallel < world_size
    ]
