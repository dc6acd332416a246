"""Qwen3: the layers of Llama, with an RMS norm of every head's query and key (arXiv:2505.09388)."""

from __future__ import annotations

from typing import Any

from deepscaler.modeling.families import llama
from deepscaler.modeling.families.family import Family, LayerParts


def layer_parts(layer: Any) -> LayerParts:
    attention = layer.self_attn
    return llama.layer_parts(layer)._replace(query_norm=attention.q_norm, key_norm=attention.k_norm)


FAMILY = Family("qwen3", layer_parts)
