"""The vocabulary head with its logits in float32, as learner and engine both compute it when a recipe asks for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wide_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden weight^T, float32 [N,V]: hidden [N,I] and weight [V,I] of one type, sums and result in float32.

    In half precision that is what rounding the logits would lose: a product of two bfloat16 numbers is exact in
    float32. On CUDA the tensor cores do it at the same rate (`out_dtype`); on CPU the factors are widened first.
    """
    if hidden.dtype == torch.float32:
        return F.linear(hidden, weight)
    if hidden.is_cuda:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    return F.linear(hidden.float(), weight.float())
