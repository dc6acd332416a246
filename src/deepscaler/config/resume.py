"""Decides which settings may change on resume, from the declaration of each setting (`setting.py`).

docs/recipes.md lists them; a test compares the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deepscaler.config.models import Recipe
from deepscaler.config.schema import all_settings
from deepscaler.config.setting import compared_of, counts_as_absent, shapes_of
from deepscaler.json_text import ABSENT, Difference, canonical_digest, differences, flattened


def recipe_hash(recipe: BaseModel) -> str:
    """SHA-256 (hex) over canonical JSON of every setting that may not change on resume."""
    root = type(recipe)
    leaves = flattened(recipe.model_dump(mode="json"))
    return canonical_digest({k: v for k, v in leaves if not may_change(k, root) and not _says_nothing(k, v, root)})


def changed_settings(
    old: Mapping[str, object], new: Mapping[str, object], root: type[BaseModel] = Recipe
) -> list[Difference]:
    """Settings that may not change on resume but differ.

    old, new: `recipe.model_dump(mode="json")`, as kept in a run's recipe.json. root: the recipe's class.
    """
    return [changed for changed in _differences(old, new, root) if not may_change(changed.key, root)]


def changed_rounding(old: Mapping[str, object], new: Mapping[str, object]) -> list[Difference]:
    """Settings that differ and only change the order in which sums are rounded."""
    return [changed for changed in _differences(old, new, Recipe) if resume_rule(changed.key) == "rounding"]


def may_change(key: str, root: type[BaseModel] = Recipe) -> bool:
    """Whether a run may resume with another value of this setting."""
    return resume_rule(key, root) != "value"


def resume_rule(key: str, root: type[BaseModel] = Recipe) -> str:
    """How a resumed run compares the setting of a dotted key: `nothing` for one that shapes no step, else as declared.

    A key without a declaration, such as one of an older version, is compared by value.
    """
    field = _field(key, root)
    if field is None:
        return "value"
    return "nothing" if shapes_of(field) == "nothing" else compared_of(field)


def _differences(old: Mapping[str, object], new: Mapping[str, object], root: type[BaseModel]) -> list[Difference]:
    found = differences(old, new)
    return [one for one in found if one.before is not ABSENT or not _says_nothing(one.key, one.after, root)]


def _says_nothing(key: str, value: object, root: type[BaseModel]) -> bool:
    field = _field(key, root)
    return field is not None and counts_as_absent(field, value)


def _field(key: str, root: type[BaseModel]) -> FieldInfo | None:
    return _fields(root).get(".".join(part for part in key.split(".") if not part.isdecimal()))


@cache
def _fields(root: type[BaseModel]) -> dict[str, FieldInfo]:
    """By dotted key without indices."""
    return dict(all_settings(root))
