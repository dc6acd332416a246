"""The HTTP side of the server: routes, who may ask, streaming, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deepscaler.data.templates import OPEN_THINK, render_messages
from deepscaler.json_text import parse_json
from deepscaler.serve.engine_thread import EngineThread, Job, Piece, sampling
from deepscaler.serve.replies import DONE, Reply, event
from deepscaler.serve.requests import Asked, RequestError, parse_chat, parse_completion
from deepscaler.types import IntArray

MAX_BODY_BYTES = 8 * 2**20
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Service:
    """What the routes need. token: asked of every request when set; without, only requests to loopback are taken."""

    engine: EngineThread
    tokenizer: Any
    model: str
    token: str = ""


def make_app(service: Service) -> Starlette:
    async def models(request: Request) -> Response:
        _admit(request, service)
        facts = {
            "id": service.model,
            "object": "model",
            "created": 0,
            "owned_by": "deepscaler",
            "max_model_len": service.engine.capacity,
        }
        return JSONResponse({"object": "list", "data": [facts]})

    async def chat(request: Request) -> Response:
        return await _answer(request, service, parse_chat)

    async def completions(request: Request) -> Response:
        return await _answer(request, service, parse_completion)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "open": service.engine.num_open})

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={RequestError: _refused, 404: _no_route, 405: _no_route})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    known = "GET /v1/models, POST /v1/chat/completions, POST /v1/completions, GET /health"
    refusal = RequestError(f"{request.method} {request.url.path} is not served; there are {known}", status=status)
    return JSONResponse(refusal.body(), status_code=status)


def _admit(request: Request, service: Service) -> None:
    """Raises RequestError for who may not ask.

    Without a token any web page in the user's browser could reach a loopback port: its requests carry another Host when
    the name was rebound, and no JSON content type unless this server agreed first.
    """
    if service.token:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, service.token.encode()):
            raise RequestError(
                "missing or wrong API key (Authorization: Bearer ...)", status=401, code="invalid_api_key"
            )
    elif request.url.hostname not in LOOPBACK:
        raise RequestError(f"requests to {request.url.hostname!r} are not taken; ask 127.0.0.1", status=403)


async def _answer(request: Request, service: Service, parse: Callable[[Any, str], Asked]) -> Response:
    _admit(request, service)
    asked = parse(await _json(request), service.model)
    prompt_ids, thinking = await asyncio.to_thread(_encode, service.tokenizer, asked)
    seed = secrets.randbits(63) if asked.seed is None else asked.seed
    params = sampling(asked, prompt_ids, service.engine.capacity, seed)
    pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def deliver(piece: Piece | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended with the server: nobody waits any more
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    job = service.engine.submit(prompt_ids, params, n=asked.n, stops=asked.stop, stream=asked.stream, deliver=deliver)
    reply = Reply(asked, service.model, len(prompt_ids), lambda i: service.tokenizer.decode([i]), thinking)
    if asked.stream:
        return StreamingResponse(_stream(reply, job, pieces), media_type="text/event-stream")
    return await _whole(request, reply, job, pieces)


async def _json(request: Request) -> Any:
    if "json" not in request.headers.get("content-type", ""):
        raise RequestError("expected Content-Type: application/json", status=415)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise RequestError(f"the body exceeds {MAX_BODY_BYTES} bytes", status=413)
    except ClientDisconnect as error:
        raise RequestError("the client went away", status=499) from error
    try:
        return parse_json(body)
    except ValueError as error:
        raise RequestError(f"the body is not JSON ({error})") from error


def _encode(tokenizer: Any, asked: Asked) -> tuple[IntArray, bool]:
    """(prompt ids, whether the template opened `<think>`). Raises RequestError."""
    if isinstance(asked.prompt, tuple):
        if max(asked.prompt) >= len(tokenizer) or min(asked.prompt) < 0:
            raise RequestError(f"prompt: token ids go from 0 to {len(tokenizer) - 1}", param="prompt")
        return np.array(asked.prompt, dtype=np.int32), False
    thinking = False
    if asked.messages is not None:
        try:
            text = render_messages(tokenizer, asked.messages)
        except ValueError as error:
            raise RequestError(str(error), param="messages") from error
        thinking = text.rstrip().endswith(OPEN_THINK)
    else:
        assert asked.prompt is not None
        text = asked.prompt
    ids = tokenizer(text, add_special_tokens=asked.messages is None)["input_ids"]
    if not ids:
        raise RequestError("prompt: holds no token", param="prompt")
    return np.array(ids, dtype=np.int32), thinking


async def _whole(request: Request, reply: Reply, job: Job, pieces: asyncio.Queue[Piece | Exception]) -> Response:
    """Wait for the last piece of every choice; when the client goes away meanwhile, nobody needs them."""
    gone = asyncio.create_task(_disconnected(request))
    texts: dict[int, str] = {}
    done: list[Piece] = []
    try:
        while len(done) < reply.asked.n:
            get = asyncio.create_task(pieces.get())
            await asyncio.wait({get, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                return Response(status_code=499)
            piece = _checked(get.result())
            texts[piece.index] = texts.get(piece.index, "") + piece.text
            if piece.finish_reason is not None:
                text = texts[piece.index]
                done.append(Piece(piece.index, text, piece.finish_reason, piece.tokens, piece.logprobs))
    finally:
        gone.cancel()
        job.cancel()
    return JSONResponse(reply.whole(done))


async def _stream(reply: Reply, job: Job, pieces: asyncio.Queue[Piece | Exception]) -> AsyncIterator[bytes]:
    """Server-sent events; closed early when the client goes away."""
    left = reply.asked.n
    try:
        while left:
            piece = await pieces.get()
            if isinstance(piece, Exception):
                yield event(RequestError(f"the engine failed: {piece}", status=500).body())
                break
            yield event(reply.chunk(piece))
            left -= piece.finish_reason is not None
        if reply.asked.stream_usage:
            yield event(reply.usage_chunk())
        yield DONE
    finally:
        job.cancel()


def _checked(piece: Piece | Exception) -> Piece:
    if isinstance(piece, Exception):
        raise RequestError(f"the engine failed: {piece}", status=500) from piece
    return piece


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
