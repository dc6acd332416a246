"""Key-value cache in slots, and the two attention contexts that fill and read it.

L layers, K key-value heads, D head width, S slots. Active sequences always occupy slots 0..n-1, so that decoding
works on plain slices: a finished sequence's slot is taken over by the last one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.attention import causal


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """What one token of one sequence takes in the cache: keys and values of every layer."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize


class SlotCache:
    """keys, values: [L, S, K, capacity, D], allocated once and enlarged only when a longer budget is asked for."""

    def __init__(self, config: Any, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = config.num_attention_heads
        self._shape = (config.num_hidden_layers, slots, config.num_key_value_heads)
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._dtype, self._device = dtype, device
        self.capacity = 0
        self.keys = self.values = torch.empty(0)

    @property
    def slots(self) -> int:
        return self._shape[1]

    def reserve(self, capacity: int) -> None:
        """Make room for sequences of `capacity` tokens. What the cache held is lost."""
        if capacity > self.capacity:
            shape = (*self._shape, capacity, self._head_dim)
            self.keys = self.values = torch.empty(0)  # free before allocating anew
            # Zeros, not empty: hidden positions get weight 0, and 0 times an arbitrary NaN would be NaN.
            self.keys = torch.zeros(shape, dtype=self._dtype, device=self._device)
            self.values = torch.zeros_like(self.keys)
            self.capacity = capacity

    def put_prefix(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Copy one prompt's keys and values [L,K,tokens,D] into several slots."""
        length = keys.shape[2]
        self.keys[:, slots, :, :length] = keys.unsqueeze(1)
        self.values[:, slots, :, :length] = values.unsqueeze(1)

    def move(self, source: int, target: int, length: int) -> None:
        """Slot `target` := slot `source`, first `length` tokens."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]


class PrefillAttention:
    """Causal attention over right-padded prompts [P, T] that keeps every layer's keys and values."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        assert layer == len(self.keys)
        self.keys.append(key)
        self.values.append(value)
        # Padding stands to the right of every real token, so causality already hides it.
        return causal(query, key, value, scaling)


class DecodeAttention:
    """One new token per active sequence against its own slot."""

    def __init__(self, cache: SlotCache, lengths_N: Tensor, longest: int) -> None:
        """lengths_N: int64 [N], tokens already cached per sequence; `longest` = their maximum, on the host."""
        self._cache = cache
        self._rows = torch.arange(len(lengths_N), device=lengths_N.device)
        self._lengths = lengths_N
        self._width = longest + 1
        positions = torch.arange(self._width, device=lengths_N.device)
        hidden = (positions > lengths_N.unsqueeze(1))[:, None, None, :]
        self._bias = torch.zeros(hidden.shape, device=lengths_N.device, dtype=cache.keys.dtype)
        self._bias.masked_fill_(hidden, -torch.inf)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        count, heads, _, width = query.shape
        keys, values = self._cache.keys[layer, :count], self._cache.values[layer, :count]
        keys[self._rows, :, self._lengths] = key[:, :, 0]
        values[self._rows, :, self._lengths] = value[:, :, 0]
        # The query heads that share a key-value head stand in as its query positions: nothing is repeated.
        shared = query.view(count, key.shape[1], heads // key.shape[1], width)
        keys, values = keys[:, :, : self._width], values[:, :, : self._width]
        if query.is_cuda:
            out = F.scaled_dot_product_attention(shared, keys, values, attn_mask=self._bias, scale=scaling)
        else:
            # On two CPU threads this is 1.2-3 times as fast as the fused kernel, which does not split this shape.
            scores = torch.matmul(shared * scaling, keys.transpose(2, 3)).add_(self._bias)
            out = torch.matmul(scores.softmax(dim=-1), values)
        return out.reshape(count, heads, 1, width)
