"""Which tensors the operations of this package compute with kernels; all others go to the torch reference."""

from __future__ import annotations

import torch
from torch import Tensor

from deepscaler.cpu.settings import is_accelerated


def can_accelerate(*tensors: Tensor) -> bool:
    """Whether all are float32 on CPU, outside of autocast, and acceleration is not switched off."""
    for x in tensors:
        if not x.is_cpu or x.dtype != torch.float32:
            return False
    return is_accelerated() and not torch.is_autocast_enabled("cpu")
