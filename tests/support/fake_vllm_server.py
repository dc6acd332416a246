"""A server with the routes of vLLM that are used, in a thread of this process, with faults planted. For tests only.

A completion holds its budget of tokens, a function of its seed. It notes every control call, and every illegal one.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from fake_weight_transfer import FakeWeightTransfer

KEY = "the key"
STOP_ID = 1


class FakeVllmServer:
    """held: digests that it reports instead of those of the files. hold: completions wait until `released` is set."""

    def __init__(self, *, untruncated: bool = True, hold: bool = False, dtype: str = "float32") -> None:
        self.untruncated, self.dtype = untruncated, dtype
        self.calls: list[str] = []
        self.illegal: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.held: Callable[[dict[str, str]], dict[str, str]] = dict
        self.changed_choice: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self.load_error: dict[str, Any] | None = None
        self.drop_connections = 0
        self.is_lost = False  # until weights are loaded again: every completion is dropped
        self.failed_resets = 0
        self.missing_routes: tuple[str, ...] = ()
        self.transfer = FakeWeightTransfer(self)
        self.when_lost: Callable[[], object] = lambda: None  # called when it is started again
        self.late_tokens = False  # completions that an abort should end finish all the same
        self.started = threading.Semaphore(0)  # one for every completion under way
        self.released = threading.Event()
        if not hold:
            self.released.set()
        self._version = "default"
        self._paused: str | None = None
        self._asleep: set[str] = set()
        self._has_weights = True
        self._num_tokens = 0
        self._under_way: dict[int, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    def __enter__(self) -> FakeVllmServer:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        app = web.Application(middlewares=[_require_key])
        self._routes = {
            **self.transfer.routes(),
            "/inference/v1/generate": self._generate,
            "/collective_rpc": self._rpc,
            "/pause": self._pause,
            "/resume": self._resume,
            "/sleep": self._sleep,
            "/wake_up": self._wake,
            "/reset_prefix_cache": self._reset,
            "/update_weight_version": self._label,
            "/abort_requests": self._abort,
        }
        for path, handler in self._routes.items():
            app.router.add_post(path, handler)
        for path in ("/health", "/version", "/metrics", "/openapi.json", "/is_paused", "/is_sleeping", "/weight_info"):
            app.router.add_get(path, self._look)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()
        await asyncio.sleep(0.01)  # connections that were aborted close their sockets

    async def _look(self, request: web.Request) -> web.Response:
        if request.path == "/metrics":
            return web.Response(text=f'vllm:generation_tokens_total{{engine="0"}} {float(self._num_tokens)}\n')
        routes = {path for path in (*self._routes, "/metrics", "/weight_info") if path not in self.missing_routes}
        answers: dict[str, Any] = {
            "/version": {"version": "0.32.0"},
            "/openapi.json": {"paths": {path: {} for path in routes}},
            "/is_paused": {"is_paused": self._paused is not None},
            "/is_sleeping": {"is_sleeping": bool(self._asleep)},
            "/weight_info": {"weight_version": self._version},
        }
        return web.json_response(answers.get(request.path, {}))

    async def _generate(self, request: web.Request) -> web.Response:
        if self.drop_connections > 0 or self.is_lost:
            self.drop_connections -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        body = await request.json()
        self.bodies.append(body)
        if self._asleep or not self._has_weights:
            self.illegal.append("generate without weights")
        ended, number = asyncio.Event(), len(self.bodies)
        self._under_way[number] = ended
        self.started.release()
        while self._paused is not None and not ended.is_set():  # its first token comes after the pause
            await asyncio.sleep(0.002 + len(self._under_way) / 20_000)  # many look more rarely
        version = self._version
        while not ended.is_set() and (not self.released.is_set() or self._paused is not None):
            await asyncio.sleep(0.002 + len(self._under_way) / 20_000)
        del self._under_way[number]
        choice = self._choice(body, version)
        if ended.is_set() and not self.late_tokens:  # with what there is of it
            content = choice["logprobs"]["content"][:2]
            choice |= {"finish_reason": "abort", "token_ids": choice["token_ids"][:2], "logprobs": {"content": content}}
        self._num_tokens += len(choice["token_ids"])
        return web.json_response({"choices": [self.changed_choice(choice)]})

    def _choice(self, body: dict[str, Any], first_version: str) -> dict[str, Any]:
        params = body["sampling_params"]
        rng = np.random.default_rng(params["seed"])
        ids = rng.integers(2, 40, params["max_tokens"]).tolist()
        spans = [{"version": first_version, "start": 0, "end": 1}]
        if self._version != first_version:
            spans.append({"version": self._version, "start": 1, "end": len(ids)})
        return {
            "index": 0,
            "finish_reason": "length",
            "token_ids": ids,
            "weight_versions": spans,
            "logprobs": {"content": [{"token_id": token, "logprob": -token / 10} for token in ids]},
        }

    async def _rpc(self, request: web.Request) -> web.Response:
        body = await request.json()
        method, arguments = body["method"], body["args"]
        self.calls.append(method)
        answer: dict[str, Any] = {"untruncated": self.untruncated, "dtype": self.dtype, **self.transfer.prepared()}
        if self.transfer.fails_in.get(method) == 0:
            self.is_lost = True
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if method == "deepscaler_load":
            self.check_update()
            manifest = json.loads((Path(arguments[0]) / "manifest.json").read_text())
            self.take_over(manifest["digests"][self.dtype])
            answer = self.load_error or {"digests": self.held(self._digests)}
        elif method == "deepscaler_digests":
            answer = {"digests": self.held(self._digests)}
        return web.json_response({"results": [answer]})

    def take_over(self, digests: dict[str, str]) -> None:
        """Hold these weights."""
        self._digests = digests
        self._has_weights, self.is_lost = True, False

    def check_update(self) -> None:
        """Note an update that vLLM would not survive."""
        if self._paused is None or "weights" in self._asleep:
            self.illegal.append("update while running or asleep")

    def name_version(self, version: str) -> None:
        self._version = version

    def held_digests(self) -> dict[str, str]:
        return dict(self._digests)

    def begin_again(self) -> None:
        """As a new process: nothing of before is known, and it samples from the weights it was started with."""
        self._end_all()
        self._version, self._paused, self._asleep, self.is_lost = "default", None, set(), False
        self.transfer.begin_again()
        self.when_lost()

    async def _pause(self, request: web.Request) -> web.Response:
        mode = request.query["mode"]
        self.calls.append(f"pause {mode}")
        if mode == "wait":
            while self._under_way:
                await asyncio.sleep(0.002)
        self._paused = mode
        if mode == "abort":
            self._end_all()
        return web.json_response({"status": "paused"})

    async def _resume(self, _: web.Request) -> web.Response:
        self.calls.append("resume")
        if self._paused is None:
            self.illegal.append("double resume")
        self._paused = None
        return web.json_response({"status": "resumed"})

    async def _sleep(self, request: web.Request) -> web.Response:
        self.calls.append(f"sleep {request.query['level']}")
        self._asleep, self._paused = {"weights", "kv_cache"}, request.query["mode"]
        self._has_weights = request.query["level"] != "2"
        self._end_all()
        return web.json_response({"status": "sleeping"})

    async def _wake(self, request: web.Request) -> web.Response:
        tag = request.query["tags"]
        self.calls.append(f"wake {tag}")
        self._asleep.discard(tag)
        if not self._asleep:
            self._paused = None
        return web.json_response({"status": "awake"})

    async def _reset(self, request: web.Request) -> web.Response:
        self.calls.append(f"reset {request.query.get('reset_running_requests', 'false')}")
        self.failed_resets -= 1
        return web.json_response({"success": self.failed_resets < 0})

    async def _label(self, request: web.Request) -> web.Response:
        self._version = (await request.json())["new_version"]
        return web.json_response({"success": True})

    async def _abort(self, _: web.Request) -> web.Response:
        self._end_all()
        return web.json_response({"status": "aborted"})

    def _end_all(self) -> None:
        for ended in self._under_way.values():
            ended.set()


@web.middleware
async def _require_key(request: web.Request, handler: Any) -> web.StreamResponse:
    if request.headers.get("Authorization") != f"Bearer {KEY}":
        return web.Response(status=401, text="the key is missing or another one")
    return await handler(request)
