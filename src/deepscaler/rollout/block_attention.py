"""The decoding step on CPU: one new token for every row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deepscaler.cpu.decode_attention import DecodeAttention, decode_attention
from deepscaler.rollout.cache import BlockCache
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.rows import Rows, draw_rows


class BlockStep:
    """One token for every row, on CPU."""

    def __init__(self, decoder: Decoder, cache: BlockCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._attention: DecodeAttention | None = None

    def run(self, rows: Rows, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: their blocks are others than in the last step."""
        count = len(rows)
        padding = -count % self._decoder.matmul.row_multiple
        if changed or self._attention is None:
            self._attention = decode_attention(*rows.tables, self._cache.keys, self._cache.values, padding)
        fed = np.zeros((2, count + padding), np.int64)
        fed[0, :count], fed[1, :count] = rows.newest, rows.num_cached
        token_N, position_N = torch.from_numpy(fed)
        attention = self._attention.step(position_N[:count])
        logits = self._decoder.logits(token_N, position_N, attention)[:count]
        return draw_rows(logits, rows, first=0)
