"""Samples into packed micro-batches under a token budget. T: packed tokens, C: completion tokens, S: samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepscaler.attention import PackedAttention
from deepscaler.types import TrainSample


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch, all sequences in one row.

    input_ids, position_ids: int64 [1, T]; attention: which tokens belong together.
    predictor_index: int64 [C], the position in T whose hidden state predicts each completion token.
    targets: int64 [C]; segments: int64 [C], the sample each completion token belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention: PackedAttention
    predictor_index: Tensor
    targets: Tensor
    segments: Tensor

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[1]


# On CPU larger micro-batches are no faster, and activations take about 15 x width x layers x 4 bytes a token.
CPU_MICRO_BATCH_TOKENS = 4096


def micro_batch_budget(limit: int, lengths: Sequence[int], device: torch.device) -> int:
    """Packed tokens per micro-batch: the recipe's limit; on CPU less where the longest sequence allows it."""
    if device.type != "cpu":
        return limit
    return min(limit, max(CPU_MICRO_BATCH_TOKENS, *lengths, 1))


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices per micro-batch: first-fit decreasing, deterministic. Raises ValueError for a sequence over budget."""
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > budget:
            raise ValueError(
                f"a sequence of {lengths[index]} tokens exceeds training.tokens_per_micro_batch = {budget}; "
                "raise it or lower the completion budget"
            )
        place = next((b for b, room in enumerate(free) if room >= lengths[index]), None)
        if place is None:
            bins.append([])
            free.append(budget)
            place = len(bins) - 1
        bins[place].append(index)
        free[place] -= lengths[index]
    return [sorted(members) for members in bins]


def pack(samples: Sequence[TrainSample], device: torch.device) -> PackedBatch:
    """Concatenate prompt and completion of every sample; positions start anew in each."""
    lengths = [s.num_tokens for s in samples]
    ids = np.concatenate([part for s in samples for part in (s.prompt_ids, s.completion_ids)])
    positions = np.concatenate([np.arange(n) for n in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    predictors = [
        np.arange(len(s.completion_ids)) + offset + len(s.prompt_ids) - 1
        for s, offset in zip(samples, offsets, strict=True)
    ]
    segments = np.repeat(np.arange(len(samples)), [len(s.completion_ids) for s in samples])
    targets = np.concatenate([s.completion_ids for s in samples])

    def as_tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return PackedBatch(
        input_ids=as_tensor(ids).unsqueeze(0),
        position_ids=as_tensor(positions).unsqueeze(0),
        attention=PackedAttention(lengths, device),
        predictor_index=as_tensor(np.concatenate(predictors)),
        targets=as_tensor(targets),
        segments=as_tensor(segments),
    )


def per_token(samples: Sequence[TrainSample], values: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Concatenate one array per sample, each [num completion tokens], to float32 [C]."""
    assert len(samples) == len(values)
    return torch.from_numpy(np.concatenate(values).astype(np.float32)).to(device)
