"""Qwen2 and Qwen2.5: the layers of Llama, with biases on query, key and value (arXiv:2407.10671)."""

from __future__ import annotations

from deepscaler.modeling.families.family import Family
from deepscaler.modeling.families.llama import layer_parts

FAMILY = Family("qwen2", layer_parts)
