"""Tiny real models of every supported family, built offline from their configurations."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.modeling.generic import accelerated as faster

VOCABULARY = 40
STOP_ID = 1
# What a family has beside the layers of Llama; windows are shorter than the sequences of the tests.
OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "gemma3_text": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 6,
    },
    "smollm3": {"no_rope_layers": [1, 0]},
    "phi3": {
        "sliding_window": 9,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


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
    """Random weights, scaled up so that the distribution is far from uniform and errors would show.

    family: of ours, or a key of GENERIC, whose sizes are fixed.
    """
    if family in GENERIC:
        return make_generic(family, seed=seed)
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
        **OWN.get(family, {}),
    )
    torch.manual_seed(seed)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    model.set_attn_implementation(NAME)
    return faster(model) if accelerated else model


# Without a family here: learned positions and dropout; caps on scores and logits, windows; convolutions.
GENERIC: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gemma2": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 4.0,
        "max_position_embeddings": 128,
    },
    "lfm2": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
        "max_position_embeddings": 128,
        "block_auto_adjust_ff_dim": False,
    },
}


def make_generic(kind: str = "gpt2", *, seed: int = 0) -> Any:
    """A tiny model that has no family here, with its own attention."""
    config_class: Any = CONFIG_MAPPING[kind]
    config = config_class(
        vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=STOP_ID, pad_token_id=0, **GENERIC[kind]
    )
    torch.manual_seed(seed)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return model
