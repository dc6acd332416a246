"""The completions in the making, one row each in plain arrays, so that a step costs no Python work per sequence.

Rows 0..n-1 are active; the last row takes the place of one that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.nonfinite import NON_FINITE
from deepscaler.engines.torch.sampling import BLOCK, KeyedUniforms, draw
from deepscaler.engines.torch.stops import Stops, has_own
from deepscaler.types import Request, RunError, SamplingParams

Kind = tuple[float, float, int]  # temperature, top-p, top-k
_FIRST_WIDTH = 64
_FIRST_BLOCKS = 8


@dataclass(slots=True, eq=False)
class Sequence:
    """One completion in the making. `cancelled` may be set at any time; it then leaves at the next step."""

    request: Request
    sample_index: int
    params: SamplingParams
    cancelled: bool = False
    stopped: bool = False  # it ended with a stop token or a stop string
    rows: Rows | None = None  # where it stands while it is active
    row: int = 0
    _tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    _logprobs: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def token_array(self) -> NDArray[np.int32]:
        """The completion so far, int32 [tokens]."""
        return self._tokens if self.rows is None else self.rows.tokens_of(self.row)

    @property
    def logprob_array(self) -> NDArray[np.float32]:
        return self._logprobs if self.rows is None else self.rows.logprobs_of(self.row)

    @property
    def tokens(self) -> list[int]:
        return self.token_array.tolist()

    @property
    def logprobs(self) -> list[float]:
        return self.logprob_array.tolist()

    @property
    def ids(self) -> NDArray[np.int32]:
        """Prompt and completion so far."""
        return np.concatenate([self.request.prompt_ids, self.token_array])

    @property
    def num_needed(self) -> int:
        """Tokens it may grow to."""
        return len(self.request.prompt_ids) + self.params.max_completion_tokens

    def leave(self) -> None:
        """Keep what it has; its row is another's from now on."""
        self._tokens, self._logprobs, self.rows = self.token_array.copy(), self.logprob_array.copy(), None

    def uniforms(self, block: int) -> NDArray[np.float64]:
        return KeyedUniforms(self.params, self.request.problem_id, self.sample_index).block(block)


class Rows:
    """Up to `capacity` active sequences and the cache blocks of each, in order of position."""

    def __init__(self, capacity: int, stops: Stops) -> None:
        self.sequences: list[Sequence] = []
        self._stops = stops
        self._num_with_stops = 0  # sequences that have stop tokens or strings of their own
        self._table = np.zeros((capacity, _FIRST_BLOCKS), np.int64)
        self._num_blocks = np.zeros(capacity, np.int64)
        self._prompt = np.zeros(capacity, np.int64)
        self._count = np.zeros(capacity, np.int64)
        self._budget = np.zeros(capacity, np.int64)
        self._newest = np.zeros(capacity, np.int64)
        self._kind = np.zeros(capacity, np.int64)
        self._kinds: dict[Kind, int] = {}
        self._uniforms = np.zeros((capacity, BLOCK), np.float32)
        self._tokens = np.zeros((capacity, _FIRST_WIDTH), np.int32)
        self._logprobs = np.zeros((capacity, _FIRST_WIDTH), np.float32)

    def __len__(self) -> int:
        return len(self.sequences)

    def tokens_of(self, row: int) -> NDArray[np.int32]:
        return self._tokens[row, : self._count[row]]

    def logprobs_of(self, row: int) -> NDArray[np.float32]:
        return self._logprobs[row, : self._count[row]]

    def alike(self, first: int = 0) -> list[tuple[SamplingParams, NDArray[np.int64]]]:
        """The rows from `first` on in groups that draw with the same temperature, top-p and top-k."""
        kinds = self._kind[first : len(self)]
        if len(self._kinds) == 1:
            return [(self.sequences[first].params, np.arange(len(kinds)))]
        groups = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        return [(self.sequences[first + int(rows[0])].params, rows) for rows in groups]

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

    def move_blocks(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Each block of `sources` (ascending) now stands at that of `targets`."""
        table, count = self.tables
        place = np.searchsorted(sources, table).clip(max=len(sources) - 1)
        moved = (np.arange(table.shape[1]) < count[:, None]) & (sources[place] == table)
        table[moved] = targets[place[moved]]

    def add(self, sequence: Sequence, blocks: list[int]) -> None:
        """A new last row. Its next token is still to be drawn."""
        row, params = len(self), sequence.params
        tokens, logprobs = sequence.token_array, sequence.logprob_array
        count = len(tokens)
        self.sequences.append(sequence)
        self._num_with_stops += has_own(params)
        self._table = _wide(self._table, len(blocks))
        self._table[row, : len(blocks)], self._num_blocks[row] = blocks, len(blocks)
        self._prompt[row], self._count[row] = len(sequence.request.prompt_ids), count
        self._budget[row] = params.max_completion_tokens
        self._kind[row] = self._kinds.setdefault((params.temperature, params.top_p, params.top_k), len(self._kinds))
        self._make_wide(count)
        self._tokens[row, :count], self._logprobs[row, :count] = tokens, logprobs
        sequence.rows, sequence.row = self, row
        if count % BLOCK:
            self._uniforms[row] = sequence.uniforms(count // BLOCK)

    def uniforms(self, first: int = 0) -> NDArray[np.float32]:
        """The numbers that draw the next token of the rows from `first` on, float32."""
        position = self._count[first : len(self)]
        offset = position % BLOCK
        for row in np.flatnonzero(offset == 0):
            self._uniforms[first + row] = self.sequences[first + row].uniforms(int(position[row]) // BLOCK)
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
        """Rows that ended with a stop token or string, the budget or a cancellation, highest first."""
        stopped = (self.newest[:, None] == self._stops.ids).any(1)
        for row, sequence in enumerate(self.sequences if self._num_with_stops else ()):
            stopped[row] |= self._stops.ended(self.tokens_of(row), sequence.params)
        for row in np.flatnonzero(stopped):
            self.sequences[row].stopped = True
        cancelled = np.fromiter((s.cancelled for s in self.sequences), bool, len(self))
        return np.flatnonzero(stopped | cancelled | (self._count >= self._budget)[: len(self)])[::-1]

    def remove(self, row: int) -> tuple[Sequence, list[int]]:
        """The sequence of a row, with its tokens, and its blocks. The last row moves into the gap."""
        last = len(self) - 1
        sequence, blocks = self.sequences[row], self._table[row, : self._num_blocks[row]].tolist()
        sequence.leave()
        self._num_with_stops -= has_own(sequence.params)
        if row != last:
            width = self._count[last]
            for array in (
                self._prompt,
                self._count,
                self._budget,
                self._newest,
                self._kind,
                self._uniforms,
                self._table,
                self._num_blocks,
            ):
                array[row] = array[last]
            for array in (self._tokens, self._logprobs):
                array[row, :width] = array[last, :width]
            self.sequences[row] = self.sequences[last]
            self.sequences[row].row = row
        self.sequences.pop()
        return sequence, blocks

    def _make_wide(self, width: int) -> None:
        self._tokens, self._logprobs = _wide(self._tokens, width), _wide(self._logprobs, width)


def draw_rows(logits_NV: Tensor, rows: Rows, first: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The next token and its logprob of the rows from `first` on; those that sample alike are drawn together.

    Raises NonFiniteLogitsError.
    """
    uniforms = torch.from_numpy(rows.uniforms(first)).to(logits_NV.device)
    tokens = np.empty(len(logits_NV), np.int64)
    logprobs = np.empty(len(logits_NV), np.float32)
    groups = rows.alike(first)
    for params, chosen in groups:
        drawn = (
            draw(logits_NV, uniforms, params) if len(groups) == 1 else draw(logits_NV[chosen], uniforms[chosen], params)
        )
        tokens[chosen], logprobs[chosen] = (x.cpu().numpy() for x in drawn)
    check_rows(logprobs, rows, first)
    return tokens, logprobs


class NonFiniteLogitsError(RunError):
    """The model's logits after these sequences are no numbers. The others of their batch can go on in a new one."""

    def __init__(self, sequences: list[Sequence]) -> None:
        super().__init__(NON_FINITE)
        self.sequences = sequences

    def __reduce__(self) -> tuple[type[RunError], tuple[str]]:
        return RunError, (NON_FINITE,)  # to another process goes what happened, not what was under way


def check_rows(logprobs: NDArray[np.float32], rows: Rows, first: int = 0) -> None:
    """Raises NonFiniteLogitsError when the logits of any row from `first` on were not finite."""
    bad = np.flatnonzero(~np.isfinite(logprobs))
    if len(bad):
        raise NonFiniteLogitsError([rows.sequences[first + int(row)] for row in bad])


def _wide(array: NDArray[Any], width: int) -> NDArray[Any]:
    """The array with at least `width` columns; doubled when it has to grow."""
    missing = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, max(missing, array.shape[1])))) if missing > 0 else array
