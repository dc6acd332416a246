"""The layers of a Qwen2, Qwen3 or Llama model with the compiled passes between their products.

The modules stay transformers' own, with their parameters, names and state: only their class is replaced, by one that
computes the same in fewer passes over memory (measured in docs/experiments.md). Where a pass cannot be a compiled one
(another device or number type, autocast, no numba), the module does what it did before.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from deepscaler import attention, compiled
from deepscaler.compiled import passes


def use_compiled_passes(model: Any) -> None:
    """Let the layers of the model compute with compiled passes, where their parts are the known ones."""
    if not compiled.has_numba():
        return
    for layer in model.base_model.layers:
        if not isinstance(layer, CompiledLayer) and _is_known(layer):
            layer.plain_class, layer.__class__ = type(layer), CompiledLayer
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.plain_class, module.__class__ = type(module), CompiledNorm


def _is_known(layer: Any) -> bool:
    module, mlp = layer.self_attn, layer.mlp
    parts = [(module, ("q_proj", "k_proj", "v_proj", "o_proj")), (mlp, ("gate_proj", "up_proj", "down_proj"))]
    linears = [getattr(owner, name, None) for owner, names in parts for name in names]
    return (
        all(isinstance(linear, nn.Linear) for linear in linears)
        and module.config._attn_implementation == attention.NAME
        and module.config.hidden_act in ("silu", "swish")
        and getattr(module, "sliding_window", None) is None
        and not module.attention_dropout
    )


class CompiledNorm(nn.Module):
    """RMS normalisation over the last dimension."""

    weight: Tensor
    variance_epsilon: float
    plain_class: type[nn.Module]

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not passes.suit(hidden_states) or not passes.suit(self.weight):
            return self.plain_class.forward(self, hidden_states)
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        return _normed(self, rows)[0].view(hidden_states.shape)


def _normed(module: Any, x: Tensor, branch: Tensor | None = None) -> Any:
    """The norm of x + branch, and the sum."""
    return passes.Norm.apply(x, branch, module.weight, module.variance_epsilon)


class CompiledLayer(GradientCheckpointingLayer):
    """One layer over packed rows: hidden_states [1,T,W]."""

    self_attn: Any
    mlp: Any
    input_layernorm: Any
    post_attention_layernorm: Any
    plain_class: type[nn.Module]

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        if len(hidden_states) > 1 or not passes.suit(hidden_states) or not passes.suit(self.input_layernorm.weight):
            return self.plain_class.forward(self, hidden_states, **context)
        normed, hidden = _normed(self.input_layernorm, hidden_states.squeeze(0))
        branch = _attended(self.self_attn, normed, context["position_embeddings"], context["attention_context"])
        normed, hidden = _normed(self.post_attention_layernorm, hidden, branch)
        gated: Any = passes.Gate.apply(self.mlp.gate_proj(normed), self.mlp.up_proj(normed))
        return (hidden + self.mlp.down_proj(gated)).unsqueeze(0)


def _attended(module: Any, normed: Tensor, turns: tuple[Tensor, Tensor], context: attention.AttentionContext) -> Tensor:
    query, key, value = (
        linear(normed).view(len(normed), -1, module.head_dim)
        for linear in (module.q_proj, module.k_proj, module.v_proj)
    )
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = (turn.squeeze(0) for turn in turns)
    query, key = (passes.Rotation.apply(x.flatten(1), cos, sin).view(x.shape) for x in (query, key))  # type: ignore[union-attr]
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    out = context.attend(module.layer_idx, query, key, value, module.scaling)
    return module.o_proj(out.squeeze(0).transpose(0, 1).reshape(len(normed), -1))
