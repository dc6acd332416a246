"""Optimizer and reference weights to and from a checkpoint directory, as safetensors.

What one process writes is whole; what ranks write is divided among files (`sharded_state`). Either is loaded into a
model of one process or of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from deepscaler.modeling.files import stored_tensors
from deepscaler.modeling.weight_check import check_loaded
from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import read_json
from deepscaler.training.adapters import load_adapters
from deepscaler.training.sharded_state import REFERENCE_FOLDER, load_sharded_optimizer, load_sharded_reference
from deepscaler.training.weight_parts import read_parameters
from deepscaler.types import RunError

OPTIMIZER_FILE = "optimizer.safetensors"
REFERENCE_FILE = "reference.safetensors"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """AdamW's state by parameter name, so that loading does not depend on the order of parameters."""
    return {
        f"{key}:{name}": value.detach()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def save_optimizer(directory: Path, optimizer: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None) -> None:
    """optimizer: of `optimizer_tensors`. reference: weights by name."""
    save_file({name: value.contiguous() for name, value in optimizer.items()}, directory / OPTIMIZER_FILE)
    if reference is not None:
        weights = {name: value.contiguous() for name, value in reference.items()}
        save_file(weights, directory / REFERENCE_FILE)


def on_host(tensor: Tensor) -> Tensor:
    """A copy in host memory that nobody else writes to."""
    return tensor.detach().to("cpu", copy=True)


def copied_to_host(groups: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Copies in host memory, by name; tensors that are one, such as a tied head, stay one."""
    copies: dict[int, Tensor] = {}
    result: list[dict[str, Tensor]] = []
    for group in groups:
        for tensor in group.values():
            if tensor.data_ptr() not in copies or not tensor.numel():
                copies[tensor.data_ptr()] = on_host(tensor)
        result.append({name: copies[tensor.data_ptr()] for name, tensor in group.items()})
    return result


def load_weights(directory: Path, model: nn.Module, reference: nn.Module | None) -> None:
    """Restore in place the weights that a replica's `save` wrote.

    The reference stays as it is, the base model, where the checkpoint holds none: its run had no KL term.
    """
    if load_adapters(model, directory) is not None:  # the reference is the base then
        return
    stored, weights = stored_tensors(directory), dict(model.named_parameters())
    if all(name in stored for name in weights):
        read_parameters(weights, weights_files(directory))
    else:
        _read_converted(directory, model)
    if reference is not None and (directory / REFERENCE_FILE).is_file():
        read_parameters(dict(reference.named_parameters()), [directory / REFERENCE_FILE])
    elif reference is not None and (directory / REFERENCE_FOLDER).is_dir():
        load_sharded_reference(directory, reference)


def weights_files(directory: Path) -> list[Path]:
    """The files of a model in the Hugging Face layout, without other files of the directory."""
    whole, index = directory / WEIGHTS_FILE, read_json(directory / INDEX_FILE)
    if whole.is_file() or index is None:
        return [whole]
    return [directory / name for name in sorted(set(index["weight_map"].values()))]


def load_optimizer(directory: Path, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Restore in place what a replica's `save` wrote of the optimizer."""
    if not (directory / OPTIMIZER_FILE).is_file():
        load_sharded_optimizer(directory, optimizer, model)
        return
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in load_file(directory / OPTIMIZER_FILE).items():
        field, name = key.split(":", 1)
        parameter = parameters[name]
        divided = isinstance(parameter, DTensor) and field != "step"
        optimizer.state[parameter][field] = _part(value, parameter) if divided else value.to(parameter.device)


def check_optimizer(optimizer: torch.optim.Optimizer, num_updates: int, directory: Path) -> None:
    """Raises RunError when the optimizer does not hold the moments of `num_updates` updates.

    Without them, or with their counters at 0, AdamW takes steps of full size again; nothing else would show it. A
    parameter that never had a gradient has no moments, so the furthest one counts.
    """
    counts = [float(state["step"]) for state in optimizer.state.values() if "step" in state]
    furthest = int(max(counts, default=0))
    moments = all({"exp_avg", "exp_avg_sq"} <= state.keys() for state in optimizer.state.values())
    if furthest != num_updates or not moments:
        raise RunError(
            f"{directory}: the optimizer was loaded with the moments of "
            f"{counted(furthest, 'update') if moments else 'no update'}, but "
            f"{num_updates} have been applied; training would go on with another optimizer. Move this checkpoint away "
            "to go on from an earlier one"
        )


def _read_converted(directory: Path, model: Any) -> None:
    """From files whose tensors transformers renames or joins while it loads, such as all experts of a layer in one.

    Raises ValueError where these are not all weights of the model.
    """
    loaded: Any = type(model).from_pretrained(
        directory, config=model.config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    read, found = loaded
    check_loaded(directory, read, found)
    weights = dict(read.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_part(weights[name], parameter) if isinstance(parameter, DTensor) else weights[name])


def _part(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as a weight is, without communication, on the device of the weight."""
    assert isinstance(like, DTensor)
    part = distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return part.to(like.device)
