"""HTTP client of one vLLM server: control calls with time limits, and many completions under way at once.

Its event loop runs in a thread of its own, so that weights can be loaded while completions are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import resource
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp

from deepscaler.engines.vllm_server.process import ServerProcess
from deepscaler.json_text import parse_json
from deepscaler.observability import liveness
from deepscaler.types import RunError, WorkerLost

CONTROL_LIMIT_S = 120.0
COMPLETION_LIMIT_S = 4 * 3600.0  # of one completion, its time in the server's queue included
CONNECT_LIMIT_S = 20.0
ATTEMPTS, BACKOFF_S = 4, 0.5  # of a completion whose connection drops; its draws are keyed, so it comes out the same
POLL_S = 0.05  # between two looks whether the generation was cancelled
WATCH_S = 10.0  # without any reply, after which the server's counters of tokens are read
SILENCE_S = 300.0  # without a reply or a new token, after which the server counts as dead
MOST_UNDER_WAY = 2048  # completions of one generation, each on a connection of its own
SPARE_FILES = 512  # of this process, beside these connections
_COUNTERS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
Json = dict[str, Any]
T = TypeVar("T")


class VllmServerError(RunError):
    """A vLLM server refused a call, or answered nonsense; the message names it."""


class ServerLostError(VllmServerError, WorkerLost):
    """The server died, cannot be reached or makes no progress: another one may be asked instead."""


class ServerClient:
    """name: of the server, for messages. process: where it is ours; its last lines go into messages."""

    def __init__(self, url: str, key: str, process: ServerProcess | None = None) -> None:
        self.name = f"the vLLM server {url}"
        self._url, self._process = url.rstrip("/"), process
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name=f"vllm-client {url}")
        self._thread.start()
        _allow_open_files(MOST_UNDER_WAY + SPARE_FILES)
        self._session: aiohttp.ClientSession = self._run(self._open_session(), CONNECT_LIMIT_S)
        # Control calls have connections of their own, so that none waits behind completions (verl#7587).
        self._control: aiohttp.ClientSession = self._run(self._open_session(), CONNECT_LIMIT_S)

    def get(self, path: str, limit_s: float = CONTROL_LIMIT_S) -> Any:
        """The JSON at a path. Raises VllmServerError."""
        return self._parsed(path, self._call("GET", path, None, limit_s))

    def post(self, path: str, body: Json | None = None, limit_s: float = CONTROL_LIMIT_S) -> Any:
        """The JSON that a call answers, None for nothing. Raises VllmServerError."""
        return self._parsed(path, self._call("POST", path, body, limit_s))

    def rpc(self, method: str, *arguments: Any, limit_s: float = CONTROL_LIMIT_S) -> list[Json]:
        """Call a method of `deepscaler_vllm.extension` in every worker of the server; the answers in their order."""
        answer = self.post("/collective_rpc", {"method": method, "args": list(arguments)}, limit_s)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or not results or not all(isinstance(result, dict) for result in results):
            raise VllmServerError(
                f"{self.name} answered {method} with {str(answer)[:200]}; it needs "
                "--worker-extension-cls deepscaler_vllm.extension.WorkerExtension"
            )
        return results

    def is_healthy(self) -> bool:
        try:
            self._call("GET", "/health", None, CONNECT_LIMIT_S)
        except VllmServerError:
            return False
        return True

    def completions(
        self, bodies: Sequence[Callable[[], Json]], is_cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Json]]:
        """(position, the server's answer) of every body, as they finish. Closing it cancels the rest.

        bodies: made anew for every attempt. is_cancelled: once true, the server is told to end all, and answers with
        what there is of each. Raises ServerLostError when the server dies or makes no progress, VllmServerError when it
        refuses.
        """
        arrived: queue.SimpleQueue[tuple[int, Json | BaseException]] = queue.SimpleQueue()
        tasks = self._run(self._start(bodies, arrived), CONTROL_LIMIT_S)
        try:
            for _ in bodies:
                position, answer = self._next(arrived, is_cancelled)
                if isinstance(answer, BaseException):
                    raise answer
                yield position, answer
        finally:
            self._run(_cancel(tasks), CONTROL_LIMIT_S)

    def close(self) -> None:
        if not self._loop.is_closed():
            with contextlib.suppress(RunError):
                self._run(self._close_session(), CONNECT_LIMIT_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=CONNECT_LIMIT_S)
            self._loop.close()

    def failure(self, what: str, kind: type[VllmServerError] = VllmServerError) -> VllmServerError:
        """An error about this server; what: after its name."""
        if self._process is not None and not self._process.is_alive:
            return ServerLostError(f"{self._process.ended()}{self._process.last_lines()}")
        lines = self._process.last_lines() if self._process is not None else ""
        return kind(f"{self.name} {what}{lines}")

    def _next(
        self, arrived: queue.SimpleQueue[tuple[int, Json | BaseException]], is_cancelled: Callable[[], bool]
    ) -> tuple[int, Json | BaseException]:
        """The next answer. Raises ServerLostError after SILENCE_S without one and without a new token."""
        tokens, since = -1.0, time.monotonic()
        look = since + WATCH_S
        while True:
            with contextlib.suppress(queue.Empty):
                return arrived.get(timeout=POLL_S)
            if is_cancelled():  # again and again: some may not have reached the server before
                self.post("/abort_requests", {})
            if time.monotonic() < look:
                continue
            look = time.monotonic() + WATCH_S
            before, tokens = tokens, self._tokens()
            if tokens != before:
                since = time.monotonic()
                liveness.beat()
            elif time.monotonic() - since > SILENCE_S:
                raise self.failure(
                    f"has made no token for {SILENCE_S:.0f} s while completions were under way", ServerLostError
                )

    def _tokens(self) -> float:
        """Tokens that the server has read and made so far. Raises VllmServerError where it does not say."""
        lines = self._call("GET", "/metrics", None, CONTROL_LIMIT_S).decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_COUNTERS))

    def _call(self, method: str, path: str, body: Json | None, limit_s: float) -> bytes:
        return self._run(self._exchange(self._control, method, path, body, limit_s), limit_s + CONNECT_LIMIT_S)

    def _parsed(self, path: str, content: bytes) -> Any:
        try:
            return parse_json(content) if content else None
        except ValueError as error:
            raise self.failure(f"answered {path} with something that is no JSON ({error})") from error

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, path: str, body: Json | None, limit_s: float
    ) -> bytes:
        limits = aiohttp.ClientTimeout(total=limit_s, connect=CONNECT_LIMIT_S)
        try:
            async with session.request(method, self._url + path, json=body, timeout=limits) as response:
                content = await response.read()
        except TimeoutError as error:
            raise self.failure(f"gave no answer to {path} within {limit_s:.0f} s", ServerLostError) from error
        except aiohttp.ClientError as error:
            raise self.failure(f"cannot be reached ({type(error).__name__}: {error})", ServerLostError) from error
        if response.status != 200:
            kind = ServerLostError if response.status >= 500 else VllmServerError
            said = content[:500].decode(errors="replace")
            raise self.failure(f"answered {path} with HTTP {response.status}: {said}", kind)
        return content

    async def _start(
        self, bodies: Sequence[Callable[[], Json]], arrived: queue.SimpleQueue[tuple[int, Json | BaseException]]
    ) -> list[asyncio.Task[None]]:
        gate = asyncio.Semaphore(MOST_UNDER_WAY)

        async def one(position: int, body: Callable[[], Json]) -> None:
            async with gate:
                try:
                    arrived.put((position, await self._completion(body)))
                except Exception as error:  # raised again where the answer is taken
                    arrived.put((position, error))

        return [asyncio.create_task(one(position, body)) for position, body in enumerate(bodies)]

    async def _completion(self, body: Callable[[], Json]) -> Json:
        for attempt in range(ATTEMPTS):
            try:
                content = await self._exchange(
                    self._session, "POST", "/inference/v1/generate", body(), COMPLETION_LIMIT_S
                )
                return self._parsed("/inference/v1/generate", content)
            except ServerLostError:
                dead = self._process is not None and not self._process.is_alive
                if dead or attempt + 1 == ATTEMPTS:
                    raise
                await asyncio.sleep(BACKOFF_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(limit=0))

    async def _close_session(self) -> None:
        await self._session.close()
        await self._control.close()
        await asyncio.sleep(0)  # its connections close their sockets

    def _run(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        """In the loop's thread. Raises RunError past the limit."""
        if self._loop.is_closed():
            work.close()
            raise VllmServerError(f"{self.name}: its client was closed; start a new one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout=limit_s)
        except TimeoutError as error:
            future.cancel()
            raise self.failure(f"gave no answer within {limit_s:.0f} s") from error


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files to `wanted`, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def version_spans(spans: object, otherwise: int) -> list[tuple[int, int]]:
    """(index of the first token, policy version) of every span in `weight_versions` of an answer, in order.

    otherwise: the version where the server names none, or one that is not ours.
    """
    found: list[tuple[int, int]] = []
    for span in spans if isinstance(spans, list) else []:
        label = str(span.get("version", "")) if isinstance(span, Mapping) else ""
        version = int(label) if label.isdecimal() else otherwise
        if not found or found[-1][1] != version:
            found.append((int(span["start"]), version))
    return found or [(0, otherwise)]
