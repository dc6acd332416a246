"""State of the running sequences in plain arrays, one row each, so that a step costs no Python work per sequence.

Rows 0..n-1 are in use; when a sequence is removed, the last row moves into its place.
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
from deepscaler.engines.torch.stops import StopConditions, has_stops
from deepscaler.types import Request, RunError, SamplingParams

SamplingKey = tuple[float, float, int]  # temperature, top-p, top-k
_FIRST_WIDTH = 64
_FIRST_BLOCKS = 8


@dataclass(slots=True, eq=False)
class Sequence:
    """One completion that is being generated. `cancelled` may be set at any time; the next step then removes it.

    stopped: a stop token or a stop string ended it. state, row: where its tokens are while it is running.
    """

    request: Request
    sample_index: int
    params: SamplingParams
    cancelled: bool = False
    stopped: bool = False
    state: DecodeState | None = None
    row: int = 0
    _tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    _logprobs: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def token_array(self) -> NDArray[np.int32]:
        """The completion so far, int32 [tokens]."""
        return self._tokens if self.state is None else self.state.tokens_of(self.row)

    @property
    def logprob_array(self) -> NDArray[np.float32]:
        return self._logprobs if self.state is None else self.state.logprobs_of(self.row)

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
    def max_tokens(self) -> int:
        """Tokens of prompt and completion at most."""
        return len(self.request.prompt_ids) + self.params.max_completion_tokens

    def detach(self) -> None:
        """Copy tokens and log-probabilities out of the state, whose row another sequence takes."""
        self._tokens, self._logprobs, self.state = self.token_array.copy(), self.logprob_array.copy(), None

    def uniforms(self, block: int) -> NDArray[np.float64]:
        return KeyedUniforms(self.params, self.request.problem_id, self.sample_index).block(block)


class DecodeState:
    """Up to `capacity` running sequences and the block table of each, in order of position."""

    def __init__(self, capacity: int, stops: StopConditions) -> None:
        self.sequences: list[Sequence] = []
        self._stops = stops
        self._num_with_stops = 0  # sequences whose request names stop tokens or strings
        self._table = np.zeros((capacity, _FIRST_BLOCKS), np.int64)
        self._num_blocks = np.zeros(capacity, np.int64)
        self._prompt = np.zeros(capacity, np.int64)
        self._count = np.zeros(capacity, np.int64)
        self._max_completion = np.zeros(capacity, np.int64)
        self._last_token = np.zeros(capacity, np.int64)
        self._sampling = np.zeros(capacity, np.int64)  # number of the row's sampling key
        self._sampling_keys: dict[SamplingKey, int] = {}
        self._uniforms = np.zeros((capacity, BLOCK), np.float32)
        self._tokens = np.zeros((capacity, _FIRST_WIDTH), np.int32)
        self._logprobs = np.zeros((capacity, _FIRST_WIDTH), np.float32)

    def __len__(self) -> int:
        return len(self.sequences)

    def tokens_of(self, row: int) -> NDArray[np.int32]:
        return self._tokens[row, : self._count[row]]

    def logprobs_of(self, row: int) -> NDArray[np.float32]:
        return self._logprobs[row, : self._count[row]]

    def sampling_groups(self, first: int = 0) -> list[tuple[SamplingParams, NDArray[np.int64]]]:
        """The rows from `first` on, grouped by temperature, top-p and top-k."""
        numbers = self._sampling[first : len(self)]
        if len(self._sampling_keys) == 1:
            return [(self.sequences[first].params, np.arange(len(numbers)))]
        groups = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
        return [(self.sequences[first + int(rows[0])].params, rows) for rows in groups]

    @property
    def last_tokens(self) -> NDArray[np.int64]:
        """The last token of each row, the input of the next step."""
        return self._last_token[: len(self)]

    @property
    def num_cached(self) -> NDArray[np.int64]:
        """Tokens in the cache: all but the last one, whose position this is as well."""
        return (self._prompt + self._count)[: len(self)] - 1

    @property
    def block_tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Blocks [N, most], and the number of blocks of each row [N]."""
        return self._table[: len(self)], self._num_blocks[: len(self)]

    def append_blocks(self, rows: NDArray[np.int64], blocks: list[int]) -> None:
        """Append one block to the table of each of `rows`."""
        self._table = _with_columns(self._table, int(self._num_blocks[rows].max()) + 1)
        self._table[rows, self._num_blocks[rows]] = blocks
        self._num_blocks[rows] += 1

    def move_blocks(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Replace each block of `sources` (ascending) by the one of `targets` at the same index."""
        table, count = self.block_tables
        index = np.searchsorted(sources, table).clip(max=len(sources) - 1)
        moved = (np.arange(table.shape[1]) < count[:, None]) & (sources[index] == table)
        table[moved] = targets[index[moved]]

    def add(self, sequence: Sequence, blocks: list[int]) -> None:
        """Add a row at the end. Its next token is not sampled yet."""
        row, params = len(self), sequence.params
        tokens, logprobs = sequence.token_array, sequence.logprob_array
        count = len(tokens)
        self.sequences.append(sequence)
        self._num_with_stops += has_stops(params)
        self._table = _with_columns(self._table, len(blocks))
        self._table[row, : len(blocks)], self._num_blocks[row] = blocks, len(blocks)
        self._prompt[row], self._count[row] = len(sequence.request.prompt_ids), count
        self._max_completion[row] = params.max_completion_tokens
        key = params.temperature, params.top_p, params.top_k
        self._sampling[row] = self._sampling_keys.setdefault(key, len(self._sampling_keys))
        self._reserve_tokens(count)
        self._tokens[row, :count], self._logprobs[row, :count] = tokens, logprobs
        sequence.state, sequence.row = self, row
        if count % BLOCK:
            self._uniforms[row] = sequence.uniforms(count // BLOCK)

    def uniforms(self, first: int = 0) -> NDArray[np.float32]:
        """Uniform numbers for the next token of the rows from `first` on, float32."""
        position = self._count[first : len(self)]
        offset = position % BLOCK
        for row in np.flatnonzero(offset == 0):
            self._uniforms[first + row] = self.sequences[first + row].uniforms(int(position[row]) // BLOCK)
        return self._uniforms[np.arange(first, len(self)), offset]

    def append(self, tokens: NDArray[np.int64], logprobs: NDArray[np.float32], first: int = 0) -> None:
        """Append the next token of each row from `first` on."""
        rows = np.arange(first, len(self))
        position = self._count[rows]
        self._reserve_tokens(int(position.max()) + 1)
        self._tokens[rows, position], self._logprobs[rows, position] = tokens, logprobs
        self._last_token[rows] = tokens
        self._count[rows] += 1

    def finished(self) -> NDArray[np.int64]:
        """Rows that are stopped, at their length limit or cancelled, highest first."""
        stopped = (self.last_tokens[:, None] == self._stops.ids).any(1)
        for row, sequence in enumerate(self.sequences if self._num_with_stops else ()):
            stopped[row] |= self._stops.is_stopped(self.tokens_of(row), sequence.params)
        for row in np.flatnonzero(stopped):
            self.sequences[row].stopped = True
        cancelled = np.fromiter((s.cancelled for s in self.sequences), bool, len(self))
        return np.flatnonzero(stopped | cancelled | (self._count >= self._max_completion)[: len(self)])[::-1]

    def remove(self, row: int) -> tuple[Sequence, list[int]]:
        """Remove a row and return its sequence and blocks. The last row moves into its place."""
        last = len(self) - 1
        sequence, blocks = self.sequences[row], self._table[row, : self._num_blocks[row]].tolist()
        sequence.detach()
        self._num_with_stops -= has_stops(sequence.params)
        if row != last:
            width = self._count[last]
            for array in (
                self._prompt,
                self._count,
                self._max_completion,
                self._last_token,
                self._sampling,
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

    def _reserve_tokens(self, width: int) -> None:
        self._tokens, self._logprobs = _with_columns(self._tokens, width), _with_columns(self._logprobs, width)


def sample_rows(logits_NV: Tensor, state: DecodeState, first: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sample the next token of the rows from `first` on, group by group: (tokens, logprobs).

    Raises NonFiniteLogitsError.
    """
    uniforms = torch.from_numpy(state.uniforms(first)).to(logits_NV.device)
    tokens = np.empty(len(logits_NV), np.int64)
    logprobs = np.empty(len(logits_NV), np.float32)
    groups = state.sampling_groups(first)
    for params, chosen in groups:
        drawn = (
            draw(logits_NV, uniforms, params) if len(groups) == 1 else draw(logits_NV[chosen], uniforms[chosen], params)
        )
        tokens[chosen], logprobs[chosen] = (x.cpu().numpy() for x in drawn)
    check_rows(logprobs, state, first)
    return tokens, logprobs


class NonFiniteLogitsError(RunError):
    """The logits after `sequences` are NaN or infinite. The other sequences can continue in a new scheduler."""

    def __init__(self, sequences: list[Sequence]) -> None:
        super().__init__(NON_FINITE)
        self.sequences = sequences

    def __reduce__(self) -> tuple[type[RunError], tuple[str]]:
        return RunError, (NON_FINITE,)  # another process gets the message without the sequences


def check_rows(logprobs: NDArray[np.float32], state: DecodeState, first: int = 0) -> None:
    """Raises NonFiniteLogitsError when the logits of any row from `first` on were not finite."""
    bad = np.flatnonzero(~np.isfinite(logprobs))
    if len(bad):
        raise NonFiniteLogitsError([state.sequences[first + int(row)] for row in bad])


def _with_columns(array: NDArray[Any], width: int) -> NDArray[Any]:
    """The array with at least `width` columns, doubled when it has to grow."""
    missing = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, max(missing, array.shape[1])))) if missing > 0 else array
