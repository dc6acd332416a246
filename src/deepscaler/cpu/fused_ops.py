"""Elementwise and row-wise operations of a model, each with the torch reference that it falls back to.

Where `can_accelerate` says so, a kernel of `kernels.fused_ops` computes in one pass over memory what takes torch three
to seven. The references round as transformers' modules do. T tokens (or rows), W width, D head width, V vocabulary.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.cpu.dispatch import can_accelerate


def _kernels() -> ModuleType:
    from deepscaler.cpu.kernels import fused_ops  # loads numba; compiled when first used

    return fused_ops


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def rms_norm(x: Tensor, branch: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMS normalization of x + branch (None: of x); both [T,W], weight [W]. Returns the norm and the sum [T,W].

    The sum is returned for the residual, so that both gradients arrive together and are added in the same pass.
    """
    if can_accelerate(x, weight):
        result: Any = _RMSNorm.apply(x, branch, weight, eps)
        return result
    hidden = x if branch is None else x + branch
    wide = hidden.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(hidden.dtype), hidden


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        out, inverse = x.new_empty(x.shape), x.new_empty(len(x))
        if branch is None:
            hidden = x.contiguous()
            _kernels().rms_norm(_array(hidden), _array(weight), eps, out.numpy(), inverse.numpy())
        else:
            hidden = x.new_empty(x.shape)
            given = _array(x), _array(branch), _array(weight)
            _kernels().add_rms_norm(*given, eps, hidden.numpy(), out.numpy(), inverse.numpy())
        ctx.save_for_backward(hidden, weight, inverse)
        ctx.set_materialize_grads(False)
        return out, hidden.view_as(hidden) if hidden is x else hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, inverse = ctx.saved_tensors
        grad, residual = grads
        if grad is None:
            return residual, residual if ctx.needs_input_grad[1] else None, None, None
        residual = torch.zeros_like(hidden) if residual is None else residual
        grad_x, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        given = (_array(x) for x in (residual, grad, hidden, weight, inverse))
        _kernels().rms_norm_backward(*given, grad_x.numpy(), grad_weight.numpy())
        return grad_x, grad_x if ctx.needs_input_grad[1] else None, grad_weight, None


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up of [T,W] each."""
    if can_accelerate(gate, up):
        result: Any = _SiluMul.apply(gate, up)
        return result
    return F.silu(gate) * up


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = gate.new_empty(gate.shape)
        _kernels().silu_mul(_array(gate), _array(up), out.numpy())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = gate.new_empty(gate.shape), gate.new_empty(gate.shape)
        _kernels().silu_mul_backward(*(_array(x) for x in (grads[0], gate, up)), grad_gate.numpy(), grad_up.numpy())
        return grad_gate, grad_up


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [T,heads,D]; cos and sin [T,D]."""
    if can_accelerate(x):
        result: Any = _Rotary.apply(x.flatten(1), cos, sin)
        return result.view(x.shape)
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.cos, ctx.sin = cos, sin
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _rotated(grads[0], ctx.cos, ctx.sin, -1.0), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    out = x.new_empty(x.shape)
    _kernels().rotary(*(_array(each) for each in (x, cos, sin)), sign, out.numpy())
    return out


def sample(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum of softmax of logits [N,V] exceeds uniforms float32 [N]: int64 [N], and their log p.

    For logits that `can_accelerate`; the reference is the engine's own way on other devices (`sampling.draw`).
    """
    tokens, logprobs = logits.new_empty(len(logits), dtype=torch.int64), logits.new_empty(len(logits))
    _kernels().sample(_array(logits), _array(uniforms), tokens.numpy(), logprobs.numpy())
    return tokens, logprobs


def softmax(logits: Tensor, targets: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p [T,V] := softmax of logits float32; returns log p of each row's target, logsumexp and entropy, [T] each.

    p may be logits; all are contiguous.
    """
    if can_accelerate(logits):
        results = logits.new_empty(3, len(logits))
        _kernels().softmax(_array(logits), _array(targets), p.numpy(), *results.numpy())
        return results[0], results[1], results[2]
    columns = targets.unsqueeze(1)
    log_p = torch.log_softmax(logits, dim=-1)
    chosen = log_p.gather(1, columns)
    log_sums = logits.gather(1, columns) - chosen
    torch.exp(log_p, out=p)
    return chosen.squeeze(1), log_sums.squeeze(1), torch.linalg.vecdot(p, log_p).neg_()
