"""HTTP requests to an OpenAI-compatible server: limits, and a classification of failures.

A failure is either retried (RetryError) or final (EndpointError). The API key comes from the environment, is sent in
one header, and is removed from every message.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.reply import (
    MalformedReplyError,
    Reply,
    StreamedReply,
    TruncatedReplyError,
    error_message,
    parse_reply,
)
from deepscaler.engines.openai.timeouts import Exchange
from deepscaler.json_text import parse_json
from deepscaler.types import RunError

RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 524, 529})
EVENT_FACTOR = 16  # bytes of an event per byte of its text, at most
MAX_WAIT_S = 300.0  # upper limit of Retry-After
_DROPPED = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientResponseError)


class EndpointError(RunError):
    """The server cannot serve these requests; the message says why and what to do."""


class RetryError(Exception):
    """An attempt failed and may be repeated. `kind`: counter of the failure."""

    def __init__(self, kind: str, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.wait_s = kind, wait_s


class Endpoint:
    """Address of a server, with its API key."""

    def __init__(self, address: str, model: str, section: ClientSection, most_bytes: int) -> None:
        """most_bytes: limit of a reply, for streams of its text. Raises ValueError for an invalid address.

        last_heard: monotonic time of the last byte from the server.
        """
        self.last_heard = time.monotonic()
        self.address = check_address(address)
        self._model = model
        self._section = section
        self._most_bytes = most_bytes
        self._secret = os.environ.get(section.api_key_env, "").strip()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        s = self._section
        limits = aiohttp.ClientTimeout(total=s.total_s, connect=s.connect_s, sock_read=s.read_s)
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        connector = aiohttp.TCPConnector(limit=s.concurrency)
        async with aiohttp.ClientSession(connector=connector, timeout=limits, headers=headers) as session:
            yield session

    async def chat(self, session: aiohttp.ClientSession, body: Mapping[str, object], exchange: Exchange) -> Reply:
        """Raises RetryError or EndpointError."""
        content = await self._request(session, "POST", "/chat/completions", body, exchange)
        try:
            return content.reply() if isinstance(content, StreamedReply) else parse_reply(content)
        except MalformedReplyError as error:
            raise RetryError("malformed", f"a malformed reply: {error}") from error
        except TruncatedReplyError as error:
            raise RetryError("dropped", str(error)) from error

    async def get(self, session: aiohttp.ClientSession, path: str) -> object:
        """The JSON at a path. Raises RetryError or EndpointError."""
        content = await self._request(session, "GET", path, None)
        try:
            assert isinstance(content, bytes)
            return parse_json(content)
        except ValueError as error:
            raise RetryError("malformed", f"{path} is not JSON ({error})") from error

    async def _request(
        self, session: aiohttp.ClientSession, method: str, path: str, body: object, exchange: Exchange | None = None
    ) -> bytes | StreamedReply:
        status, headers, content = await self._exchange(session, method, path, body, exchange)
        if status == 200:
            return content
        assert isinstance(content, bytes)
        if status not in RETRY_STATUS:
            raise self._endpoint_error(status, content)
        kind = "http_429" if status == 429 else "http_5xx" if status >= 500 else "http_4xx"
        raise RetryError(kind, f"HTTP {status}: {self._redacted(content)}", _retry_after(headers))

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, path: str, body: object, exchange: Exchange | None
    ) -> tuple[int, Mapping[str, str], bytes | StreamedReply]:
        """(status, headers, body). Raises RetryError for a connection that fails, drops or takes too long."""
        try:
            async with session.request(method, self.address + path, json=body, allow_redirects=False) as response:
                asked = isinstance(body, Mapping) and body.get("stream")
                if asked and response.status == 200 and response.content_type == "text/event-stream":
                    return response.status, response.headers, await self._read_stream(response, exchange)
                return response.status, response.headers, await self._read_whole(response, exchange)
        except TimeoutError as error:  # before _DROPPED, which includes some timeouts
            raise RetryError("timeout", f"no whole answer within the time limits ({error or 'total'})") from error
        except _DROPPED as error:
            raise RetryError("dropped", f"{type(error).__name__}: {error}") from error
        except MalformedReplyError as error:
            raise RetryError("malformed", f"a malformed reply: {error}") from error

    async def _read_whole(self, response: aiohttp.ClientResponse, exchange: Exchange | None) -> bytes:
        content = bytearray()
        async for part in response.content.iter_any():
            self._mark_heard(exchange)
            content += part
            self._check_length(len(content))
        return bytes(content)

    async def _read_stream(self, response: aiohttp.ClientResponse, exchange: Exchange | None) -> StreamedReply:
        """Limits the text; the events around it, which are not kept, have a limit EVENT_FACTOR times as high."""
        reply, texts, everything = StreamedReply(), 0, 0
        async for part in response.content.iter_any():
            self._mark_heard(exchange)
            everything += len(part)
            texts += reply.feed(part)
            self._check_length(max(texts, everything // EVENT_FACTOR))
        return reply

    def _mark_heard(self, exchange: Exchange | None) -> None:
        self.last_heard = time.monotonic()
        if exchange is not None:
            exchange.heard = self.last_heard

    def _check_length(self, count: int) -> None:
        if count > self._most_bytes:
            raise RetryError("endless", f"a reply of more than {self._most_bytes} bytes, truncated")

    def _endpoint_error(self, status: int, content: bytes) -> EndpointError:
        said = f"{self.address} answered HTTP {status}: {self._redacted(content)}"
        if status in (401, 403):
            name = self._section.api_key_env
            state = "was sent and is not accepted" if self._secret else "is not set"
            return EndpointError(
                f"{said}. The key, environment variable {name}, {state}; --api-key-env names another one"
            )
        if status == 404:
            return EndpointError(f"{said}. Either it has no model {self._model!r}, or the address should end in /v1")
        if 300 <= status < 400:
            return EndpointError(f"{said}. Redirects are not followed: they could carry the key elsewhere")
        return EndpointError(f"{said}. Finished samples are kept; change the setting it names and use another --out")

    def _redacted(self, content: bytes) -> str:
        message = error_message(content)
        return message.replace(self._secret, "[key]") if self._secret else message


def check_address(address: str) -> str:
    """The address without trailing slash. Raises ValueError unless it is http(s) and without credentials."""
    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--endpoint {address}: expected an address such as http://127.0.0.1:8000/v1")
    if "@" in address or "?" in address:
        raise ValueError(
            "--endpoint contains credentials, which would be written to files; put the key into the environment"
        )
    return address


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait. A date or an invalid value counts as 0: the backoff applies in any case."""
    try:
        return min(MAX_WAIT_S, max(0.0, float(headers.get("Retry-After", 0))))
    except ValueError:
        return 0.0
