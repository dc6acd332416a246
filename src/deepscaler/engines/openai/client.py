"""Chat completions from an OpenAI-compatible server: bounded concurrency, retries, no request lost or duplicated.

One request per sample, so that each has its own seed and a failure affects one sample. The event loop runs in a thread
of its own; responses are yielded by a plain iterator as they arrive.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.http import Endpoint, EndpointError, RetryError
from deepscaler.engines.openai.reply import Reply
from deepscaler.engines.openai.timeouts import MAX_LOSSES, Timeouts
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
from deepscaler.types import Message, SamplingParams

BYTES_PER_TOKEN = 64  # upper limit of the JSON of a token: the longest tokens of usual vocabularies are runs of spaces
SPARE_BYTES = 2**20
MAX_DUPLICATES = 3  # attempts against a server that returns cached replies
MAX_SILENCES = 2  # consecutive silences after which a request fails
_POLL_S = 0.1
_END = object()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One sample to generate: the user message, the seed of its draws, and the messages before it."""

    key: Hashable
    question: str
    seed: int
    earlier: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        before = [{"role": message.role, "content": message.content} for message in self.earlier]
        return [*before, {"role": "user", "content": self.question}]


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """latency_s: of the attempt that succeeded."""

    request: ChatRequest
    reply: Reply
    latency_s: float


class _GaveUpError(Exception):
    """All attempts at one request failed."""


def request_seed(seed: int, *key: int | str) -> int:
    """The seed of one request, a function of run seed and sample; 0 <= seed < 2**31, which every server accepts."""
    return int(generator("request", seed, *key).integers(2**31))


class OpenAIClient:
    """faults: failed attempts by kind. unfinished: (key, reason) of requests that failed after all attempts.

    explicit: extra settings for servers that would otherwise apply defaults of their own; top_k is then sent even where
        it is off.
    streaming: request streamed responses. omitted: fields that no request has.
    """

    def __init__(
        self,
        address: str,
        model: str,
        params: SamplingParams,
        section: ClientSection,
        template: Mapping[str, object] | None = None,
    ) -> None:
        """template: variables of the server's chat template (`chat_template_kwargs` of vLLM, SGLang and this program).

        Raises ValueError for an invalid address.
        """
        self.model, self.params = model, params
        self.faults: Counter[str] = Counter()
        self.unfinished: list[tuple[Hashable, str]] = []
        self.explicit: Mapping[str, object] = {}
        self.streaming = section.stream
        self._timeouts = Timeouts(section, params.max_completion_tokens)
        most_bytes = SPARE_BYTES + BYTES_PER_TOKEN * params.max_completion_tokens
        self.endpoint = Endpoint(address, model, section, most_bytes)
        self.max_tokens_field = section.max_tokens_field
        self.omitted: frozenset[str] = frozenset(section.omit)
        self._section, self._template = section, dict(template or {})
        self._jitter = random.Random(params.seed)
        self._texts: dict[str, int] = {}  # id of a reply -> hash of its text
        self._last_success = 0.0
        self._given_up: set[str] = set()  # questions that failed since the last success

    def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Yield responses as they arrive. Raises EndpointError for a final failure; closing cancels the rest."""
        responses: queue.Queue[Any] = queue.Queue(maxsize=4 * self._section.concurrency)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(iter(requests), responses, stop), name="openai-client", daemon=True
        )
        thread.start()
        try:
            while (item := responses.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join(timeout=10.0)

    def probe(self, question: str, **changes: object) -> Reply:
        """One completion with changed settings and the usual retries. Raises EndpointError."""
        request = ChatRequest("probe", question, 0)
        try:
            body = self._body(request, changes)
            reply = self._run_now(lambda session: self._complete(session, request, body)).reply
            self._timeouts.reset()
            return reply
        except _GaveUpError as error:
            raise EndpointError(f"{self.endpoint.address} gives no usable answer: {error}") from error

    def models(self) -> list[dict[str, object]]:
        """The models that the server lists. Raises EndpointError without a response, or when the key is refused."""

        async def get(session: aiohttp.ClientSession) -> object:
            fault = ""
            for attempt in range(1, self._section.connect_attempts + 1):
                try:
                    return await self.endpoint.get(session, "/models")
                except RetryError as error:
                    fault = str(error)
                await asyncio.sleep(self._backoff(attempt))
            raise EndpointError(
                f"no OpenAI-compatible server answers at {self.endpoint.address} ({fault}); start it, for example with "
                "`deepscaler serve MODEL_DIR --port 8000`, or correct --endpoint"
            )

        document = self._run_now(get)
        data = document.get("data") if isinstance(document, dict) else None
        return [m for m in data if isinstance(m, dict)] if isinstance(data, list) else []

    def _run_now(self, call: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
        async def run() -> T:
            async with self.endpoint.session() as session:
                return await call(session)

        return asyncio.run(run())

    def _run(self, requests: Iterator[ChatRequest], responses: queue.Queue[Any], stop: threading.Event) -> None:
        """Body of the client's thread. Its exceptions are raised again by `complete`."""
        try:
            asyncio.run(self._run_all(requests, responses, stop))
            last: object = _END
        except Exception as error:
            last = error
        while not stop.is_set():
            try:
                responses.put(last, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    async def _run_all(
        self, requests: Iterator[ChatRequest], responses: queue.Queue[Any], stop: threading.Event
    ) -> None:
        async with self.endpoint.session() as session:
            count = self._section.concurrency
            tasks = [asyncio.create_task(self._worker(session, requests, responses)) for _ in range(count)]
            try:
                pending = set(tasks)
                while pending and not stop.is_set():
                    done, pending = await asyncio.wait(pending, timeout=_POLL_S, return_when=asyncio.FIRST_EXCEPTION)
                    for task in done:
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _worker(
        self, session: aiohttp.ClientSession, requests: Iterator[ChatRequest], responses: queue.Queue[Any]
    ) -> None:
        for request in requests:
            begun = time.monotonic()
            try:
                response = await self._complete(session, request, self._body(request))
            except _GaveUpError as error:
                self._given_up.add(request.question)
                # A healthy server may fail one question repeatedly while the others take their time.
                if self._last_success < begun and len(self._given_up) > 1:
                    raise EndpointError(
                        f"{self.endpoint.address} gave no usable answer to any request for "
                        f"{time.monotonic() - begun:.0f} s; the last fault: {error}. Finished samples are kept: run "
                        "the same command again when the server is back"
                    ) from error
                self.unfinished.append((request.key, str(error)))
                continue
            while responses.full():  # only this thread puts responses in
                await asyncio.sleep(0.01)
            responses.put_nowait(response)

    async def _complete(
        self, session: aiohttp.ClientSession, request: ChatRequest, body: dict[str, object]
    ) -> ChatResponse:
        """Retry until success. Raises _GaveUpError after `max_attempts`, EndpointError for a final failure."""
        fault, wait_s, duplicates, seen, attempt = "", 0.0, 0, Counter[str](), 0
        for attempt in range(1, self._section.max_attempts + 1):
            if attempt > 1:
                await asyncio.sleep(max(self._backoff(attempt - 1), wait_s))
            start = time.monotonic()
            try:
                reply = await self._chat(session, body, losses=seen["lost"])
            except RetryError as error:
                fault, wait_s = str(error), error.wait_s
                self.faults[error.kind] += 1
                seen[error.kind] += 1
                if seen["silent"] == MAX_SILENCES or seen["lost"] == MAX_LOSSES:
                    break
                continue
            if self._is_new(reply) or duplicates == MAX_DUPLICATES:
                self._last_success = time.monotonic()
                self._given_up.clear()
                return ChatResponse(request, reply, self._last_success - start)
            fault, wait_s, duplicates = "the reply to another request", 0.0, duplicates + 1
            self.faults["duplicate"] += 1
        raise _GaveUpError(f"{fault} ({counted(attempt, 'attempt')})")

    async def _chat(self, session: aiohttp.ClientSession, body: dict[str, object], *, losses: int) -> Reply:
        """One attempt, ended when the server is silent to all requests, or seems to have dropped this one.

        losses: how often it was dropped before. Raises RetryError, EndpointError.
        """
        exchange, s = self._timeouts.begin(body), self._section
        task = asyncio.ensure_future(self.endpoint.chat(session, body, exchange))
        try:
            while not (await asyncio.wait([task], timeout=min(1.0, s.silence_s / 4, s.lost_s / 4)))[0]:
                limit = self._timeouts.silence_limit(streamed=exchange.streamed)
                if time.monotonic() - max(exchange.sent, self.endpoint.last_heard) > limit:
                    raise RetryError("silent", f"the server is silent: no request received a byte for {limit:.0f} s")
                if self._timeouts.is_lost(exchange, losses):
                    raise RetryError(
                        "lost",
                        f"silent for {exchange.silence():.0f} s while requests sent later were answered",
                    )
            reply = task.result()
        finally:
            task.cancel()
        self._timeouts.record(exchange, reply)
        return reply

    def _is_new(self, reply: Reply) -> bool:
        """Whether no earlier reply has the same id and text.

        Without ids, or with the same id for every reply, copies cannot be detected and every reply counts as new.
        """
        if not reply.id or self._texts.keys() == {reply.id}:
            return True
        text = hash(reply.text)
        known = self._texts.get(reply.id) == text
        self._texts[reply.id] = text
        return not known

    def _backoff(self, failures: int) -> float:
        """Seconds to wait before the next attempt: exponential with full jitter."""
        return self._jitter.uniform(
            0.0, min(self._section.backoff_max_s, self._section.backoff_s * 2.0 ** (failures - 1))
        )

    def _body(self, request: ChatRequest, changes: Mapping[str, object] | None = None) -> dict[str, object]:
        """What is sent: our settings, a probe's changes, without what the server refuses, and what is passed on."""
        body = self._fields(request) | dict(changes or {})
        return {name: value for name, value in body.items() if name not in self.omitted} | self._section.extra_body

    def _fields(self, request: ChatRequest) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "messages": request.messages,
            "temperature": self.params.temperature,
            **({"stop": list(self.params.stop)} if self.params.stop else {}),
            **({"stop_token_ids": list(self.params.stop_token_ids)} if self.params.stop_token_ids else {}),
            "top_p": self.params.top_p,
            self._section.max_tokens_field: self.params.max_completion_tokens,
            "seed": request.seed,
            "n": 1,
            **({"chat_template_kwargs": self._template} if self._template else {}),
        }
        if self.streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.explicit:
            return body | dict(self.explicit) | {"top_k": self.params.top_k or -1}
        return body | {"top_k": self.params.top_k} if self.params.top_k else body
