"""OLMo 2: norms after attention and MLP instead of before, and of whole query and key (arXiv:2501.00656, section 3)."""

from __future__ import annotations

from deepscaler.modeling.families.family import Family

FAMILY = Family("olmo2", parts=None)
