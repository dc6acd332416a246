"""Context parallelism: the ranks of a group share every packed micro-batch, each computing a shard of its tokens.

Layers, head and what they keep for the backward pass are of the shard; attention exchanges heads (modeling.ulysses).
Every rank gets the log-probabilities of all completion tokens, a few hundred kilobytes, and computes the whole loss,
whatever statistics of a completion that takes, but its gradient flows through the rank's own tokens only. So the
gradients of the ranks add up as those of micro-batches do.

T: packed tokens, C: completion tokens, c: those that this rank's shard predicts, R: ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from deepscaler.modeling.attention import PackedAttention
from deepscaler.modeling.ulysses import UlyssesAttention
from deepscaler.training.packing import PackedBatch

# Log-probability and entropy of every completion token of a batch: float32 [C] each.
TokenValues = tuple[Tensor, Tensor]


class ContextParallel:
    """The ranks of one group, which compute the same micro-batches in the same order."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    @property
    def num_ranks(self) -> int:
        return self._group.size()

    def token_values(self, batch: PackedBatch, compute: Callable[[PackedBatch], TokenValues]) -> TokenValues:
        """What `compute` makes of the whole batch: every rank computes its shard and gets the values of all.

        The values carry gradients for the tokens that this rank's shard predicts.
        """
        if batch.num_tokens < self.num_ranks:
            batch = _with_padding(batch, self.num_ranks)
        bounds = shard_bounds(batch.num_tokens, self.num_ranks)
        own = _predicted_by(batch, *bounds[self._group.rank() :][:2])
        logprobs_c, entropies_c = compute(self._shard(batch, own, bounds))
        return self._of_all(logprobs_c, own, len(batch.targets)), self._of_all(entropies_c, own, len(batch.targets))

    def _shard(self, batch: PackedBatch, own: Tensor, bounds: list[int]) -> PackedBatch:
        start, end = bounds[self._group.rank() :][:2]
        return PackedBatch(
            input_ids=batch.input_ids[:, start:end],
            position_ids=batch.position_ids[:, start:end],
            attention=UlyssesAttention(batch.attention, self._group, [b - a for a, b in pairwise(bounds)]),
            predictor_index=batch.predictor_index[own] - start,
            targets=batch.targets[own],
            segments=batch.segments[own],
        )

    def _of_all(self, values_c: Tensor, own: Tensor, count: int) -> Tensor:
        """[c] to [C]. Adding zeros rounds nothing, so a sum gathers shards of any sizes."""
        values_C = values_c.new_zeros(count)
        values_C[own] = values_c.detach()
        dist.all_reduce(values_C, group=self._group)
        return values_C.index_copy(0, own, values_c)


def shard_bounds(num_tokens: int, num_ranks: int) -> list[int]:
    """Where the shards of a row begin and the last one ends, [R+1]: contiguous, sizes that differ by 1 at most."""
    return [num_tokens * rank // num_ranks for rank in range(num_ranks + 1)]


def _predicted_by(batch: PackedBatch, start: int, end: int) -> Tensor:
    """Indices in C, int64 [c], of the completion tokens that the row's tokens from start to end - 1 predict."""
    index = batch.predictor_index
    return torch.nonzero((index >= start) & (index < end)).squeeze(1)


def _with_padding(batch: PackedBatch, num_tokens: int) -> PackedBatch:
    """With a last segment that nothing else sees and that predicts nothing: a model takes no empty rows."""
    missing = num_tokens - batch.num_tokens
    attention = batch.attention
    assert isinstance(attention, PackedAttention)
    lengths, sequences = [*attention.lengths, missing], [*attention.sequences, (len(attention.lengths),)]
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, missing)),
        position_ids=F.pad(batch.position_ids, (0, missing)),
        attention=PackedAttention(lengths, batch.input_ids.device, sequences),
    )
