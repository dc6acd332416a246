"""Chat completions from an OpenAI-compatible server: bounded concurrency, retries, no request lost or doubled.

One request per sample, so that each has its own seed and a failure costs one sample. The event loop lives in a thread
of its own; answers come out of a plain iterator as they arrive.
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
from deepscaler.engines.openai.timeouts import MAX_LOSSES, Patience
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
from deepscaler.types import Message, SamplingParams

BYTES_PER_TOKEN = 64  # JSON of a token, generously: the longest of usual vocabularies are runs of spaces
SPARE_BYTES = 2**20
MAX_DUPLICATES = 3  # a server that answers everything from one cache must not be asked for ever
MAX_SILENCES = 2  # a server found dead so often in a row is dead
_POLL_S = 0.1
_END = object()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One sample to generate: the user message, the seed its draws are keyed with, and the messages before it."""

    key: Hashable
    question: str
    seed: int
    earlier: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        before = [{"role": message.role, "content": message.content} for message in self.earlier]
        return [*before, {"role": "user", "content": self.question}]


@dataclass(frozen=True, slots=True)
class Answer:
    """latency_s: of the attempt that succeeded."""

    ask: Ask
    reply: Reply
    latency_s: float


class _GaveUpError(Exception):
    """Every attempt at one request failed."""


def request_seed(seed: int, *key: int | str) -> int:
    """The seed of one request, 0 <= seed < 2**31 (what every server takes), a function of run seed and sample."""
    return int(generator("request", seed, *key).integers(2**31))


class OpenAIClient:
    """faults: failed attempts by kind. unfinished: (key, why) of what failed although it was tried often enough.

    explicit: settings sent beside OpenAI's own, to servers that would put defaults of theirs in their place; with them
        goes top_k, also where it is off.
    streaming: ask for answers in pieces.
    """

    def __init__(self, address: str, model: str, params: SamplingParams, section: ClientSection) -> None:
        """Raises ValueError for an address that is none."""
        self.model, self.params = model, params
        self.faults: Counter[str] = Counter()
        self.unfinished: list[tuple[Hashable, str]] = []
        self.explicit: Mapping[str, Any] = {}
        self.streaming = section.stream
        self._patience = Patience(section, params.max_completion_tokens)
        most_bytes = SPARE_BYTES + BYTES_PER_TOKEN * params.max_completion_tokens
        self.endpoint = Endpoint(address, model, section, most_bytes)
        self.max_tokens_field = section.max_tokens_field
        self._section = section
        self._jitter = random.Random(params.seed)
        self._texts: dict[str, int] = {}  # id of a reply -> hash of its text
        self._last_success = 0.0
        self._refused: set[str] = set()  # questions given up since then

    def ask(self, asks: Iterable[Ask]) -> Iterator[Answer]:
        """Yield answers as they arrive. Raises EndpointError when going on is pointless; closing cancels the rest."""
        answers: queue.Queue[Any] = queue.Queue(maxsize=4 * self._section.concurrency)
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(iter(asks), answers, stop), name="openai-client", daemon=True)
        thread.start()
        try:
            while (item := answers.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join(timeout=10.0)

    def probe(self, question: str, **changes: Any) -> Reply:
        """One completion with other settings, tried as often as any. Raises EndpointError."""
        ask = Ask("probe", question, 0)
        try:
            reply = self._now(lambda session: self._complete(session, ask, self._body(ask) | changes)).reply
            self._patience.forget()
            return reply
        except _GaveUpError as error:
            raise EndpointError(f"{self.endpoint.address} gives no usable answer: {error}") from error

    def models(self) -> list[dict[str, Any]]:
        """What the server says it serves. Raises EndpointError when nothing answers, or the key is refused."""

        async def get(session: aiohttp.ClientSession) -> Any:
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

        document = self._now(get)
        data = document.get("data") if isinstance(document, dict) else None
        return [m for m in data if isinstance(m, dict)] if isinstance(data, list) else []

    def _now(self, call: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
        async def run() -> T:
            async with self.endpoint.session() as session:
                return await call(session)

        return asyncio.run(run())

    def _run(self, asks: Iterator[Ask], answers: queue.Queue[Any], stop: threading.Event) -> None:
        """The client's thread. What it cannot handle is raised where the answers are read."""
        try:
            asyncio.run(self._all(asks, answers, stop))
            last: Any = _END
        except Exception as error:
            last = error
        while not stop.is_set():
            try:
                answers.put(last, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    async def _all(self, asks: Iterator[Ask], answers: queue.Queue[Any], stop: threading.Event) -> None:
        async with self.endpoint.session() as session:
            work = [asyncio.create_task(self._work(session, asks, answers)) for _ in range(self._section.concurrency)]
            try:
                pending = set(work)
                while pending and not stop.is_set():
                    done, pending = await asyncio.wait(pending, timeout=_POLL_S, return_when=asyncio.FIRST_EXCEPTION)
                    for task in done:
                        task.result()
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)

    async def _work(self, session: aiohttp.ClientSession, asks: Iterator[Ask], answers: queue.Queue[Any]) -> None:
        for ask in asks:
            begun = time.monotonic()
            try:
                answer = await self._complete(session, ask, self._body(ask))
            except _GaveUpError as error:
                self._refused.add(ask.question)
                # A server that is well can refuse one question again and again while the others take their time.
                if self._last_success < begun and len(self._refused) > 1:
                    raise EndpointError(
                        f"{self.endpoint.address} gave no usable answer to any request for "
                        f"{time.monotonic() - begun:.0f} s; the last fault: {error}. Finished samples are kept: run "
                        "the same command again when the server is back"
                    ) from error
                self.unfinished.append((ask.key, str(error)))
                continue
            while answers.full():  # only this thread puts answers in
                await asyncio.sleep(0.01)
            answers.put_nowait(answer)

    async def _complete(self, session: aiohttp.ClientSession, ask: Ask, body: dict[str, Any]) -> Answer:
        """Try until it succeeds. Raises _GaveUpError after `max_attempts`, EndpointError when trying is pointless."""
        fault, wait_s, duplicates, seen = "", 0.0, 0, Counter[str]()
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
                self._refused.clear()
                return Answer(ask, reply, self._last_success - start)
            fault, wait_s, duplicates = "the reply to another request", 0.0, duplicates + 1
            self.faults["duplicate"] += 1
        raise _GaveUpError(f"{fault} ({counted(attempt, 'attempt')})")

    async def _chat(self, session: aiohttp.ClientSession, body: dict[str, Any], *, losses: int) -> Reply:
        """One attempt, given up when nobody hears anything of the server, or it does not come to this request.

        losses: how often it was given up for the latter before. Raises RetryError, EndpointError.
        """
        asked, s = self._patience.begin(body), self._section
        exchange = asyncio.ensure_future(self.endpoint.chat(session, body, asked))
        try:
            while not (await asyncio.wait([exchange], timeout=min(1.0, s.silence_s / 4, s.lost_s / 4)))[0]:
                limit = self._patience.silence_limit(streamed=asked.streamed)
                if time.monotonic() - max(asked.sent, self.endpoint.last_heard) > limit:
                    raise RetryError("silent", f"the server is silent: no request heard anything for {limit:.0f} s")
                if self._patience.is_lost(asked, losses):
                    raise RetryError(
                        "lost",
                        f"silent for {asked.silence():.0f} s while requests sent later were answered",
                    )
            reply = exchange.result()
        finally:
            exchange.cancel()
        self._patience.note(asked, reply)
        return reply

    def _is_new(self, reply: Reply) -> bool:
        """Whether this is no copy of an earlier reply, which has its id and its text.

        From a server that gives every reply the same id, or none, copies cannot be told apart.
        """
        if not reply.id or self._texts.keys() == {reply.id}:
            return True
        text = hash(reply.text)
        known = self._texts.get(reply.id) == text
        self._texts[reply.id] = text
        return not known

    def _backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures: exponential with full jitter."""
        return self._jitter.uniform(
            0.0, min(self._section.backoff_max_s, self._section.backoff_s * 2.0 ** (failures - 1))
        )

    def _body(self, ask: Ask) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": ask.messages,
            "temperature": self.params.temperature,
            **({"stop": list(self.params.stop)} if self.params.stop else {}),
            **({"stop_token_ids": list(self.params.stop_token_ids)} if self.params.stop_token_ids else {}),
            "top_p": self.params.top_p,
            self._section.max_tokens_field: self.params.max_completion_tokens,
            "seed": ask.seed,
            "n": 1,
        }
        if self.streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.explicit:
            return body | dict(self.explicit) | {"top_k": self.params.top_k or -1}
        return body | {"top_k": self.params.top_k} if self.params.top_k else body
