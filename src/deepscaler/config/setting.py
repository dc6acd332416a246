"""A setting: a pydantic field that also declares its unit and the results it shapes.

The settings that may change on resume, the identity of an evaluation and the name of a base model are derived from
these declarations (`resume.py`, `evaluation.py`, `toy/base_model.py`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.fields import FieldInfo

# The earliest artifact that a setting changes; everything after it in this order changes as well:
# base model -> samples (prompts and completions) -> verdicts -> optimizer update. In a training recipe it is those of
# a training step, so a setting that only evaluations inside training read shapes nothing.
Shapes = Literal["base", "samples", "verdict", "update", "nothing"]

# How two results show that they were made with the same setting.
#   value     the setting itself is recorded and compared
#   content   the setting is a path or a choice; a digest or name of the content is recorded instead
#   rounding  not compared: it only changes the order in which sums are rounded
Compared = Literal["value", "content", "rounding"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def setting(
    default: Any = ...,
    *,
    shapes: Shapes,
    compared: Compared = "value",
    added: bool = False,
    unit: str = "",
    doc: str,
    **bounds: Any,
) -> Any:
    """A field of a section. doc: its meaning, for `deepscaler explain`. bounds: as pydantic's `Field` (gt, le, …).

    added: runs were recorded before there was this setting, so at its default it counts as absent.
    """
    declared: dict[str, JsonValue] = {"unit": unit, "shapes": shapes, "compared": compared, "added": added}
    return Field(default, description=doc, json_schema_extra=declared, **bounds)


def unit_of(field: FieldInfo) -> str:
    return _declared(field, "unit")


def shapes_of(field: FieldInfo) -> str:
    """One of `Shapes`; empty for a field that was not made by `setting`, such as one that holds a section."""
    return _declared(field, "shapes")


def compared_of(field: FieldInfo) -> str:
    """One of `Compared`; empty for a field that was not made by `setting`."""
    return _declared(field, "compared")


def counts_as_absent(field: FieldInfo, value: object) -> bool:
    """Whether records made before there was this setting say the same."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("added")) and value == field.default


def _declared(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def values_shaping(section: BaseModel, shapes: Shapes) -> dict[str, Any]:
    """The settings that shape this artifact and are compared by value, as nested tables of JSON values.

    Tables without such a setting are left out, and so are later settings at their default (`added`).
    """
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            if table := values_shaping(value, shapes):
                found[name] = table
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            if any(tables := [values_shaping(item, shapes) for item in value]):
                found[name] = tables
        elif shapes_of(field) == shapes and compared_of(field) == "value" and not counts_as_absent(field, value):
            found |= section.model_dump(mode="json", include={name})
    return found
