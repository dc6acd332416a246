"""Mistral: the layers of Llama, with a sliding window in some releases (arXiv:2310.06825, section 2)."""

from __future__ import annotations

from deepscaler.modeling.families.family import Family
from deepscaler.modeling.families.llama import layer_parts

FAMILY = Family("mistral", layer_parts)
