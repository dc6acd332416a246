"""The model families that can be trained and sampled from, by transformers' `model_type`.

A new one is a file beside this one and its name in this import and this tuple; the conformance and parity tests then
run on it too.
"""

from __future__ import annotations

from typing import Any

from deepscaler.modeling.families import gemma3, llama, mistral, olmo2, phi3, qwen2, qwen3, qwen3_moe, smollm3
from deepscaler.modeling.families.family import Family

_MODULES = (qwen2, qwen3, llama, mistral, smollm3, gemma3, olmo2, phi3, qwen3_moe)
FAMILIES: dict[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in _MODULES}

FUSED = tuple(name for name, family in FAMILIES.items() if family.parts is not None)  # whose layers are Llama's


def has_family(config: Any) -> bool:
    """Whether the model of a transformers configuration is computed as one of a family."""
    return config.model_type in FAMILIES and FAMILIES[config.model_type].covers(config)


def family_of(model: Any) -> Family:
    """The family of a transformers model that has one."""
    return FAMILIES[model.config.model_type]
