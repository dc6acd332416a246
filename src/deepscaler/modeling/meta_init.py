"""A model without its weights: parameters on the meta device. Ranks read their part of them (training.weight_parts).

Buffers are computed as ever, on the device that the model is for: files do not hold them (rotary frequencies).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from deepscaler.modeling.attention import NAME
from deepscaler.modeling.files import stored_tensors


def build_on_meta(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The model of a transformers configuration; its parameters take no memory. device: of the buffers."""
    with _parameters_on_meta():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=NAME)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model


def device_of(model: nn.Module) -> torch.device:
    """Where the model is computed: the buffers are there while the weights are on the meta device."""
    first = next(model.parameters())
    return next(model.buffers()).device if first.is_meta else first.device


def holds_by_name(directory: Path, model: nn.Module) -> bool:
    """Whether the files hold every weight under its name and in its shape, so that a part of it can be read.

    Where transformers renames or joins tensors while it loads, they do not.
    """
    stored = {name: tensor.shape for name, tensor in stored_tensors(directory).items()}
    return all(stored.get(name) == tuple(parameter.shape) for name, parameter in model.named_parameters())


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters go to the meta device as modules register them, before anything initialises them."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register
