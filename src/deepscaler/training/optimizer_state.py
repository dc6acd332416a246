"""Optimizer, reference weights and counters to and from a checkpoint directory, as safetensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepscaler.json_text import parse_json

OPTIMIZER_FILE = "optimizer.safetensors"
REFERENCE_FILE = "reference.safetensors"
COUNTERS_FILE = "learner.json"
WEIGHTS_PATTERN = "model*.safetensors"


def save_optimizer(
    directory: Path,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    reference: nn.Module | None,
    counters: dict[str, int],
) -> None:
    """AdamW's state by parameter name, so that loading does not depend on the order of parameters."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}:{name}"] = value.detach().contiguous()
    save_file(tensors, directory / OPTIMIZER_FILE)
    if reference is not None:
        weights = {name: p.detach().contiguous() for name, p in reference.named_parameters()}
        save_file(weights, directory / REFERENCE_FILE)
    (directory / COUNTERS_FILE).write_text(json.dumps(counters) + "\n")


def load_optimizer(
    directory: Path, optimizer: torch.optim.Optimizer, model: nn.Module, reference: nn.Module | None
) -> dict[str, int]:
    """Restore in place what `save_optimizer` and the model's `save_pretrained` wrote; returns the counters."""
    _load_parameters(model, sorted(directory.glob(WEIGHTS_PATTERN)))
    if reference is not None:
        _load_parameters(reference, [directory / REFERENCE_FILE])
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in load_file(directory / OPTIMIZER_FILE).items():
        field, name = key.split(":", 1)
        parameter = parameters[name]
        optimizer.state[parameter][field] = value.to(parameter.device)
    return parse_json((directory / COUNTERS_FILE).read_text())


def _load_parameters(model: nn.Module, files: list[Path]) -> None:
    stored: dict[str, Tensor] = {}
    for file in files:
        stored |= load_file(file)
    missing = [name for name, _ in model.named_parameters() if name not in stored]
    if missing:
        raise ValueError(f"{files[0].parent} lacks the weights {missing[:3]}; it was saved from another model")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored[name])
