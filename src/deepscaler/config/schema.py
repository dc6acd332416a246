"""Lookup of a dotted key in the recipe's models, and pydantic's errors in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deepscaler.config.models import Recipe


class RecipeError(ValueError):
    """An invalid recipe. The message names file, key and remedy."""


def leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, object, FieldInfo]]:
    """(dotted key, value, field) of every setting, in order; an absent section is one leaf, None."""
    for name, field in type(model).model_fields.items():
        key, value = f"{prefix}{name}", getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, key + ".")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                yield from leaves(item, f"{key}.{index}.")
        else:
            yield key, value, field


def known_keys(parent: str, root: type[BaseModel] = Recipe) -> list[str]:
    """Names allowed directly under a dotted key; indices are skipped. Empty when it is no section."""
    model: type[BaseModel] | None = root
    for part in parent.split(".") if parent else ():
        if part.isdecimal():
            continue
        model = _section(model.model_fields[part]) if model and part in model.model_fields else None
    return list(model.model_fields) if model else []


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model inside `X`, `X | None` or `tuple[X, ...]`."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def all_settings(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key without indices, such as `stages.steps`; field) of every setting that a recipe can hold."""
    for name, field in model.model_fields.items():
        section = _section(field)
        if section:
            yield from all_settings(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def nearest_key(key: str, root: type[BaseModel] = Recipe) -> str | None:
    """The known key nearest to an unknown one: a misspelt sibling, or the same name in another section."""
    parent, _, name = key.rpartition(".")
    near = get_close_matches(name, known_keys(parent, root), n=1, cutoff=0.6)
    if near:
        return f"{parent}.{near[0]}" if parent else near[0]
    elsewhere = {known.rpartition(".")[2]: known for known, _ in all_settings(root)}
    near = get_close_matches(name, elsewhere, n=1, cutoff=0.8)
    return elsewhere[near[0]] if near else None


def explain_error(error: Mapping[str, Any], root: type[BaseModel] = Recipe) -> str:
    """One line for one pydantic error: key, what was expected, what was given."""
    key = ".".join(str(part) for part in error["loc"])
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        near = nearest_key(key, root)
        parent = key.rpartition(".")[0]
        hint = f"did you mean {near}?" if near else f"known here: {', '.join(known_keys(parent, root)) or 'nothing'}"
        return f"{key}: unknown key; {hint}"
    if kind == "missing":
        return f"{key}: missing; it has no default, so the recipe must set it"
    hint = error.get("ctx", {}).get("hint", "")
    return f"{key}: expected {_expected(error)}, given {_shown(given)}{hint}"


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "model_type": "a table of settings",
}


def _expected(error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "literal_error":
        return f"one of {context['expected']}"
    # bounds and the like: "Input should be greater than 0" -> "greater than 0"
    return str(error["msg"]).removeprefix("Input should be ").removeprefix("a value ")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
