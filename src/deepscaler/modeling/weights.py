"""Published weights and their digest, by which publishing is checked."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from deepscaler.cpu import available_cores
from deepscaler.protocols import PublishedWeights


class DigestedWeights(PublishedWeights, Protocol):
    """Published weights that know the digest of each tensor, by which an engine's copy is compared."""

    def tensor_digests(self, dtype: str) -> Mapping[str, str]:
        """Tensor name -> SHA-256 (hex) after the cast to `dtype`. Raises ValueError for one that was not published."""
        ...


def weights_digest(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names.

    `dtype`: compare as if floating-point weights had been cast to it, as an engine of lower precision holds them.
    """
    return combined_digest(tensor_digests(weights, dtype))


def tensor_digests(
    weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None, *, in_threads: bool = False
) -> dict[str, str]:
    """SHA-256 (hex) of every weight: its name, dtype, shape and bytes, after the cast to `dtype`.

    in_threads: compute several at once, as always for weights on a GPU. Else one is looked at after the other, so that
    a weight which is merged for it exists only meanwhile.
    """
    found: dict[str, str] = {}
    several: list[tuple[str, Tensor]] = []
    for item in weights:
        if in_threads or item[1].is_cuda:
            several.append(item)
        else:
            found[item[0]] = _digest(item, dtype).hex()
    if several:  # gigabytes wait for them
        with ThreadPoolExecutor(available_cores()) as threads:
            parts = threads.map(functools.partial(_digest, dtype=dtype), several)
            found |= {name: part.hex() for (name, _), part in zip(several, parts, strict=True)}
    return dict(sorted(found.items()))


def differing_tensors(weights: DigestedWeights, held: Mapping[str, str], dtype: str) -> list[str]:
    """Names of the tensors that a sampler lacks, has besides, or holds with another digest, sorted."""
    wanted = weights.tensor_digests(dtype)
    return sorted(name for name in {*wanted, *held} if wanted.get(name) != held.get(name))


def combined_digest(digests: Mapping[str, str]) -> str:
    """The digest of all weights (`weights_digest`) from those of each."""
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests))).hexdigest()


def _digest(item: tuple[str, Tensor], dtype: torch.dtype | None) -> bytes:
    name, weight = item
    tensor = weight.detach()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    tensor = tensor.contiguous().cpu()
    digest = hashlib.sha256(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


class LiveWeights:
    """Weights of a model in this process, read in place, until its next update.

    A digest is computed when it is first asked for, once per dtype.
    """

    def __init__(self, version: int, named: Callable[[], Iterable[tuple[str, Tensor]]]) -> None:
        """named: every trainable weight under its transformers name, tied ones once."""
        self.version = version
        self._named = named
        self._digests: dict[str, str] = {}
        self._expired = False

    def expire(self) -> None:
        """The weights change now; digests that were computed before stay known."""
        self._expired = True

    def digest(self, dtype: str) -> str:
        """SHA-256 (hex) that the weights have when they are cast to this dtype."""
        if dtype not in self._digests:
            self._digests[dtype] = weights_digest(self._current(), getattr(torch, dtype))
        return self._digests[dtype]

    def tensors(self, dtype: str) -> Iterator[tuple[str, Tensor]]:
        """Name and weight; a weight that has this dtype is the parameter itself."""
        wanted = getattr(torch, dtype)
        for name, weight in self._current():
            floating = weight.is_floating_point() and weight.dtype != wanted
            yield name, weight.detach().to(wanted) if floating else weight

    def _current(self) -> Iterable[tuple[str, Tensor]]:
        if self._expired:
            raise RuntimeError(f"weights of version {self.version} were updated after they were published")
        return self._named()


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")
