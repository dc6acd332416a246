"""Prompts are prefilled once and shared by all samples of their group."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch.decode_state import Sequence
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache, PrefillAttention

PREFILL_TOKENS = 16384  # padded prompt tokens per prefill forward


@dataclass(slots=True)
class _Prefix:
    """Blocks of a prompt, the last one partly filled if `partial`, and the logits [V] of the token that follows it."""

    blocks: list[int]
    partial: bool
    logits: Tensor


class PrefixCache:
    """Prefilled prompts for which sequences are still waiting, keyed by the identity of their request.

    The prefix of a preempted sequence is its prompt and the tokens it has already generated.
    """

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._prefixes: dict[int, _Prefix] = {}

    def pop_schedulable(self, waiting: deque[Sequence], most: int, num_running: int) -> list[Sequence]:
        """Pop at most `most` sequences that fit the cache: blocks of the prompt, copied blocks, and one to grow each.

        One free block is left for every running sequence.
        """
        scheduled: list[Sequence] = []
        free = self._cache.allocator.num_free - num_running
        new: set[int] = set()
        while waiting and len(scheduled) < most:
            key = _key(waiting[0])
            prompt = -(-len(waiting[0].ids) // self._cache.block_tokens)
            needed = (1 if self._cache.shares_blocks else prompt) + 1  # the copied blocks, and one to grow
            if key not in self._prefixes and key not in new:
                needed += prompt
            # With nothing else running the whole cache is free, and the engine has checked that one sequence fits.
            if needed > free and (scheduled or num_running):
                break
            free -= needed
            new.add(key)
            scheduled.append(waiting.popleft())
        return scheduled

    def prefill(self, sequences: list[Sequence]) -> Tensor:
        """Prefill the prompts that are not cached; returns the logits [N,V] of the next token of each sequence."""
        missing = {_key(s): s.ids for s in sequences if _key(s) not in self._prefixes}
        start, keys = 0, list(missing)
        while start < len(keys):
            end, longest = start, 0
            while end < len(keys):
                longest = max(longest, len(missing[keys[end]]))
                if end > start and longest * (end + 1 - start) > PREFILL_TOKENS:
                    break
                end += 1
            chunk = keys[start:end]
            self._prefixes.update(zip(chunk, self._prefill([missing[k] for k in chunk]), strict=True))
            start = end
        return torch.stack([self._prefixes[_key(s)].logits for s in sequences])

    def _prefill(self, prompts: list[NDArray[np.int32]]) -> list[_Prefix]:
        lengths = [len(p) for p in prompts]
        ids = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : lengths[row]] = prompt
        attention = PrefillAttention()
        logits = self._decoder.prompt_logits(torch.from_numpy(ids).to(self._cache.device), lengths, attention)
        tables = [self._cache.allocate(-(-length // self._cache.block_tokens)) for length in lengths]
        for layer, (keys, values) in enumerate(zip(attention.keys, attention.values, strict=True)):
            self._cache.write(tables, layer, keys, values)
        partial = [length % self._cache.block_tokens != 0 for length in lengths]
        return [_Prefix(*parts) for parts in zip(tables, partial, logits, strict=True)]

    def block_tables(self, sequences: list[Sequence]) -> list[list[int]]:
        """Block tables of sequences that start now: full blocks are shared, a partly filled one is copied."""
        prefixes = [self._prefixes[_key(s)] for s in sequences]
        shared = [prefix.blocks[: len(prefix.blocks) - self._num_copied(prefix)] for prefix in prefixes]
        copied = [prefix.blocks[len(kept) :] for prefix, kept in zip(prefixes, shared, strict=True)]
        own = iter(self._cache.allocate(sum(map(len, copied))))
        tables = []
        for kept, sources in zip(shared, copied, strict=True):
            self._cache.allocator.add_references(kept)
            tables.append(kept + [next(own) for _ in sources])
        if any(copied):
            targets = [b for table, kept in zip(tables, shared, strict=True) for b in table[len(kept) :]]
            self._cache.copy([b for sources in copied for b in sources], targets)
        return tables

    def _num_copied(self, prefix: _Prefix) -> int:
        return int(prefix.partial) if self._cache.shares_blocks else len(prefix.blocks)

    def evict_unused(self, waiting: deque[Sequence]) -> None:
        """Evict all prompts but that of the first waiting sequence: the samples of a group follow one another."""
        needed = _key(waiting[0]) if waiting else None
        self._evict([key for key in self._prefixes if key != needed])

    def clear(self) -> None:
        self._evict(list(self._prefixes))

    def _evict(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._cache.allocator.free(self._prefixes.pop(key).blocks)


def _key(sequence: Sequence) -> int:
    return id(sequence) if len(sequence.token_array) else id(sequence.request)
