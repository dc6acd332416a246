"""One attention for training and sampling, supplied through transformers' attention interface.

A model loaded with `attn_implementation=NAME` calls `dispatch` in every layer; the caller's `attention_context`
(passed as a keyword through the model's forward) decides what is attended to: a packed micro-batch, a padded
prefill, or the decoding cache. Shapes: B batch, H query heads, K key-value heads, T tokens, D head width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from deepscaler.cpu.dispatch import can_accelerate
from deepscaler.cpu.packed_attention import SegmentKeys, packed_attention

NAME = "deepscaler"


class AttentionContext(Protocol):
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """query [B,H,T,D], key and value [B,K,T,D], rotary embedding applied; returns [B,H,T,D].

        window: a token sees itself and the window - 1 tokens before it; None: all of them.
        """
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
    out = attention_context.attend(module.layer_idx, query, key, value, scaling, sliding_window)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, dispatch)


def cast_to_value_dtype(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key in the dtype of the value.

    Under autocast the rotation leaves them in float32, which no variable-length kernel takes and no cache stores.
    """
    return query.to(value.dtype), key.to(value.dtype)


def causal(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None) -> Tensor:
    """Plain causal attention with grouped key-value heads, over the last `window` tokens."""
    grouped = query.shape[1] != key.shape[1]
    if window is None or window >= query.shape[2]:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    seen = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()
    seen = seen.logical_and_(seen.new_ones(seen.shape).triu(1 - window))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling, enable_gqa=grouped)


def takes_varlen(query: Tensor) -> bool:
    """Whether torch's variable-length kernel is for this device and number type."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


class PackedAttention:
    """Several sequences in one row, none of which sees another, except that they may share their beginning.

    The row consists of segments of the given `lengths`. A sequence is a tuple of segment indices, in order: two
    completions of one prompt are (0, 1) and (0, 2), and the prompt is in the row once. Without `sequences` every
    segment is one. Kernels on CPU in float32 and torch's variable-length flash attention on CUDA in half precision
    compute the whole row at once; otherwise it is a loop over the sequences.
    """

    def __init__(
        self, lengths: Sequence[int], device: torch.device, sequences: Sequence[tuple[int, ...]] | None = None
    ) -> None:
        self.lengths = list(lengths)
        self.sequences = [(i,) for i in range(len(self.lengths))] if sequences is None else list(sequences)
        self._totals = [sum(self.lengths[i] for i in members) for members in self.sequences]
        self._offsets: Tensor | None = None
        self._device = device

    @functools.cached_property
    def segment_keys(self) -> SegmentKeys:
        return SegmentKeys(self.lengths, self.sequences)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        if window is not None and window >= max(self._totals):
            window = None
        if window is None and can_accelerate(query, key, value):
            return packed_attention(query, key, value, scaling, self.segment_keys)
        query, key = cast_to_value_dtype(query, key, value)
        q, k, v = (x.split(self.lengths, dim=2) for x in (query, key, value))
        if takes_varlen(query):
            order = [i for members in self.sequences for i in members]
            q, k, v = (torch.cat([x[i] for i in order], dim=2) for x in (q, k, v))
            return self._segments(self._varlen(q, k, v, scaling, window).split(self._totals, dim=2))
        return self._segments(
            [causal(_joined(q, m), _joined(k, m), _joined(v, m), scaling, window) for m in self.sequences]
        )

    def _segments(self, outputs: Sequence[Tensor]) -> Tensor:
        """[B,H,T,D] of the row from one output per sequence; what sequences share is equal in all of them."""
        parts: dict[int, Tensor] = {}
        for members, output in zip(self.sequences, outputs, strict=True):
            pieces = output.split([self.lengths[i] for i in members], dim=2) if len(members) > 1 else (output,)
            for index, piece in zip(members, pieces, strict=True):
                parts.setdefault(index, piece)
        # Joined as [B,T,H,D], the layout the kernels write and the next product reads: nothing is copied twice.
        return torch.cat([parts[i].transpose(1, 2) for i in range(len(self.lengths))], dim=1).transpose(1, 2)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        if self._offsets is None:
            ends = torch.tensor([0, *self._totals], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._offsets = ends.to(self._device)
        groups = query.shape[1] // key.shape[1]
        # torch 2.11 knows no enable_gqa here, so key-value heads are repeated; the copy is small beside the row.
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        length, ends = max(self._totals), self._offsets
        before = -1 if window is None else window - 1
        out = varlen_attn(q, k, v, ends, ends, length, length, window_size=(before, 0), scale=scaling)
        assert isinstance(out, Tensor)
        return out.transpose(0, 1).unsqueeze(0)


def _joined(parts: Sequence[Tensor], members: tuple[int, ...]) -> Tensor:
    return parts[members[0]] if len(members) == 1 else torch.cat([parts[i] for i in members], dim=2)


def forward_hidden(
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor,
    context: AttentionContext,
    *,
    half: torch.dtype | None = None,
) -> Tensor:
    """Final hidden states [B,T,hidden] of a causal LM, without its vocabulary head.

    half: mixed precision: embeddings and products in this type, all that is added up along the layers in float32,
    whatever type the weights have. Learner and engine both compute so, hence their log-probabilities differ little.
    """
    if half is None:
        inputs: dict[str, Tensor] = {"input_ids": input_ids}
    else:
        inputs = {"inputs_embeds": _embedded(model.get_input_embeddings(), input_ids, half)}
    with torch.autocast(input_ids.device.type, half or torch.bfloat16, enabled=half is not None):
        return model.base_model(
            **inputs, position_ids=position_ids, use_cache=False, attention_context=context
        ).last_hidden_state


def _embedded(embedding: Any, input_ids: Tensor, half: torch.dtype) -> Tensor:
    """float32 [B,T,hidden], rounded to `half` as transformers' own half-precision model has it."""
    embedded = F.embedding(input_ids, embedding.weight).to(half)
    scale = getattr(embedding, "embed_scale", None)  # of Gemma's embeddings
    return (embedded if scale is None else embedded * torch.as_tensor(scale).to(embedded)).float()
