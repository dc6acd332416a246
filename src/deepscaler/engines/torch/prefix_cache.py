"""Prompts are computed once and held by all samples of their group."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch import decode_state as rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import BlockCache, PrefillAttention

PREFILL_TOKENS = 16384  # padded prompt tokens per prefill forward


@dataclass(slots=True)
class _Prefix:
    """The blocks of a prompt, the last of them partly filled if `partial`, and the logits [V] of its next token."""

    blocks: list[int]
    partial: bool
    logits: Tensor


class Prefixes:
    """Prefilled prompts for which sequences still wait, by identity of their request.

    A sequence that was taken out of the batch comes back with tokens of its own: its prefix is prompt and tokens.
    """

    def __init__(self, decoder: Decoder, cache: BlockCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._ready: dict[int, _Prefix] = {}

    def admissible(self, waiting: deque[rows.Sequence], most: int, num_active: int) -> list[rows.Sequence]:
        """Take from the queue what fits: prompt blocks, one block of its own each, and one to grow for every row."""
        admitted: list[rows.Sequence] = []
        free = self._cache.allocator.num_free - num_active
        new: set[int] = set()
        while waiting and len(admitted) < most:
            key = _key(waiting[0])
            prompt = -(-len(waiting[0].ids) // self._cache.block_tokens)
            needed = (1 if self._cache.shares_blocks else prompt) + 1  # what is copied, and one to grow
            if key not in self._ready and key not in new:
                needed += prompt
            # With nothing else active the whole cache is there, and `TorchEngine` has checked that one always fits.
            if needed > free and (admitted or num_active):
                break
            free -= needed
            new.add(key)
            admitted.append(waiting.popleft())
        return admitted

    def fill(self, sequences: Sequence[rows.Sequence]) -> Tensor:
        """Prefill what is missing; the logits [N,V] of the next token of each."""
        missing = {_key(s): s.ids for s in sequences if _key(s) not in self._ready}
        start, keys = 0, list(missing)
        while start < len(keys):
            end, longest = start, 0
            while end < len(keys):
                longest = max(longest, len(missing[keys[end]]))
                if end > start and longest * (end + 1 - start) > PREFILL_TOKENS:
                    break
                end += 1
            chunk = keys[start:end]
            self._ready.update(zip(chunk, self._prefill([missing[k] for k in chunk]), strict=True))
            start = end
        return torch.stack([self._ready[_key(s)].logits for s in sequences])

    def _prefill(self, prompts: Sequence[NDArray[np.int32]]) -> list[_Prefix]:
        lengths = [len(p) for p in prompts]
        ids = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : lengths[row]] = prompt
        attention = PrefillAttention()
        logits = self._decoder.prompt_logits(torch.from_numpy(ids).to(self._cache.device), lengths, attention)
        tables = [self._cache.take(-(-length // self._cache.block_tokens)) for length in lengths]
        for layer, (keys, values) in enumerate(zip(attention.keys, attention.values, strict=True)):
            self._cache.put(tables, layer, keys, values)
        partial = [length % self._cache.block_tokens != 0 for length in lengths]
        return [_Prefix(*parts) for parts in zip(tables, partial, logits, strict=True)]

    def tables_for(self, sequences: Sequence[rows.Sequence]) -> list[list[int]]:
        """The blocks of sequences that start now: full ones are shared, partly filled ones copied."""
        prefixes = [self._ready[_key(s)] for s in sequences]
        shared = [prefix.blocks[: len(prefix.blocks) - self._num_copied(prefix)] for prefix in prefixes]
        copied = [prefix.blocks[len(kept) :] for prefix, kept in zip(prefixes, shared, strict=True)]
        own = iter(self._cache.take(sum(map(len, copied))))
        tables = []
        for kept, sources in zip(shared, copied, strict=True):
            self._cache.allocator.share(kept, 1)
            tables.append(kept + [next(own) for _ in sources])
        if any(copied):
            targets = [b for table, kept in zip(tables, shared, strict=True) for b in table[len(kept) :]]
            self._cache.copy([b for sources in copied for b in sources], targets)
        return tables

    def _num_copied(self, prefix: _Prefix) -> int:
        return int(prefix.partial) if self._cache.shares_blocks else len(prefix.blocks)

    def forget(self, waiting: deque[rows.Sequence]) -> None:
        """Drop prompts nobody waits for. A group's samples stand together in the queue."""
        needed = _key(waiting[0]) if waiting else None
        self._drop([key for key in self._ready if key != needed])

    def clear(self) -> None:
        self._drop(list(self._ready))

    def _drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._cache.allocator.release(self._ready.pop(key).blocks)


def _key(sequence: rows.Sequence) -> int:
    return id(sequence) if len(sequence.token_array) else id(sequence.request)
