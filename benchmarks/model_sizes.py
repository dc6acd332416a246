"""The models that benchmarks run on: random weights, sizes as in the tables of docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from deepscaler import cpu
from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import family_of

SIZES: dict[str, dict[str, int]] = {
    "tiny": {  # 1.1 M parameters
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "small": {  # 34 M
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
}
SIZES["bigvocab"] = {**SIZES["tiny"], "vocab_size": 151_936}


def build(size: str, attention: str, *, max_tokens: int = 32768) -> Any:
    """A Qwen2 model of that size, the same weights in every call. `attention`: transformers' name of it."""
    config = Qwen2Config(
        **SIZES[size],  # type: ignore[arg-type]
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation(attention)
    return cpu.accelerate(model, family_of(model).parts) if attention == NAME else model
