"""Weights read from safetensors files into a model, of a sharded model only the rows that this rank holds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from deepscaler.modeling.files import weight_files
from deepscaler.modeling.lora import adapter_parameters, adapters_of, base_parameters, initial_factor


def is_on_meta(model: nn.Module) -> bool:
    return next(model.parameters()).is_meta


def materialise(model: nn.Module, directory: Path, device: torch.device) -> None:
    """Give the part of a sharded model that this rank holds memory on `device`, and read its weights into it."""
    buffers = [(m, name, b) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    model.to_empty(device=device)  # also of the buffers
    for module, name, buffer in buffers:
        setattr(module, name, buffer)
    read_parameters(base_parameters(model), weight_files(directory))
    adapters = adapters_of(model)
    if adapters is not None:
        with torch.no_grad():
            for name, parameter in adapter_parameters(model).items():
                whole = initial_factor(name, parameter.shape, adapters.seed)
                _local(parameter).copy_(whole[_rows(parameter)])


def read_parameters(parameters: Mapping[str, Tensor], files: list[Path]) -> None:
    """Read weights in place, by the names in the files; of sharded ones only the rows that this rank holds.

    Raises ValueError where the files lack a weight, or hold it in another shape.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        holder = {name: file for file in opened for name in file.keys()}  # noqa: SIM118
        missing = [name for name in parameters if name not in holder]
        if missing:
            raise ValueError(f"{files[0].parent} lacks the weights {missing[:3]}; it was saved from another model")
        with torch.no_grad():
            for name, parameter in parameters.items():
                _read(holder[name], name, parameter, files[0].parent)


def _read(file: Any, name: str, parameter: Tensor, directory: Path) -> None:
    part = file.get_slice(name)
    if tuple(part.get_shape()) != tuple(parameter.shape):
        raise ValueError(
            f"{directory}: {name} has shape {tuple(part.get_shape())} instead of {tuple(parameter.shape)}; it was "
            "saved from another model"
        )
    if not isinstance(parameter, DTensor):
        parameter.copy_(file.get_tensor(name))
    elif parameter.to_local().numel():  # a rank beyond the last row holds nothing
        parameter.to_local().copy_(part[_rows(parameter)])


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _rows(parameter: Tensor) -> tuple[slice, ...]:
    """Where this rank's part is in the whole weight."""
    if not isinstance(parameter, DTensor):
        return tuple(slice(None) for _ in parameter.shape)
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))
