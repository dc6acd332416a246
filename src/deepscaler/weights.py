"""The identity of a set of weights, by which publishing is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_digest(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names.

    `dtype`: compare as if floating-point weights had been cast to it, as an engine of lower precision holds them.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda item: item[0]):
        tensor = weight.detach()
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        tensor = tensor.contiguous().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
