"""The completions in the making, one row each in plain arrays, so that a step costs no Python work per sequence.

Rows 0..n-1 are active; the last row takes the place of one that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.rollout.sampling import BLOCK, KeyedUniforms
from deepscaler.types import FinishReason, Request, Rollout

_FIRST_WIDTH = 64
_FIRST_BLOCKS = 8


@dataclass(slots=True)
class Sequence:
    """One completion: what identifies it, and what it has so far whenever it is not in a row."""

    request: Request
    sample_index: int
    uniforms: KeyedUniforms
    budget: int
    tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    logprobs: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def ids(self) -> NDArray[np.int32]:
        """All tokens: prompt and completion so far."""
        return np.concatenate([self.request.prompt_ids, self.tokens]) if len(self.tokens) else self.request.prompt_ids

    def rollout(self, version: int, stop_ids: NDArray[np.int64]) -> Rollout:
        return Rollout(
            problem_id=self.request.problem_id,
            sample_index=self.sample_index,
            prompt_ids=self.request.prompt_ids,
            completion_ids=self.tokens,
            rollout_logprobs=self.logprobs,
            finish_reason=FinishReason.STOP if self.tokens[-1] in stop_ids else FinishReason.LENGTH,
            policy_version=version,
        )


class Rows:
    """Up to `capacity` active sequences and the cache blocks of each, in order of position."""

    def __init__(self, capacity: int, stop_ids: NDArray[np.int64]) -> None:
        self.sequences: list[Sequence] = []
        self._stop_ids = stop_ids
        self._table = np.zeros((capacity, _FIRST_BLOCKS), np.int64)
        self._num_blocks = np.zeros(capacity, np.int64)
        self._prompt = np.zeros(capacity, np.int64)
        self._count = np.zeros(capacity, np.int64)
        self._budget = np.zeros(capacity, np.int64)
        self._newest = np.zeros(capacity, np.int64)
        self._uniforms = np.zeros((capacity, BLOCK), np.float32)
        self._tokens = np.zeros((capacity, _FIRST_WIDTH), np.int32)
        self._logprobs = np.zeros((capacity, _FIRST_WIDTH), np.float32)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def newest(self) -> NDArray[np.int64]:
        """The last token of each row, which the next step feeds to the model."""
        return self._newest[: len(self)]

    @property
    def num_cached(self) -> NDArray[np.int64]:
        """Tokens in the cache: all but the newest one, whose position this is as well."""
        return (self._prompt + self._count)[: len(self)] - 1

    @property
    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Blocks [N, most], and how many of them each row has [N]."""
        return self._table[: len(self)], self._num_blocks[: len(self)]

    def give_blocks(self, rows: NDArray[np.int64], blocks: list[int]) -> None:
        """One more block for each of `rows`."""
        self._table = _wide(self._table, int(self._num_blocks[rows].max()) + 1)
        self._table[rows, self._num_blocks[rows]] = blocks
        self._num_blocks[rows] += 1

    def add(self, sequence: Sequence, blocks: list[int]) -> None:
        """A new last row. Its next token is still to be drawn."""
        row, count = len(self), len(sequence.tokens)
        self.sequences.append(sequence)
        self._table = _wide(self._table, len(blocks))
        self._table[row, : len(blocks)], self._num_blocks[row] = blocks, len(blocks)
        self._prompt[row], self._count[row] = len(sequence.request.prompt_ids), count
        self._budget[row] = sequence.budget
        self._make_wide(count)
        self._tokens[row, :count], self._logprobs[row, :count] = sequence.tokens, sequence.logprobs
        if count % BLOCK:
            self._uniforms[row] = sequence.uniforms.block(count // BLOCK)

    def uniforms(self, first: int = 0) -> NDArray[np.float32]:
        """The numbers that draw the next token of the rows from `first` on, float32."""
        position = self._count[first : len(self)]
        offset = position % BLOCK
        for row in np.flatnonzero(offset == 0):
            uniforms = self.sequences[first + row].uniforms
            self._uniforms[first + row] = uniforms.block(int(position[row]) // BLOCK)
        return self._uniforms[np.arange(first, len(self)), offset]

    def append(self, tokens: NDArray[np.int64], logprobs: NDArray[np.float32], first: int = 0) -> None:
        """The next token of each row from `first` on."""
        rows = np.arange(first, len(self))
        position = self._count[rows]
        self._make_wide(int(position.max()) + 1)
        self._tokens[rows, position], self._logprobs[rows, position] = tokens, logprobs
        self._newest[rows] = tokens
        self._count[rows] += 1

    def finished(self) -> NDArray[np.int64]:
        """Rows whose last token is a stop token or the last one of the budget, highest first."""
        stopped = (self.newest[:, None] == self._stop_ids).any(1)
        return np.flatnonzero(stopped | (self._count >= self._budget)[: len(self)])[::-1]

    def remove(self, row: int) -> tuple[Sequence, list[int]]:
        """The sequence of a row, with its tokens, and its blocks. The last row moves into the gap."""
        count, last = self._count[row], len(self) - 1
        sequence, blocks = self.sequences[row], self._table[row, : self._num_blocks[row]].tolist()
        sequence.tokens, sequence.logprobs = self._tokens[row, :count].copy(), self._logprobs[row, :count].copy()
        if row != last:
            width = self._count[last]
            for array in (
                self._prompt,
                self._count,
                self._budget,
                self._newest,
                self._uniforms,
                self._table,
                self._num_blocks,
            ):
                array[row] = array[last]
            for array in (self._tokens, self._logprobs):
                array[row, :width] = array[last, :width]
            self.sequences[row] = self.sequences[last]
        self.sequences.pop()
        return sequence, blocks

    def _make_wide(self, width: int) -> None:
        self._tokens, self._logprobs = _wide(self._tokens, width), _wide(self._logprobs, width)


def _wide(array: NDArray[Any], width: int) -> NDArray[Any]:
    """The array with at least `width` columns; doubled when it has to grow."""
    missing = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, max(missing, array.shape[1])))) if missing > 0 else array
