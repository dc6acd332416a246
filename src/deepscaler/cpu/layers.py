"""The layers of a model with fused operations between their matrix products.

The modules stay transformers' own, with their parameters, names and state: only their class is replaced, by one that
computes the same in fewer passes over memory (measured in docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from deepscaler.cpu.dispatch import can_accelerate
from deepscaler.cpu.fused_ops import rms_norm, rotary, silu_mul


def use_fused_layers(model: Any, parts: Callable[[Any], Any] | None) -> None:
    """Replace the class of every RMS norm, and of every layer whose parts are those of Llama, with the same activation.

    parts: the modules of a layer (`modeling.families`); None for layers that are not Llama's.
    """
    if parts is not None:
        for layer in model.base_model.layers:
            if not isinstance(layer, FusedLayer) and _is_known(parts(layer)):
                layer.parts, layer.plain_class, layer.__class__ = parts, type(layer), FusedLayer
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.__class__ = FusedRMSNorm


def _is_known(parts: Any) -> bool:
    module = parts.attention
    linears = (parts.query, parts.key, parts.value, parts.out, parts.gate, parts.up, parts.down)
    return (
        all(isinstance(linear, nn.Linear) for linear in linears)
        and module.config.hidden_act in ("silu", "swish")
        and not module.attention_dropout
    )


class FusedRMSNorm(nn.Module):
    """RMS normalization over the last dimension."""

    weight: Tensor
    variance_epsilon: float
    weight_is_freed = False  # after use, by FSDP: then the kernels, which pin what they read as an array, read a copy

    def forward(self, hidden_states: Tensor) -> Tensor:
        rows = hidden_states.reshape(-1, hidden_states.shape[-1]) if can_accelerate(hidden_states) else hidden_states
        return _normed(self, rows)[0].view(hidden_states.shape)


def _normed(module: Any, x: Tensor, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The norm of x + branch, and the sum."""
    weight = module.weight.clone() if module.weight_is_freed else module.weight
    return rms_norm(x, branch, weight, module.variance_epsilon)


def let_weights_be_freed(model: nn.Module) -> None:
    """For a model whose weights FSDP gathers for a layer and frees after it."""
    for module in model.modules():
        if isinstance(module, FusedRMSNorm):
            module.weight_is_freed = True


class FusedLayer(GradientCheckpointingLayer):
    """One layer over packed rows: hidden_states [1,T,W].

    The module's own class computes padded batches, other dtypes, and calls without an attention context.
    """

    parts: Callable[[Any], Any]
    plain_class: type[nn.Module]

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        attention_context = context.get("attention_context")
        if len(hidden_states) > 1 or attention_context is None or not can_accelerate(hidden_states):
            return self.plain_class.forward(self, hidden_states, **context)
        parts = self.parts(self)
        normed, hidden = _normed(parts.attention_norm, hidden_states.squeeze(0))
        branch = _attended(parts, normed, context["position_embeddings"], attention_context)
        normed, hidden = _normed(parts.mlp_norm, hidden, branch)
        gated = silu_mul(parts.gate(normed), parts.up(normed))
        return hidden.unsqueeze(0) + parts.down(gated).unsqueeze(0)


def _attended(parts: Any, normed: Tensor, rotation: tuple[Tensor, Tensor], context: Any) -> Tensor:
    module = parts.attention
    query, key, value = (
        linear(normed).view(len(normed), -1, module.head_dim) for linear in (parts.query, parts.key, parts.value)
    )
    if parts.query_norm is not None:
        query, key = parts.query_norm(query), parts.key_norm(key)
    cos, sin = (x.squeeze(0) for x in rotation)
    query, key = rotary(query, cos, sin), rotary(key, cos, sin)
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    window = parts.window
    out = context.attend(module.layer_idx, query, key, value, module.scaling, window)
    return parts.out(out.squeeze(0).transpose(0, 1).reshape(len(normed), -1))
