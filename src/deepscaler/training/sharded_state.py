"""Optimizer and reference of a sharded learner in a checkpoint, by torch.distributed.checkpoint.

Every rank writes its part as safetensors with its offsets, so that any other number of ranks loads it, one process
without ranks as well. Moments are named `exp_avg:NAME`, weights of the reference `NAME`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deepscaler.types import RunError

OPTIMIZER_FOLDER = "optimizer"
REFERENCE_FOLDER = "reference"


def save_sharded(
    directory: Path,
    optimizer: Mapping[str, Tensor],
    reference: Mapping[str, Tensor] | None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """On every rank: write AdamW's state and the reference's weights. Returns when all ranks have written theirs.

    optimizer: of `optimizer_tensors`. group: of all ranks, absent = the default one.
    """
    _save(directory / OPTIMIZER_FOLDER, optimizer, group)
    if reference is not None:
        _save(directory / REFERENCE_FOLDER, reference, group)


def staged(tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Copies in host memory of the parts that this rank holds, pinned where they come from a GPU."""
    on_gpu = torch.cuda.is_available()
    stager = DefaultStager(
        StagingOptions(on_gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=on_gpu)
    )
    copies = stager.stage(tensors)
    assert isinstance(copies, dict)
    return copies


def load_sharded_optimizer(directory: Path, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Restore what `save_sharded` wrote of the optimizer, into the parts that this process holds."""
    parameters = dict(model.named_parameters())
    state: dict[str, Tensor] = {}
    for key in _keys(directory / OPTIMIZER_FOLDER):
        field, name = key.split(":", 1)
        parameter = parameters[name]
        state[key] = torch.zeros((), device=parameter.device) if field == "step" else torch.zeros_like(parameter)
    _load(directory / OPTIMIZER_FOLDER, state)
    optimizer.state.clear()
    for key, value in state.items():
        field, name = key.split(":", 1)
        optimizer.state[parameters[name]][field] = value.detach()


def load_sharded_reference(directory: Path, reference: nn.Module) -> None:
    """Restore in place what `save_sharded` wrote of the reference."""
    _load(directory / REFERENCE_FOLDER, {name: p.detach() for name, p in reference.named_parameters()})


def _save(directory: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    if not tensors:
        return
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    no_dist = not dist.is_initialized()
    save({name: t.detach() for name, t in tensors.items()}, storage_writer=writer, process_group=group, no_dist=no_dist)


def _keys(directory: Path) -> list[str]:
    """Sorted: the order of files in a directory differs from rank to rank. Empty where nothing was written."""
    if not directory.is_dir():
        return []
    return sorted(HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata)


def _load(directory: Path, tensors: dict[str, Tensor]) -> None:
    """In place."""
    if not tensors:
        return
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as asked for: no_dist
            load(tensors, storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=not dist.is_initialized())
    except (CheckpointException, OSError) as error:
        raise RunError(
            f"{directory} cannot be read: {error}; move this checkpoint away to go on from an earlier one"
        ) from error
