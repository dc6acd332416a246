"""Tiny real models of every supported family, built offline from their configurations."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from deepscaler import cpu
from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import FAMILIES, family_of

VOCABULARY = 40
STOP_ID = 1


def make_model(
    family: str = "qwen2",
    *,
    seed: int = 0,
    tied: bool = True,
    head_dim: int = 8,
    heads: int = 4,
    accelerated: bool = True,
    max_tokens: int = 128,
) -> Any:
    """Random weights, scaled up so that the distribution is far from uniform and errors would show."""
    config_class: Any = CONFIG_MAPPING[FAMILIES[family].model_type]
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=heads * head_dim,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=STOP_ID,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    model.set_attn_implementation(NAME)
    return cpu.accelerate(model, family_of(model).parts) if accelerated else model
