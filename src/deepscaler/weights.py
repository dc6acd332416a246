"""The identity of a set of weights, by which publishing is checked."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from deepscaler.cpu import available_cores


def weights_digest(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names.

    `dtype`: compare as if floating-point weights had been cast to it, as an engine of lower precision holds them.
    """
    ordered = sorted(weights, key=lambda item: item[0])
    one = functools.partial(_digest, dtype=dtype)
    if ordered and ordered[0][1].is_cuda:  # copies and hashes of several weights at once: gigabytes wait for them
        with ThreadPoolExecutor(available_cores()) as threads:
            parts = list(threads.map(one, ordered))
    else:
        parts = [one(item) for item in ordered]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _digest(item: tuple[str, Tensor], dtype: torch.dtype | None) -> bytes:
    name, weight = item
    tensor = weight.detach()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    tensor = tensor.contiguous().cpu()
    digest = hashlib.sha256(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
