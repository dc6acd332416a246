"""SmolLM3: Llama without rotary positions in every fourth layer (arXiv:2501.18795, huggingface.co/blog/smollm3)."""

from __future__ import annotations

from deepscaler.modeling.families.family import Family

FAMILY = Family("smollm3", parts=None)
