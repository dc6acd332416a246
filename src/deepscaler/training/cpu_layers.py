"""The layers of a Qwen2, Qwen3 or Llama model for learning on CPU: transformers' arithmetic in fewer passes.

What is not a product is a pass over memory on CPU, and costs a third of an update of a small model. Here query, key and
value, and gate and up, are one product each; residuals are added by the product; norms, rotary embedding and gate have
a backward of their own that writes where the next product reads (measured in docs/experiments.md). Values and gradients
equal those of transformers' modules up to rounding; tests hold both beside each other in float64.

T tokens of the packed row, W width, H query heads, K key-value heads, G = H / K, D head width, I MLP width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepscaler.attention import PackedAttention
from deepscaler.cpu import prefers_onednn
from deepscaler.training.cpu_attention import Plan, SegmentAttention
from deepscaler.training.products import add_product, product, weight_gradient

# Scores of a product, on average over a row, from which SegmentAttention is faster than torch's kernel. Below, calls
# cost more than oneDNN gains.
PAYING_SCORES = 50_000


def suits(model: Any) -> bool:
    """Whether `forward_hidden` below can stand for the model's own: a plain dense float32 model on CPU."""
    config, weight = model.config, model.get_input_embeddings().weight
    linears = [m for layer in model.base_model.layers for m in layer.modules() if isinstance(m, nn.Linear)]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and config.hidden_act in ("silu", "swish")
        and not getattr(config, "attention_dropout", 0.0)
        and all(x.weight.dtype == weight.dtype for x in linears)
        and len(linears) == 7 * len(model.base_model.layers)
        and all(getattr(layer.self_attn, "sliding_window", None) is None for layer in model.base_model.layers)
    )


def forward_hidden(model: Any, input_ids: Tensor, position_ids: Tensor, attention: PackedAttention) -> Tensor:
    """Final hidden states [1,T,W], as `deepscaler.attention.forward_hidden` gives them."""
    base, config = model.base_model, model.config
    hidden = base.embed_tokens(input_ids)[0]
    cos, sin = (x[0] for x in base.rotary_emb(hidden, position_ids))
    group = config.num_attention_heads // config.num_key_value_heads
    plan = Plan(attention, group)
    pays = prefers_onednn() and plan.mean_scores >= PAYING_SCORES
    for layer in base.layers:
        arguments = (layer, hidden, cos, sin, attention, plan if pays else None)
        if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
            hidden = checkpoint(_layer, *arguments, use_reentrant=False)
        else:
            hidden = _layer(*arguments)
    return _norm(base.norm, hidden)[0].unsqueeze(0)


def _layer(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, attention: PackedAttention, plan: Plan | None) -> Any:
    module, mlp = layer.self_attn, layer.mlp
    normed, hidden = _norm(layer.input_layernorm, hidden)
    joined = _joined(normed, module.q_proj, module.k_proj, module.v_proj)
    kv_heads = module.k_proj.weight.shape[0] // module.head_dim
    if getattr(module, "q_norm", None) is not None:
        joined = _with_head_norms(module, joined, kv_heads)
    result = _attend(joined, cos, sin, kv_heads, module.scaling, attention, plan)
    hidden = _Added.apply(hidden, result, module.o_proj.weight, module.o_proj.bias)
    normed, hidden = _norm(layer.post_attention_layernorm, hidden)
    gated = _Gate.apply(_joined(normed, mlp.gate_proj, mlp.up_proj))
    return _Added.apply(hidden, gated, mlp.down_proj.weight, mlp.down_proj.bias)


def _norm(module: Any, hidden: Tensor) -> Any:
    """The normed hidden states, and the same hidden states for the residual."""
    return _Norm.apply(hidden, module.weight, module.variance_epsilon)


def _joined(x: Tensor, *linears: Any) -> Any:
    biases = [linear.bias for linear in linears if linear.bias is not None]
    bias = torch.cat(biases) if biases else None
    return _Joined.apply(x, bias, *(linear.weight for linear in linears))


def _with_head_norms(module: Any, joined: Tensor, kv_heads: int) -> Tensor:
    """Query and key normed head by head (Qwen3)."""
    heads = joined.view(len(joined), -1, module.head_dim)
    query, key, value = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    return torch.cat([module.q_norm(query), module.k_norm(key), value], dim=1).view(joined.shape)


def _attend(
    joined: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv_heads: int,
    scaling: float,
    attention: PackedAttention,
    plan: Plan | None,
) -> Any:
    """[T,H*D] from query, key and value [T,(H+2K)*D]."""
    query, key, value = _Rotation.apply(joined, cos, sin, kv_heads, scaling, plan is not None)
    if plan is not None:
        return SegmentAttention.apply(query, key, value, plan)
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    out = attention.attend(0, query, key, value, 1.0)
    return out[0].transpose(0, 1).reshape(len(joined), -1)


class _Norm(torch.autograd.Function):
    """RMS normalisation of x [T,W]; also returns x, so that both gradients come back together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.set_materialize_grads(False)
        return (x * inverse).mul_(weight), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, residual = grads
        if grad is None:
            return residual, None, None
        normed = x * inverse
        terms = grad * normed
        pull = (terms @ weight).div_(-x.shape[-1]).unsqueeze(1)
        grad_x = (grad * weight).addcmul_(normed, pull)
        grad_x = grad_x.mul_(inverse) if residual is None else torch.addcmul(residual, grad_x, inverse)
        return grad_x, terms.sum(0), None


class _Joined(torch.autograd.Function):
    """Several linear layers of one input as one product: x [T,W], weights [O_i,W], bias [sum of O_i] or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        return product(x, torch.cat(weights), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        grad_weights = weight_gradient(grads[0], x).split([len(w) for w in weights])
        grad_bias = grads[0].sum(0) if ctx.needs_input_grad[1] else None
        return product(grads[0], torch.cat(weights).T), grad_bias, *grad_weights


class _Added(torch.autograd.Function):
    """residual [T,W] + x weight^T + bias: x [T,I], weight [W,I]."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return add_product(residual, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_bias = grads[0].sum(0) if ctx.needs_input_grad[3] else None
        return grads[0], product(grads[0], weight.T), weight_gradient(grads[0], x), grad_bias


class _Gate(torch.autograd.Function):
    """silu(gate) * up from both side by side [T,2I]; returns [T,I]."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=1)
        result = torch.empty_like(both)
        grad_gate, grad_up = result.chunk(2, dim=1)
        torch.mul(grads[0], F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=grad_gate)
        return result


class _Rotation(torch.autograd.Function):
    """Rotary embedding of joined query, key and value [T,(H+2K)*D]; queries are scaled as well.

    cos, sin [T,D]. Returns query, key, value for SegmentAttention (`by_head`), else [T,H,D], [T,K,D], [T,K,D].
    """

    @staticmethod
    def forward(
        ctx: Any, joined: Tensor, cos: Tensor, sin: Tensor, kv_heads: int, scaling: float, by_head: bool
    ) -> tuple[Tensor, ...]:
        half = cos.shape[1] // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)
        ctx.turns = (cos * scaling, signed * scaling), (cos, signed)
        ctx.kv_heads, ctx.by_head, ctx.shape = kv_heads, by_head, joined.shape
        outputs = []
        for source, turn in zip(_heads(joined, kv_heads, cos.shape[1]), (*ctx.turns, None), strict=True):
            output, target = _room(source, by_head)
            if turn is None:
                target.copy_(source)
            else:
                _turn(source, *turn, target)
            outputs.append(output)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        joined = grads[0].new_empty(ctx.shape)
        width = ctx.turns[0][0].shape[1]
        for grad, target, turn in zip(grads, _heads(joined, ctx.kv_heads, width), (*ctx.turns, None), strict=True):
            tokens, kv_heads = target.shape[:2]
            source = (grad[:, :tokens].transpose(0, 1) if ctx.by_head else grad).reshape(tokens, kv_heads, -1, width)
            if turn is None:
                target.copy_(source)
            else:
                cos, signed = turn
                _turn(source, cos, signed.roll(width // 2, 1), target)
        return joined, None, None, None, None, None


def _heads(joined: Tensor, kv_heads: int, width: int) -> list[Tensor]:
    """Views [T,K,G,D], [T,K,1,D], [T,K,1,D] of query, key and value."""
    side = kv_heads * width
    parts = joined.split([joined.shape[1] - 2 * side, side, side], dim=1)
    return [part.unflatten(1, (kv_heads, -1, width)) for part in parts]


def _room(source: Tensor, by_head: bool) -> tuple[Tensor, Tensor]:
    """An empty output and its view of the shape of `source` [T,K,G,D]; by head with a row of zeros at the end."""
    tokens, kv_heads, group, width = source.shape
    if not by_head:
        output = source.new_empty(tokens, kv_heads * group, width)
        return output, output.view(source.shape)
    output = source.new_empty(kv_heads, tokens + 1, group * width)
    output[:, -1] = 0
    return output, output[:, :-1].unflatten(2, (group, width)).transpose(0, 1)


def _turn(source: Tensor, cos: Tensor, signed: Tensor, target: Tensor) -> None:
    """target = source * cos + (source with its halves swapped) * signed; the last two [T,D]."""
    half = cos.shape[1] // 2
    cos, signed = cos[:, None, None], signed[:, None, None]
    torch.mul(source, cos, out=target)
    target[..., :half].addcmul_(source[..., half:], signed[..., :half])
    target[..., half:].addcmul_(source[..., :half], signed[..., half:])
