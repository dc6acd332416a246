"""Weights of a replica in a checkpoint: a Hugging Face model, or only the adapters in PEFT's format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from deepscaler.modeling.lora import (
    ADAPTER_FILE,
    Adapters,
    adapter_parameters,
    adapters_of,
    base_parameters,
)
from deepscaler.training.weight_parts import read_parameters


def saved_weights(model: Any) -> dict[str, Tensor]:
    """What a checkpoint holds of the model's weights: all, under transformers' names, or the adapters, under PEFT's."""
    held = base_parameters(model) if adapters_of(model) is None else adapter_parameters(model)
    return {name: parameter.detach() for name, parameter in held.items()}


def save_weights(model: Any, directory: Path, weights: Mapping[str, Tensor] | None) -> None:
    """weights: whole, of `saved_weights`; None for the model's own."""
    adapters = adapters_of(model)
    if adapters is None:
        model.save_pretrained(directory, state_dict=None if weights is None else dict(weights))
        return
    whole = saved_weights(model) if weights is None else weights
    save_file({name: value.contiguous() for name, value in whole.items()}, directory / ADAPTER_FILE, {"format": "pt"})
    config = copy.copy(adapters.config)
    config.inference_mode = True  # as PEFT writes it
    config.save_pretrained(directory)


def load_adapters(model: Any, directory: Path) -> Adapters | None:
    """Restore the adapters of a checkpoint in place; None for a model without. Raises ValueError where one has none."""
    adapters, file = adapters_of(model), directory / ADAPTER_FILE
    if (adapters is not None) != file.is_file():
        holds, wants = ("adapters (model.lora)", "all weights") if adapters is None else ("all weights", "adapters")
        raise ValueError(
            f"{directory} holds {holds}, but the recipe trains {wants}; give both runs the same [model.lora], or begin "
            "a new run with this checkpoint as model.path"
        )
    if adapters is not None:
        read_parameters(adapter_parameters(model), [file])
    return adapters
