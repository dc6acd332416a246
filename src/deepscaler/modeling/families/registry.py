"""The model families that can be trained and sampled from, by transformers' `model_type`.

A new one is a file beside this one and its name in this import and this tuple; the conformance and parity tests then
run on it too.
"""

from __future__ import annotations

from typing import Any

from deepscaler.modeling.families import llama, qwen2, qwen3
from deepscaler.modeling.families.family import Family

FAMILIES: dict[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in (qwen2, qwen3, llama)}


def family_of(model: Any) -> Family:
    """The family of a transformers model."""
    return FAMILIES[model.config.model_type]
