"""The matrix products of learning, forward and backward, by whichever library is faster on this machine.

torch multiplies float32 on CPU with MKL, which leaves AVX-512 unused on AMD processors: oneDNN, which torch brings
along, was measured at twice its rate there (docs/decisions/0007-onednn-on-amd.md). The choice depends on nothing but
the machine, so that a resumed run repeats itself. N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepscaler.cpu import prefers_onednn


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias: a [N,I], b [O,I], bias [O]; returns [N,O]. No gradient flows through it."""
    if prefers_onednn() and a.device.type == "cpu" and a.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return nn.functional.linear(a, b, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x: grad [N,O], x [N,I]; returns [O,I]. oneDNN is faster with the smaller side as rows."""
    if grad.shape[1] <= x.shape[1]:
        return product(grad.T, x.T)
    return product(x.T, grad.T).T


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            product(grad, weight.T).view(x.shape) if wants_x else None,
            weight_gradient(grad, x.reshape(-1, weight.shape[1])) if wants_weight else None,
            grad.sum(0) if wants_bias else None,
        )


class OneDnnLinear(nn.Linear):
    """`nn.Linear` with the products above; the same parameters, names and state."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        result = _Linear.apply(input, self.weight, self.bias)
        assert isinstance(result, Tensor)
        return result


def use_fast_products(model: nn.Module) -> None:
    """Let every plain linear layer of the model multiply through `product`, where that is not what it does anyway."""
    if not prefers_onednn():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
