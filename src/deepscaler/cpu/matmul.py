"""Matrix products, forward and backward, by whichever library is faster on this machine.

torch multiplies float32 on CPU with MKL, which leaves AVX-512 unused on AMD processors: oneDNN, which torch brings
along, was measured at twice its rate there, and 1.3 times more with packed weights, and it takes over activation and
residual (docs/decisions/0007-onednn-on-amd.md). The choice depends on nothing but the machine and the switch, so that a
resumed run repeats itself. N rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepscaler.cpu.dispatch import can_accelerate
from deepscaler.cpu.settings import is_accelerated


@functools.cache
def has_onednn() -> bool:
    """oneDNN's operators are not part of torch's public interface: look for them before use."""
    if not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))


@functools.cache
def prefers_onednn() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than torch's default: AMD processors with AVX-512."""
    cpuinfo = Path("/proc/cpuinfo")
    amd = cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()
    return is_accelerated() and amd and has_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias: a [N,I], b [O,I], bias [O]; returns [N,O]. No gradient flows through it."""
    if prefers_onednn() and a.device.type == "cpu" and a.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x: grad [N,O], x [N,I]; returns [O,I]. oneDNN is faster with the smaller side as rows."""
    if grad.shape[1] <= x.shape[1]:
        return matmul(grad.T, x.T)
    return matmul(x.T, grad.T).T


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            matmul(grad, weight.T).view(x.shape) if wants_x else None,
            weight_gradient(grad, x.reshape(-1, weight.shape[1])) if wants_weight else None,
            grad.sum(0) if wants_bias else None,
        )


class OneDnnLinear(nn.Linear):
    """`nn.Linear`, with the same parameters, names and state, whose float32 products on CPU go through `matmul`."""

    def forward(self, input: Tensor) -> Tensor:
        if not can_accelerate(input):
            return super().forward(input)
        result = _Linear.apply(input, self.weight, self.bias)
        assert isinstance(result, Tensor)
        return result


def use_onednn(model: nn.Module) -> None:
    """Let every plain linear layer multiply with oneDNN, where that is faster."""
    if prefers_onednn():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = OneDnnLinear


class Matmul:
    """The products of a decoding step by torch, on any device: the reference of `OneDnnMatmul`."""

    row_multiple = 1  # rows should be padded to a multiple of this
    copies = False  # whether `pack` copies, so that the weight may be scaled on the way

    def pack(self, weight: Tensor) -> Tensor:
        """A weight [O,I] in the form that the products take."""
        return weight

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x weight^T + bias: [N,O]."""
        return F.linear(x, weight, bias)

    def linear_silu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """silu(x weight^T + bias)."""
        return F.silu(F.linear(x, weight, bias), inplace=True)

    def linear_mul(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """(x weight^T + bias) * other."""
        return F.linear(x, weight, bias).mul_(other)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """x weight^T + bias + other, in the dtype of `other`."""
        product = F.linear(x, weight, bias)
        return product.add_(other) if product.dtype == other.dtype else other + product


class OneDnnMatmul(Matmul):
    """By oneDNN, with weights packed once per generation. It compiles a kernel for every number of rows (0.3 ms)."""

    row_multiple, copies = 16, True

    def __init__(self) -> None:
        self._linear: Any = torch.ops.mkldnn._linear_pointwise

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), self.row_multiple)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._linear(x, weight, bias, "none", [], "")

    def linear_silu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._linear(x, weight, bias, "swish", [], "")

    def linear_mul(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        return self._linear.binary(x, other, weight, bias, "mul")

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        return self._linear.binary(x, other, weight, bias, "add")


def decode_matmul(weight: Tensor) -> Matmul:
    """The faster of the two for products with weights like this one."""
    return OneDnnMatmul() if prefers_onednn() and can_accelerate(weight) else Matmul()
