"""One attention for training and sampling, supplied through transformers' attention interface.

A model loaded with `attn_implementation=NAME` calls `dispatch` in every layer; the caller's `attention_context`
(passed as a keyword through the model's forward) decides what is attended to: a packed micro-batch, a padded
prefill, or the decoding cache. Shapes: B batch, H query heads, K key-value heads, T tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

NAME = "deepscaler"
SUPPORTED_FAMILIES = ("qwen2", "qwen3", "llama")


class AttentionContext(Protocol):
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """query [B,H,T,D], key and value [B,K,T,D], rotary embedding applied; returns [B,H,T,D]."""
        ...


def dispatch(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attention_context: AttentionContext,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature; returns ([B,T,H,D], None)."""
    if sliding_window is not None:
        raise ValueError(
            f"layer {module.layer_idx} uses sliding-window attention, which is not supported; "
            "set use_sliding_window to false in the model's config.json if the model was trained without it"
        )
    out = attention_context.attend(module.layer_idx, query, key, value, scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, dispatch)


def causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Plain causal attention with grouped key-value heads."""
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


class PackedAttention:
    """Several sequences in one row, none of which sees another.

    On CPU a loop over the sequences is the fastest correct way there is (docs/benchmarks.md); on CUDA in half
    precision torch's variable-length flash attention does the whole row at once.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.max_length = max(self.lengths)
        self._offsets: Tensor | None = None
        self._device = device

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
            return self._varlen(query, key, value, scaling)
        parts = zip(
            query.split(self.lengths, dim=2),
            key.split(self.lengths, dim=2),
            value.split(self.lengths, dim=2),
            strict=True,
        )
        return torch.cat([causal(q, k, v, scaling) for q, k, v in parts], dim=2)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        if self._offsets is None:
            ends = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._offsets = ends.to(self._device)
        groups = query.shape[1] // key.shape[1]
        # torch 2.11 knows no enable_gqa here, so key-value heads are repeated; the copy is small beside the row.
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        length, ends = self.max_length, self._offsets
        out = varlen_attn(q, k, v, ends, ends, length, length, window_size=(-1, 0), scale=scaling)
        assert isinstance(out, Tensor)
        return out.transpose(0, 1).unsqueeze(0)


def forward_hidden(model: Any, input_ids: Tensor, position_ids: Tensor, context: AttentionContext) -> Tensor:
    """Final hidden states [B,T,hidden] of a causal LM, without its vocabulary head."""
    return model.base_model(
        input_ids=input_ids, position_ids=position_ids, use_cache=False, attention_context=context
    ).last_hidden_state
