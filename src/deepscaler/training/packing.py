"""Samples into packed micro-batches under a token budget. T: packed tokens, C: completion tokens, S: samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepscaler.config.memory import cpu_micro_batch_tokens
from deepscaler.modeling.attention import AttentionContext, PackedAttention
from deepscaler.observability.counts import counted
from deepscaler.types import TrainSample


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch in one row: no padding, and a prompt that several completions share only once.

    input_ids, position_ids: int64 [1, T]; attention: which tokens belong together.
    predictor_index: int64 [C], the position in T whose hidden state predicts each completion token.
    targets: int64 [C]; segments: int64 [C], the sample each completion token belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention: AttentionContext
    predictor_index: Tensor
    targets: Tensor
    segments: Tensor

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[1]


def micro_batch_budget(limit: int, lengths: Sequence[int], device: torch.device, activation_bytes: int) -> int:
    """Packed tokens per micro-batch: the recipe's limit; on CPU less where the longest sequence allows it.

    activation_bytes: what the model keeps of one token for the backward pass.
    """
    if device.type != "cpu":
        return limit
    return min(limit, max(cpu_micro_batch_tokens(activation_bytes), *lengths, 1))


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices per micro-batch: first-fit decreasing, deterministic. Raises ValueError for a sequence over budget."""
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > budget:
            raise ValueError(
                f"a sequence of {counted(lengths[index], 'token')} exceeds training.tokens_per_micro_batch = {budget}; "
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


def plan_samples(samples: Sequence[TrainSample], budget: int) -> list[list[int]]:
    """Indices per micro-batch, completions of one prompt together as far as the budget allows: it costs once."""
    units: list[list[int]] = []
    costs: list[int] = []
    open_unit: dict[bytes, int] = {}
    for index, sample in enumerate(samples):
        prompt = sample.prompt_ids.tobytes()
        unit = open_unit.get(prompt)
        if unit is not None and costs[unit] + len(sample.completion_ids) <= budget:
            units[unit].append(index)
            costs[unit] += len(sample.completion_ids)
            continue
        open_unit[prompt] = len(units)
        units.append([index])
        costs.append(sample.num_tokens)
    return [sorted(i for unit in plan for i in units[unit]) for plan in plan_micro_batches(costs, budget)]


@dataclass(slots=True)
class _Row:
    """A micro-batch in the making: one entry per segment in `ids` and `positions`, one per sample in the others."""

    ids: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    sequences: list[tuple[int, ...]] = field(default_factory=list)
    predictors: list[np.ndarray] = field(default_factory=list)
    used: int = 0

    def append(self, ids: np.ndarray, first_position: int) -> int:
        """Put a segment at the end; returns its index."""
        self.ids.append(ids)
        self.positions.append(np.arange(first_position, first_position + len(ids)))
        self.used += len(ids)
        return len(self.ids) - 1


def _lay_out(samples: Sequence[TrainSample]) -> _Row:
    """A prompt of one completion is one segment with it; a shared one is a segment before its completions."""
    row = _Row()
    uses = Counter(s.prompt_ids.tobytes() for s in samples)
    shared: dict[bytes, tuple[int, int]] = {}  # segment and last place of the prompts already in the row
    for sample in samples:
        key, length, count = sample.prompt_ids.tobytes(), len(sample.prompt_ids), len(sample.completion_ids)
        if uses[key] == 1:
            first = row.used + length
            last = first - 1
            row.sequences.append((row.append(np.concatenate([sample.prompt_ids, sample.completion_ids]), 0),))
        else:
            if key not in shared:
                segment = row.append(sample.prompt_ids, 0)
                shared[key] = (segment, row.used - 1)
            (segment, last), first = shared[key], row.used
            row.sequences.append((segment, row.append(sample.completion_ids, length)))
        row.predictors.append(np.concatenate([[last], np.arange(first, first + count - 1)])[:count])
    return row


def pack(samples: Sequence[TrainSample], device: torch.device) -> PackedBatch:
    """Every prompt once, then its completions; positions start anew in each prompt and go on in each completion."""
    row = _lay_out(samples)

    def as_tensor(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    counts = [len(s.completion_ids) for s in samples]
    return PackedBatch(
        input_ids=as_tensor(row.ids).unsqueeze(0),
        position_ids=as_tensor(row.positions).unsqueeze(0),
        attention=PackedAttention([len(part) for part in row.ids], device, row.sequences),
        predictor_index=as_tensor(row.predictors),
        targets=as_tensor([s.completion_ids for s in samples]),
        segments=as_tensor([np.repeat(np.arange(len(samples)), counts)]),
    )


def per_token(samples: Sequence[TrainSample], values: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Concatenate one array per sample, each [num completion tokens], to float32 [C]."""
    assert len(samples) == len(values)
    return torch.from_numpy(np.concatenate(values).astype(np.float32)).to(device)
