"""A model whose weights, gradients and optimizer state are divided over ranks by PyTorch's FSDP2 (`fully_shard`).

The unit of gathering is a layer; embeddings, final norm and head belong to the root. The head's weight is used by
`token_logprobs`, not by the head's forward, so the root is the model together with that computation. Gradients are
summed over the ranks, not averaged: token weights are of the whole step (algorithms.reduction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from deepscaler.cpu.layers import let_weights_be_freed
from deepscaler.modeling.generic import decoder_layers
from deepscaler.modeling.lora import merged_weights
from deepscaler.modeling.meta_init import device_of
from deepscaler.protocols import PolicyOrReference
from deepscaler.training.context_parallel import TokenValues
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.packing import PackedBatch
from deepscaler.training.weight_parts import is_on_meta, materialise

Compute = Callable[[Any, PackedBatch], TokenValues]


class ShardedModel(nn.Module):
    """The root. compute: from the model and a batch, with whole weights, what the loss needs."""

    def __init__(self, model: nn.Module, compute: Compute) -> None:
        super().__init__()
        self.model, self._compute = model, compute

    def forward(self, batch: PackedBatch) -> TokenValues:
        return self._compute(self.model, batch)


def shard(
    model: Any, compute: Compute, mesh: DeviceMesh, *, half: torch.dtype | None, cpu_offload: bool
) -> ShardedModel:
    """Divide the model's float32 weights over the ranks of the mesh, in place.

    half: number type in which weights are gathered and multiplied; None keeps float32. Gradients are reduced in
    float32. cpu_offload: weights, gradients and optimizer state wait in host memory.
    """
    precision = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if cpu_offload else OffloadPolicy()
    let_weights_be_freed(model)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision, offload_policy=offload)
    root = ShardedModel(model, compute)
    # Its weights are needed again at once, by the backward pass.
    fully_shard(root, mesh=mesh, mp_policy=precision, offload_policy=offload, reshard_after_forward=False)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no product and sum in one
    return root


def gathered(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and whole float32 value of every weight, adapters merged, tied ones once: a collective for each one taken.

    Every rank has to take all of them, in this order.
    """
    return merged_weights(model, _whole)


def whole_of(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """As `gathered`, of these."""
    return ((name, _whole(weight)) for name, weight in weights.items())


def _whole(weight: Tensor) -> Tensor:
    divided = weight.detach()
    assert isinstance(divided, DTensor)
    return divided.full_tensor()


class ShardedComputer(GradientComputer):
    """This rank's part of gradients and log-probabilities; every rank runs as many micro-batches as the others.

    mesh: of all ranks. cpu_offload: as in `shard`. files: of the weights, for models on the meta device.
    """

    def __init__(
        self, *arguments: Any, mesh: DeviceMesh, cpu_offload: bool, files: Path | None = None, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        device = device_of(self.model)  # before its weights are divided, and maybe offloaded
        compute = super()._token_values
        distinct = {id(model): model for model in (self.model, self.reference) if model is not None}.values()
        self._roots = {
            id(model): shard(model, compute, mesh, half=self._half, cpu_offload=cpu_offload) for model in distinct
        }
        self._device = device
        for model in distinct:
            if is_on_meta(model):
                assert files is not None
                materialise(model, files, torch.device("cpu") if cpu_offload else self._device)

    def free_gathered(self, of: PolicyOrReference) -> None:
        """Free the root's whole weights, which a forward without backward leaves: they would be stale after a load.

        On all ranks after the same number of forwards, since the next one gathers them again.
        """
        model = self.reference if of == "reference" else self.model
        root = self._roots[id(model)]
        assert isinstance(root, FSDPModule)
        root.reshard()

    def _token_values(self, model: nn.Module, batch: PackedBatch) -> TokenValues:
        return self._roots[id(model)](batch)
