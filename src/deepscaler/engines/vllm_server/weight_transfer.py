"""vLLM's weight transfer: four phases over HTTP, the tensors over CUDA IPC or NCCL.

`/init_weight_transfer_engine` once; then, for every version, `/start_weight_update`, `/update_weights` for every bucket
and `/finish_weight_update`, which names the version (vLLM 0.29 and later; `vllm/entrypoints/rl/online/api_router.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deepscaler.engines.vllm_server.client import ServerClient, VllmServerError
from deepscaler.modeling.host_weights import HostWeights
from deepscaler.modeling.weights import dtype_name

BUCKET_BYTES = 2**28
PHASE_LIMIT_S = 600.0
NAMED = 4  # tensors in a message
WITHOUT_IT = "If this stays, set rollout.vllm_weight_transfer = 'files', which does without vLLM's weight transfer"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Consecutive weights that are sent together. weights: (name, tensor on the CPU, contiguous)."""

    weights: tuple[tuple[str, Tensor], ...]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor, in order and without gaps."""
        return [weight.nbytes for _, weight in self.weights]

    def metadata(self) -> dict[str, Any]:
        """As vLLM's update information names it."""
        return {
            "names": [name for name, _ in self.weights],
            "dtype_names": [dtype_name(weight.dtype) for _, weight in self.weights],
            "shapes": [list(weight.shape) for _, weight in self.weights],
        }

    def pack(self, buffer: Tensor) -> Tensor:
        """Copy all tensors into the buffer (uint8, of any device); returns the part of it that is filled."""
        first = 0
        for (_, weight), size in zip(self.weights, self.sizes, strict=True):
            buffer[first : first + size].copy_(weight.reshape(-1).view(torch.uint8))
            first += size
        return buffer[:first]


def buckets(weights: Mapping[str, Tensor], most_bytes: int) -> Iterator[Bucket]:
    """All weights in order; more than `most_bytes` only where a single tensor has more. A tensor is never split."""
    held: list[tuple[str, Tensor]] = []
    num_bytes = 0
    for name, weight in weights.items():
        if held and num_bytes + weight.nbytes > most_bytes:
            yield Bucket(tuple(held))
            held, num_bytes = [], 0
        held.append((name, weight))
        num_bytes += weight.nbytes
    if held:
        yield Bucket(tuple(held))


class Wire(Protocol):
    """Carries buckets from this process into the workers of one server."""

    def connect(self, client: ServerClient) -> None:
        """The first phase. Raises RunError."""
        ...

    def opened(self, client: ServerClient, num_bytes: int) -> AbstractContextManager[Callable[[Bucket], None]]:
        """Memory for buckets of up to `num_bytes`, kept until the context ends, and a function that sends one.

        The function returns when the server has taken the bucket. Raises RunError.
        """
        ...

    def close(self) -> None: ...


class WeightTransferClient:
    """The learner's side of one server's weight transfer. shapes: of all weights, as the server's workers named them.

    After an error in any phase the server may hold a mixture of two versions; the caller must not sample from it.
    """

    def __init__(
        self, client: ServerClient, wire: Wire, shapes: Mapping[str, tuple[int, ...]], bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._client, self._wire, self._shapes, self._bucket_bytes = client, wire, shapes, bucket_bytes
        self._is_connected = False

    def check(self, weights: HostWeights) -> None:
        """Raises ValueError for names and shapes that are not those of the server's model; asks the server nothing."""
        given = {name: tuple(weight.shape) for name, weight in weights.weights.items()}
        if differing := sorted(name for name in {*given, *self._shapes} if given.get(name) != self._shapes.get(name)):
            raise ValueError(
                f"weights of version {weights.version} are not those of the model of {self._client.name}: "
                f"{len(differing)} differ in name or shape ({', '.join(differing[:NAMED])})"
            )

    def send(self, weights: HostWeights) -> None:
        """Raises RunError, ServerLostError among them, where a phase fails."""
        try:
            self._send(weights)
        except VllmServerError as error:
            raise type(error)(f"{error}. {WITHOUT_IT}") from error

    def _send(self, weights: HostWeights) -> None:
        if not self._is_connected:
            self._wire.connect(self._client)
            self._is_connected = True
        self._client.post("/start_weight_update", limit_s=PHASE_LIMIT_S)
        largest = max(weight.nbytes for weight in weights.weights.values())
        with self._wire.opened(self._client, min(weights.num_bytes, max(self._bucket_bytes, largest))) as send:
            for bucket in buckets(weights.weights, self._bucket_bytes):
                send(bucket)
            version = str(weights.version)
            self._client.post("/finish_weight_update", {"weight_version": version}, limit_s=PHASE_LIMIT_S)
        said = self._client.get("/weight_info").get("weight_version")
        if said != version:
            raise self._client.failure(f"names version {said} after an update to version {version} was finished")

    def close(self) -> None:
        self._wire.close()
