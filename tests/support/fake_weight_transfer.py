"""vLLM's weight transfer as a fake server answers it, without a GPU: what CUDA IPC and NCCL carry lies in this process.

A buffer is shared by its number in `BUFFERS`; a group is two queues. What arrives is digested for real.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import pickle
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from aiohttp import web
from torch import Tensor

from deepscaler.engines.vllm_server.ipc_wire import SharedBuffers
from deepscaler.modeling.weights import tensor_digests
from deepscaler.types import RunError

if TYPE_CHECKING:
    from fake_vllm_server import FakeVllmServer

GPU = "GPU-fake"
BUFFERS: dict[int, Tensor] = {}
GROUPS: dict[bytes, FakeGroup] = {}
_numbers = itertools.count(1)
LIMIT_S = 20.0


def share(num_bytes: int) -> SharedBuffers:
    """In the place of `ipc_wire.share_on`."""
    number, buffer = next(_numbers), torch.full((num_bytes,), 255, dtype=torch.uint8)
    BUFFERS[number] = buffer
    return SharedBuffers((buffer,), {GPU: (number,)})


class FakeGroup:
    """In the place of `nccl_group.NcclGroup`: a broadcast ends when the server has entered it as well."""

    def __init__(self) -> None:
        self._id = str(next(_numbers)).zfill(128).encode()
        self._entered = threading.Semaphore(0)
        self.sent: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self.is_closed = False
        GROUPS[self._id] = self

    def unique_id(self) -> bytes:
        return self._id

    def join(self, unique_id: bytes, world_size: int, give_up: Callable[[], bool]) -> None:
        assert (unique_id, world_size) == (self._id, 2)
        self._meet(give_up)

    def broadcast(self, buffer: Tensor, give_up: Callable[[], bool]) -> None:
        self._meet(give_up)
        self.sent.put(buffer.clone())

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def close(self) -> None:
        self.is_closed = True

    def enter(self) -> None:
        """By the server."""
        self._entered.release()

    def _meet(self, give_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not self._entered.acquire(timeout=0.002):
            if give_up() or time.monotonic() > deadline:
                raise RunError("the collective was given up")


class FakeWeightTransfer:
    """fails_in: phase -> HTTP status; 0 drops the connection, and the server is lost until `begin_again`.
    changed: what becomes of a tensor on the way.
    """

    def __init__(self, server: FakeVllmServer) -> None:
        self._server = server
        self.fails_in: dict[str, int] = {}
        self.updates_before_failure = 0
        self.changed: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor
        self.shapes: dict[str, list[int]] = {}
        self.worker = {"backend": "", "gpu": "", "unpickles": False, "handle_arguments": [], "nccl": []}
        self.updates: list[dict[str, Any]] = []
        self.wrong_version = False
        self.begin_again()

    def begin_again(self) -> None:
        self._init_info: dict[str, Any] | None = None
        self._received: dict[str, Tensor] | None = None

    def prepared(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "transfer": self.worker, "is_updating": self._received is not None}

    def routes(self) -> dict[str, Callable[[web.Request], Any]]:
        phases = {"init_weight_transfer_engine": self._init, "start_weight_update": self._start}
        phases |= {"update_weights": self._update, "finish_weight_update": self._finish}
        return {f"/{name}": self._phase(name, handler) for name, handler in phases.items()}

    def _phase(self, name: str, handler: Callable[[dict[str, Any]], Any]) -> Callable[[web.Request], Any]:
        async def answer(request: web.Request) -> web.Response:
            body = await request.json() if request.can_read_body else {}
            self._server.calls.append(name)
            if name in self.fails_in and (name != "update_weights" or len(self.updates) >= self.updates_before_failure):
                status = self.fails_in[name]
                if status == 0:
                    self._server.is_lost = True
                    assert request.transport is not None
                    request.transport.abort()
                return web.Response(status=status or 500, text=f"planted in {name}")
            await handler(body)
            return web.json_response({})

        return answer

    async def _init(self, body: dict[str, Any]) -> None:
        self._init_info = body["init_info"]
        assert self._init_info is not None and self._init_info["packed"] is True
        if self._init_info.keys() != {"packed"}:
            assert (self._init_info["rank_offset"], self._init_info["world_size"]) == (1, 2)
            self._group().enter()

    async def _start(self, body: dict[str, Any]) -> None:
        self._server.check_update()
        if self._received is not None or self._init_info is None:
            self._server.illegal.append("start of an update before init or inside another")
        self._received = {}

    async def _update(self, body: dict[str, Any]) -> None:
        info = body["update_info"]
        self._server.check_update()
        if self._received is None:
            self._server.illegal.append("update before start")
            return
        self.updates.append(info)
        for name, tensor in _unpacked(await self._packed(info), info):
            self._received[name] = self.changed(name, tensor)

    async def _finish(self, body: dict[str, Any]) -> None:
        if self._received is None:
            self._server.illegal.append("finish before start")
            return
        self._server.take_over(tensor_digests(self._received.items()))
        self._server.name_version("0" if self.wrong_version else body["weight_version"])
        self._received = None

    async def _packed(self, info: Mapping[str, Any]) -> Tensor:
        """The bytes of a bucket as they are when the server reads them."""
        if "ipc_handles_pickled" in info:
            ((number,),) = pickle.loads(base64.b64decode(info["ipc_handles_pickled"])).values()
            await asyncio.sleep(0.002)
            return BUFFERS[number].clone()
        group = self._group()
        group.enter()
        return await asyncio.get_running_loop().run_in_executor(None, group.sent.get, True, LIMIT_S)

    def _group(self) -> FakeGroup:
        assert self._init_info is not None
        return GROUPS[base64.b64decode(self._init_info["nccl_unique_id_b64"])]


def _unpacked(packed: Tensor, info: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    first = 0
    for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
        wanted = torch.empty(shape, dtype=getattr(torch, dtype))
        last = first + wanted.nbytes
        found.append((name, packed[first:last].clone().view(wanted.dtype).reshape(shape)))
        first = last
    return found
