"""Qwen3-MoE: the attention of Qwen3; a router sends every token to a few experts (arXiv:2505.09388, section 2)."""

from __future__ import annotations

from deepscaler.modeling.families.family import Family

FAMILY = Family("qwen3_moe", parts=None)
