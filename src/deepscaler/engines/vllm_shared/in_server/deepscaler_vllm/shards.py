"""Parameters that tensor parallelism splits over the workers of a server, joined again.

As vLLM splits them: `ColumnParallelLinear` and its merged forms by rows, each projection by itself, key and value heads
repeated where there are more ranks than heads; `RowParallelLinear` by columns, its bias on every rank;
`VocabParallelEmbedding` by rows, padded at the end. Everything else is on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Gather = Callable[[Tensor], list[Tensor]]  # a collective: this rank's tensor -> those of all ranks, in order


def is_split(module: Any, parameter: str) -> bool:
    """Whether each rank holds a part of this parameter."""
    if getattr(module, "tp_size", 1) == 1:
        return False
    return parameter == "weight" or not is_row_parallel(module)


def joined(module: Any, parts: Sequence[Tensor]) -> Tensor:
    """The whole parameter from the parts of all ranks, its projections one after another."""
    if hasattr(module, "org_vocab_size"):
        return torch.cat(list(parts))
    if is_row_parallel(module):
        return torch.cat(list(parts), dim=1)
    found: list[Tensor] = []
    first = 0
    for index, rows in enumerate(module.output_partition_sizes):
        repeated = getattr(module, "num_kv_head_replicas", 1) if index > 0 else 1  # the first are queries
        found += [part[first : first + rows] for part in parts[::repeated]]
        first += rows
    return torch.cat(found)


def is_row_parallel(module: Any) -> bool:
    return getattr(module, "input_size_per_partition", None) != getattr(module, "input_size", None)
