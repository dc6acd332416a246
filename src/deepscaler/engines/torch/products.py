"""The matrix products of decoding, by torch's own or by oneDNN with weights packed once per generation.

On AMD processors torch's products go to MKL, which leaves AVX-512 unused there: oneDNN was measured at twice its rate,
1.3 times more with packed weights, and it takes over the activation and the residual
(docs/decisions/0006-decoder-and-blocks.md). The choice depends on nothing but the machine, so that a resumed run
repeats itself.

N rows, I inputs, O outputs; weights [O,I].
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.cpu import prefers_onednn


class Products(Protocol):
    row_multiple: int  # rows should be padded to a multiple of this
    copies: bool  # does `pack` copy, so that the weight may be scaled on the way?

    def pack(self, weight: Tensor) -> Tensor:
        """The weight in the form that the products want."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x weight^T + bias: [N,O]."""
        ...

    def silu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """silu(x weight^T + bias)."""
        ...

    def times(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """(x weight^T + bias) * other."""
        ...

    def plus(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """x weight^T + bias + other, in the number type of `other`."""
        ...


class TorchProducts:
    row_multiple, copies = 1, False

    def pack(self, weight: Tensor) -> Tensor:
        return weight

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def silu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.silu(F.linear(x, weight, bias), inplace=True)

    def times(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        return F.linear(x, weight, bias).mul_(other)

    def plus(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        product = F.linear(x, weight, bias)
        return product.add_(other) if product.dtype == other.dtype else other + product


class OneDnnProducts:
    """oneDNN compiles a kernel for every number of rows (0.3 ms), hence rows in multiples of 16."""

    row_multiple, copies = 16, True

    def __init__(self) -> None:
        self._product: Any = torch.ops.mkldnn._linear_pointwise

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), self.row_multiple)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._product(x, weight, bias, "none", [], "")

    def silu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._product(x, weight, bias, "swish", [], "")

    def times(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        return self._product.binary(x, other, weight, bias, "mul")

    def plus(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        return self._product.binary(x, other, weight, bias, "add")


def products_for(device: torch.device, dtype: torch.dtype) -> Products:
    """The faster of the two on this machine."""
    suits = device.type == "cpu" and dtype == torch.float32 and prefers_onednn()
    return OneDnnProducts() if suits and has_packing() else TorchProducts()


def has_packing() -> bool:
    """oneDNN's operators are not part of torch's public interface: look for them before use."""
    if not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
