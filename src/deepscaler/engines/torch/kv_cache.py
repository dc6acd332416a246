"""Key-value cache in blocks of a fixed number of tokens.

K key-value heads, D head width, B tokens per block. A block is filled from its first slot on; unused slots hold zeros,
so that an attention weight of 0 times their content is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.cpu.huge_pages import zeros_in_huge_pages
from deepscaler.engines.sizing import bytes_per_token
from deepscaler.engines.torch.block_allocator import BlockAllocator
from deepscaler.modeling.attention import cast_to_value_dtype, causal

_GROWTH = 1.5


class KVCache:
    """Per layer: keys [blocks,K,D,B] (transposed, see `cpu.kernels.decode_attention`) and values [blocks,K,B,D].

    Memory grows with the blocks allocated, up to `max_bytes`.
    """

    shares_blocks = True  # may several sequences refer to one block?
    num_reserved = 0  # blocks that no sequence may use
    clears_reused = True  # must a block be filled with zeros when it is allocated again?
    # Permutation of [P,K,blocks,B,D] to [P,blocks,...] in the memory layout of this cache.
    _key_order: tuple[int, ...] = (0, 2, 1, 4, 3)
    _value_order: tuple[int, ...] = (0, 2, 1, 3, 4)

    def __init__(
        self,
        config: Any,
        dtype: torch.dtype,
        device: torch.device,
        max_bytes: int,
        block_tokens: int = 64,
    ) -> None:
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.dtype, self.device, self._max_bytes = dtype, device, max_bytes
        self._num_layers: int = config.num_hidden_layers
        self._token_bytes = bytes_per_token(config, dtype)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.reset(block_tokens)

    def reset(self, block_tokens: int, max_bytes: int | None = None) -> None:
        """Free all memory and start again with this block size, and a new limit if given. No block may be in use."""
        self.block_tokens = block_tokens
        self._max_bytes = max_bytes or self._max_bytes
        self.block_bytes = self._token_bytes * block_tokens
        self.allocator = BlockAllocator(self._max_bytes // self.block_bytes)
        self.keys[:] = [self._empty(0, self._shape(self._key_order)) for _ in range(self._num_layers)]
        self.values[:] = [self._empty(0, self._shape(self._value_order)) for _ in range(self._num_layers)]

    def _shape(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one block with its axes in this order."""
        return tuple({1: self.kv_heads, 3: self.block_tokens, 4: self.head_dim}[axis] for axis in order[2:])

    @staticmethod
    def choose_block_tokens(longest: int) -> int:
        """Small blocks waste less memory and share more of a prompt; large ones are read faster."""
        return 32 if longest <= 512 else 64

    def _empty(self, blocks: int, shape: Sequence[int]) -> Tensor:
        if self.device.type == "cpu":
            return zeros_in_huge_pages((blocks, *shape), self.dtype)
        return torch.zeros(blocks, *shape, dtype=self.dtype, device=self.device)

    @property
    def allocated_bytes(self) -> int:
        return len(self.keys[0]) * self.block_bytes

    def allocate(self, count: int) -> list[int]:
        """Allocate `count` blocks, filled with zeros if `clears_reused`. Grows the memory, one tensor at a time."""
        before = self.allocator.peak
        blocks = self.allocator.allocate(count)
        self._grow(self.allocator.peak)
        reused = [b for b in blocks if b < before]
        if reused and self.clears_reused:
            index = torch.tensor(reused, device=self.device)
            for tensor in (*self.keys, *self.values):
                tensor.index_fill_(0, index, 0.0)
        return blocks

    def _grow(self, needed: int) -> None:
        if needed <= len(self.keys[0]):
            return
        blocks = min(max(needed, int(_GROWTH * len(self.keys[0]))), self.allocator.num_blocks)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._empty(blocks, old.shape[1:])
                tensors[layer][: len(old)] = old

    def max_sequence_tokens(self, prompt_tokens: int) -> int:
        """The most tokens that a sequence with a prompt of this length can have.

        Starting a sequence copies the last block of its prompt, or all of them if blocks are not shared; one block more
        is free for the next token.
        """
        copied = 1 if self.shares_blocks else -(-prompt_tokens // self.block_tokens)
        return max(0, self.allocator.num_blocks - self.num_reserved - copied - 1) * self.block_tokens

    def write(self, tables: Sequence[Sequence[int]], layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the keys and values [P,K,tokens,D] of P right-padded prompts in one layer into their blocks."""
        index = torch.tensor([b for table in tables for b in table], device=self.device)
        most = -(-keys.shape[2] // self.block_tokens)
        chosen = torch.tensor([p * most + i for p, table in enumerate(tables) for i in range(len(table))])
        missing = (0, 0, 0, most * self.block_tokens - keys.shape[2])
        for tensors, new, order in ((self.keys, keys, self._key_order), (self.values, values, self._value_order)):
            split = F.pad(new, missing).unflatten(2, (most, self.block_tokens)).permute(order).flatten(0, 1)
            tensors[layer].index_copy_(0, index, split[chosen.to(self.device)])

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy each block of `sources` to the one of `targets` at the same index, in every layer."""
        source, target = (torch.tensor(x, dtype=torch.int64, device=self.device) for x in (sources, targets))
        for tensor in (*self.keys, *self.values):
            tensor.index_copy_(0, target, tensor.index_select(0, source))


class PrefillAttention:
    """Causal attention over right-padded prompts [P,T]; collects the keys and values of every layer."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        assert layer == len(self.keys)
        query, key = cast_to_value_dtype(query, key, value)
        self.keys.append(key)
        self.values.append(value)
        # Padding is to the right of every token, so the causal mask already hides it.
        return causal(query, key, value, scaling, window)
