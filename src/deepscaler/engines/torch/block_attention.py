"""The decoding step on CPU: one new token for every row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deepscaler.cpu.decode_attention import DecodeAttention, decode_attention
from deepscaler.engines.torch.decode_state import DecodeState, sample_rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache


class CpuStep:
    """One token for every row, on CPU."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._attention: DecodeAttention | None = None

    def run(self, state: DecodeState, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: block tables differ from those of the last step."""
        count = len(state)
        padding = -count % self._decoder.matmul.row_multiple
        if changed or self._attention is None:
            self._attention = decode_attention(*state.block_tables, self._cache.keys, self._cache.values, padding)
        fed = np.zeros((2, count + padding), np.int64)
        fed[0, :count], fed[1, :count] = state.last_tokens, state.num_cached
        token_N, position_N = torch.from_numpy(fed)
        attention = self._attention.step(position_N[:count])
        logits = self._decoder.logits(token_N, position_N, attention)[:count]
        return sample_rows(logits, state, first=0)
