"""Gemma 3, text only (270M, 1B): five layers with a sliding window to one without, a base of rotations for each kind.

Norms before and after every sublayer, with weights 1 + w; norms of query and key; GeGLU; scaled embeddings
(arXiv:2503.19786, section 2).
"""

from __future__ import annotations

from typing import Any

from deepscaler.modeling.families.family import Family


def covers(config: Any) -> bool:
    """Without the caps on scores and logits of Gemma 2, and causal."""
    return not (
        config.attn_logit_softcapping
        or config.final_logit_softcapping
        or getattr(config, "use_bidirectional_attention", False)
    )


FAMILY = Family("gemma3_text", parts=None, covers=covers)
