"""Buckets over NCCL: one group of the learner's process and the workers of one server, broadcast from the learner.

A group of its own for every server: one that is lost leaves the others' groups whole. vLLM joins by a unique id
(`nccl_unique_id_b64`, vLLM 0.32), so that the learner needs nothing of vLLM.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from deepscaler.engines.vllm_server.client import ServerClient
from deepscaler.engines.vllm_server.weight_transfer import PHASE_LIMIT_S, Bucket

ONE_BROADCAST = 2**40  # bytes, beyond which vLLM would expect a bucket in several broadcasts
GiveUp = Callable[[], bool]


class BroadcastGroup(Protocol):
    """The learner is rank 0. Each method raises RunError at its time limit, and early when `give_up` says so."""

    def unique_id(self) -> bytes:
        """Of a new group, 128 bytes."""
        ...

    def join(self, unique_id: bytes, world_size: int, give_up: GiveUp) -> None:
        """Returns when all ranks have joined and reduced one number, which vLLM does to warm up."""
        ...

    def broadcast(self, buffer: Tensor, give_up: GiveUp) -> None:
        """Returns when the buffer may be overwritten."""
        ...

    def empty(self, num_bytes: int) -> Tensor:
        """Memory to broadcast from, uint8."""
        ...

    def close(self) -> None: ...


class NcclWire:
    """num_workers: of the server. new_group: called for every connection."""

    def __init__(self, num_workers: int, new_group: Callable[[], BroadcastGroup]) -> None:
        self._num_workers, self._new_group = num_workers, new_group
        self._group: BroadcastGroup | None = None

    def connect(self, client: ServerClient) -> None:
        group = self._group = self._new_group()
        unique_id = group.unique_id()
        world_size = 1 + self._num_workers
        info = {
            "nccl_unique_id_b64": base64.b64encode(unique_id).decode(),
            "rank_offset": 1,
            "world_size": world_size,
            "packed": True,
            "packed_buffer_size_bytes": ONE_BROADCAST,
            "packed_num_buffers": 1,
        }
        self._together(
            client,
            ("/init_weight_transfer_engine", {"init_info": info}),
            lambda give_up: group.join(unique_id, world_size, give_up),
        )

    @contextmanager
    def opened(self, client: ServerClient, num_bytes: int) -> Iterator[Callable[[Bucket], None]]:
        group = self._group
        assert group is not None
        buffer = group.empty(num_bytes)

        def send(bucket: Bucket) -> None:
            filled = bucket.pack(buffer)
            request = ("/update_weights", {"update_info": bucket.metadata()})
            self._together(client, request, lambda give_up: group.broadcast(filled, give_up))

        yield send

    def close(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None

    def _together(
        self, client: ServerClient, request: tuple[str, dict[str, Any]], take_part: Callable[[GiveUp], None]
    ) -> None:
        """Ask the server and take part in the collective that it then enters.

        Raises the server's error where it refuses: nobody would come to the collective.
        """
        path, body = request
        asked = _in_thread(lambda: client.post(path, body, PHASE_LIMIT_S))
        try:
            take_part(lambda: asked.done() and asked.exception() is not None)
        except Exception:
            self.close()  # ends the workers' side of the collective too
            if asked.done() and (refused := asked.exception()) is not None:
                raise refused from None
            raise
        asked.result(2 * PHASE_LIMIT_S)  # the client has a limit of its own, which names the server


def _in_thread(call: Callable[[], object]) -> Future[object]:
    """A thread that nobody waits for at the end: the server may not answer as long as its collective hangs."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # raised where the result is taken
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="weight-transfer").start()
    return future
