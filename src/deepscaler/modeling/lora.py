"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) through PEFT, whose layers and file format these are.

Beside a frozen weight W [O,I] a layer has A [r,I] and B [O,r] and computes x (W + alpha / r B A)^T. B begins at 0, so
the model begins as the base, exactly; with adapters off it is the base at any time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepscaler.cpu.matmul import use_onednn

ADAPTER = "default"  # PEFT's name of the only adapter
ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."  # of every name in PEFT's files
_KEPT_AS = "lora_adapters"


@dataclass(frozen=True)
class Adapters:
    """config: PEFT's LoraConfig. layers: PEFT's layers by the name of the linear layer. seed: of the first A."""

    config: Any
    layers: Mapping[str, Any]
    seed: int


def add_adapters(model: Any, *, rank: int, alpha: int, targets: tuple[str, ...], seed: int) -> None:
    """Put adapters beside linear layers, in place, and freeze all other weights.

    targets: names such as `q_proj`; empty = all linear layers but the head. Raises ValueError for a name that no layer
    has. The values are those of `initial_factor`, except on the meta device.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = sorted(set(targets) - linear)
    if unknown:
        raise ValueError(
            f"model.lora.targets: the model has no linear layers named {', '.join(unknown)}; it has "
            f"{', '.join(sorted(linear - {'lm_head'}))}"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets) if targets else "all-linear",
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
    )
    on_meta = next(model.parameters()).is_meta
    inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=on_meta)
    use_onednn(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    setattr(model, _KEPT_AS, Adapters(config, layers, seed))
    if not on_meta:
        with torch.no_grad():
            for name, parameter in adapter_parameters(model).items():
                parameter.copy_(initial_factor(name, parameter.shape, seed))


def adapters_of(model: Any) -> Adapters | None:
    """None for a model without."""
    return getattr(model, _KEPT_AS, None)


def initial_factor(name: str, shape: torch.Size, seed: int) -> Tensor:
    """float32 [shape]: 0 for B; for A as PEFT draws it, uniform within +-1 / sqrt(I), a function of seed and name."""
    whole = torch.zeros(shape)
    if ".lora_A." in name:
        key = hashlib.sha256(f"{seed}|{name}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=draw)
    return whole


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By the names that they have in PEFT's files."""
    return {_PREFIX + name.replace(f".{ADAPTER}.", "."): p for name, p in model.named_parameters() if _is_factor(name)}


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By the names that they have without adapters, so all parameters of a model that has none."""
    return {_plain(name): p for name, p in model.named_parameters() if not _is_factor(name)}


def merged_weights(
    model: nn.Module, whole: Callable[[Tensor], Tensor] = lambda weight: weight
) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of the model that the adapters make, tied ones once; a weight without adapter is as it is.

    whole: gathers a sharded weight; then a collective, so every rank has to take all of them, in this order.
    """
    adapters = adapters_of(model)
    for name, parameter in base_parameters(model).items():
        weight, (layer, _, kind) = whole(parameter), name.rpartition(".")
        if adapters is not None and kind == "weight" and layer in adapters.layers:
            yield name, _merged(adapters.layers[layer], weight, whole)
        else:
            yield name, weight


def _merged(layer: Any, weight: Tensor, whole: Callable[[Tensor], Tensor]) -> Tensor:
    first, second = whole(layer.lora_A[ADAPTER].weight).detach(), whole(layer.lora_B[ADAPTER].weight).detach()
    return merge(weight.detach(), first, second, layer.scaling[ADAPTER])


def merge(weight: Tensor, first: Tensor, second: Tensor, scaling: float) -> Tensor:
    """W + scaling B A, float32 [O,I]; W itself while B is 0 (of which adding would lose a -0)."""
    return weight + (second @ first) * scaling if second.any() else weight


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The base model, within the block. Nothing for a model without adapters."""
    adapters = adapters_of(model)
    layers = [] if adapters is None else list(adapters.layers.values())
    for layer in layers:
        layer._disable_adapters = True  # PEFT's own switch also sets requires_grad, which FSDP has read already
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def _is_factor(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")
