"""Llama: grouped-query attention, rotary positions, RMS norms, a gated MLP (arXiv:2302.13971, arXiv:2407.21783)."""

from __future__ import annotations

from typing import Any

from deepscaler.modeling.families.family import Family, LayerParts
from deepscaler.modeling.families.window import window_of


def layer_parts(layer: Any) -> LayerParts:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerParts(
        attention=attention,
        attention_norm=layer.input_layernorm,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        out=attention.o_proj,
        mlp_norm=layer.post_attention_layernorm,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        window=window_of(attention),
    )


FAMILY = Family("llama", layer_parts)
