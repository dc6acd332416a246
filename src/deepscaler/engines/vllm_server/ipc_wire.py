"""Buckets over CUDA IPC: the learner's process fills memory on the server's own GPUs, and the server opens it.

vLLM takes the handles of a buffer pickled, inside JSON (`ipc_handles_pickled`), from holders of the server's key only.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import dumps
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from deepscaler.engines.vllm_server.client import ServerClient
from deepscaler.engines.vllm_server.weight_transfer import PHASE_LIMIT_S, Bucket


@dataclass(frozen=True, slots=True)
class SharedBuffers:
    """One buffer (uint8) on each GPU. handles: GPU's UUID -> arguments by which another process opens its buffer."""

    buffers: tuple[Tensor, ...]
    handles: Mapping[str, tuple[Any, ...]]


Share = Callable[[int], SharedBuffers]  # bytes of each buffer


def share_on(gpus: Mapping[str, int]) -> Share:
    """Of a server with one worker on each of these GPUs. gpus: UUID -> CUDA device index in this process."""

    def share(num_bytes: int) -> SharedBuffers:
        buffers = [torch.empty(num_bytes, dtype=torch.uint8, device=f"cuda:{index}") for index in gpus.values()]
        handles = {uuid: reduce_tensor(buffer)[1] for uuid, buffer in zip(gpus, buffers, strict=True)}
        return SharedBuffers(tuple(buffers), handles)

    return share


class IpcWire:
    """Every bucket is whole in memory when it is announced, and is overwritten only after the server has answered."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def connect(self, client: ServerClient) -> None:
        client.post("/init_weight_transfer_engine", {"init_info": {"packed": True}}, limit_s=PHASE_LIMIT_S)

    @contextmanager
    def opened(self, client: ServerClient, num_bytes: int) -> Iterator[Callable[[Bucket], None]]:
        buffers, handles = self._exported(num_bytes)

        def send(bucket: Bucket) -> None:
            for buffer in buffers:
                bucket.pack(buffer)
            _synchronize(buffers)
            update = {**bucket.metadata(), "tensor_sizes": bucket.sizes, "ipc_handles_pickled": handles}
            client.post("/update_weights", {"update_info": update}, limit_s=PHASE_LIMIT_S)

        try:
            yield send
        finally:
            buffers.clear()  # the server has closed its side with the last phase
            if torch.cuda.is_initialized():
                torch.cuda.ipc_collect()

    def close(self) -> None:
        """Nothing stays open between two updates."""

    def _exported(self, num_bytes: int) -> tuple[list[Tensor], str]:
        shared = self._share(num_bytes)
        return list(shared.buffers), base64.b64encode(dumps(dict(shared.handles))).decode()


def _synchronize(buffers: Sequence[Tensor]) -> None:
    for buffer in buffers:
        if buffer.is_cuda:
            torch.cuda.synchronize(buffer.device)
