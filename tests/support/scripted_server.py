"""A server that speaks OpenAI's chat completions and answers from a script, with faults planted. For tests only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from deepscaler.randomness import generator

Reply = Callable[[str, int], str]  # question, seed -> completion text


FAULTS = (
    "error_500", "hang_up", "silence", "malformed", "half_body", "duplicate", "rate_limit", "endless", "stall",
    "deep",
)  # fmt: skip


@dataclass
class Faults:
    """Share of requests that meet each fault, drawn anew for every attempt."""

    error_500: float = 0.0
    hang_up: float = 0.0  # the connection is closed instead of an answer
    silence: float = 0.0  # no answer at all, for `silence_s`
    deep: float = 0.0  # JSON nested 200,000 levels deep
    malformed: float = 0.0  # half a JSON document
    half_body: float = 0.0  # the connection breaks in the middle of the body
    duplicate: float = 0.0  # the reply to an earlier request
    # Which earlier reply. Of two with one id a client takes the first it reads for the right one, so with requests at
    # once it must be older than these.
    replies_back: int = 1
    rate_limit: float = 0.0
    endless: float = 0.0  # a body that does not end
    stall: float = 0.0  # a stream that begins and then says nothing, for `silence_s`
    truncated: float = 0.0  # per (question, seed), not per attempt: cut at the budget
    silence_s: float = 30.0


@dataclass
class Script:
    """How the server behaves. `reply` decides each text; the rest deviates from a well-behaved server."""

    reply: Reply
    model: str = "scripted"
    owned_by: str = "script"
    faults: Faults = field(default_factory=Faults)
    key: str = ""
    max_model_len: int | None = None
    say_usage: bool = True
    num_tokens: int = 7  # said of every completion that ends by itself
    say_finish: bool = True
    ignore: frozenset[str] = frozenset()  # sampling settings without effect
    streams: bool = True
    reasoning_field: str = ""
    latency_s: float = 0.0
    piece_s: float = 0.0  # between two pieces of a stream
    wait_s: dict[str, float] = field(default_factory=dict)  # question -> seconds in the queue


class ScriptedServer:
    """Runs in a thread; `planted` counts the faults by kind, `answered` the whole answers given."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.planted: Counter[str] = Counter()
        self.asked: Counter[tuple[str, int]] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.down = False
        self._number = 0
        self._earlier: deque[bytes] = deque(maxlen=100)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()
        self._rng = generator("planted faults", 1)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()
        await asyncio.sleep(0.05)
        await runner.cleanup()
        await asyncio.sleep(0.05)  # closed connections leave the loop one round later

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refuse(request):
            return refused
        facts: dict[str, Any] = {"id": self.script.model, "object": "model", "owned_by": self.script.owned_by}
        if self.script.max_model_len:
            facts["max_model_len"] = self.script.max_model_len
        return web.json_response({"object": "list", "data": [facts]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if refused := self._refuse(request):
            return refused
        if body["model"] != self.script.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        self.bodies.append(body)
        await asyncio.sleep(self.script.wait_s.get(body["messages"][-1]["content"], 0.0))
        if self.script.latency_s:
            await asyncio.sleep(self.script.latency_s)
        fault = self._fault()
        if fault:
            self.planted[fault] += 1
            return await self._plant(fault, request)
        content = self._completion(body)
        if body.get("stream") and self.script.streams:
            response = await self._stream(request, body, content)
            self._earlier.append(content)  # whole only now: nothing is answered twice before it was answered once
            return response
        self._earlier.append(content)
        return web.Response(body=content, content_type="application/json")

    async def _stream(self, request: web.Request, body: dict[str, Any], content: bytes) -> web.StreamResponse:
        """The same completion as events: pieces of a few characters, the end of each choice, the usage if asked."""
        document = json.loads(content)
        usage = document.pop("usage", None)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: dict[str, Any]) -> None:
            await asyncio.sleep(self.script.piece_s)
            await response.write(b"data: " + json.dumps({**document, **event}).encode() + b"\r\n\r\n")

        await response.write(b": a comment\n\n")
        for choice in document["choices"]:
            for name, text in choice["message"].items():
                for start in range(0, len(text), 9) if name != "role" else ():
                    piece = {"index": choice["index"], "delta": {name: text[start : start + 9]}, "finish_reason": None}
                    await send({"choices": [piece]})
            await send(
                {"choices": [{"index": choice["index"], "delta": {}, "finish_reason": choice.get("finish_reason")}]}
            )
        if usage and body.get("stream_options", {}).get("include_usage"):
            await send({"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _refuse(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if self.script.key and given != f"Bearer {self.script.key}":
            return _error(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}")
        return None

    def _fault(self) -> str:
        if self.down:
            return "hang_up"
        draw, f = self._rng.random(), self.script.faults
        for kind in (
            "error_500",
            "hang_up",
            "silence",
            "malformed",
            "half_body",
            "duplicate",
            "rate_limit",
            "endless",
            "stall",
            "deep",
        ):
            if kind == "duplicate" and len(self._earlier) < f.replies_back:
                continue
            draw -= getattr(f, kind)
            if draw < 0:
                return kind
        return ""

    async def _plant(self, fault: str, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if fault == "error_500":
            return _error(500, "planted")
        if fault == "rate_limit":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.01"})
        if fault == "duplicate":
            return web.Response(body=self._earlier[-self.script.faults.replies_back], content_type="application/json")
        if fault == "deep":
            return web.Response(body=b"[" * 200_000 + b"]" * 200_000, content_type="application/json")
        if fault == "malformed":
            return web.Response(body=b'{"choices": [{"mess', content_type="application/json")
        if fault == "silence":
            await self._say_nothing()
        if fault == "stall":
            stalled = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stalled.prepare(request)
            await stalled.write(b'data: {"choices": [{"index": 0, "delta": {"content": "so"}}]}\n\n')
            await self._say_nothing()
        if fault in ("half_body", "endless"):
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"choices": [')
            while fault == "endless":
                await response.write(b" " * 2**16)
        request.transport.abort()
        return web.Response()

    async def _say_nothing(self) -> None:
        """For `silence_s`, or until the server ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self.script.faults.silence_s)

    def _completion(self, body: dict[str, Any]) -> bytes:
        script, question = self.script, body["messages"][-1]["content"]
        seed = self._number if "seed" in script.ignore else body.get("seed", 0)
        narrow = {"temperature": 0.0, "top_p": 1e-6, "top_k": 1}
        if any(body.get(name) == value for name, value in narrow.items() if name not in script.ignore):
            seed = 0  # one token to choose each time
        self.asked[question, body.get("seed", 0)] += 1
        choices = []
        for index in range(body.get("n", 1)):
            text = script.reply(question, seed + index)
            cut = generator("cut", question, seed).random() < script.faults.truncated
            message: dict[str, Any] = {"role": "assistant", "content": text[: len(text) // 2] if cut else text}
            if script.reasoning_field:
                message[script.reasoning_field] = "let me think \\boxed{0}"
            choice: dict[str, Any] = {"index": index, "message": message}
            if script.say_finish:
                choice["finish_reason"] = "length" if cut else "stop"
            choices.append(choice)
            self.planted["truncated"] += cut
        self._number += 1
        document: dict[str, Any] = {"id": f"reply-{self._number}", "model": script.model, "choices": choices}
        if script.say_usage:
            tokens = body.get("max_tokens", 16) if choices[0].get("finish_reason") == "length" else script.num_tokens
            document["usage"] = {"completion_tokens": tokens, "prompt_tokens": 5}
        return json.dumps(document).encode()


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "error", "code": status}}, status=status)


def right_with_probability(answers: dict[str, str], rate: Callable[[str], float]) -> Reply:
    """Right answers with the probability `rate(question)`, a function of question and seed."""

    def reply(question: str, seed: int) -> str:
        answer = next((a for q, a in answers.items() if question.startswith(q)), "?")
        good = generator("scripted", question, seed).random() < rate(question)
        return f"<think>\nhm {seed}\n</think>\nIt is \\boxed{{{answer if good else '-1'}}}."

    return reply
