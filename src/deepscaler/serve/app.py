"""HTTP application: routes, streaming, and client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deepscaler.serve.admission import authorize
from deepscaler.serve.body import read_json
from deepscaler.serve.choices import Piece, sampling_params
from deepscaler.serve.engine_thread import EngineThread, Job
from deepscaler.serve.prompts import Encoder, Prompt
from deepscaler.serve.replies import DONE, Reply, event
from deepscaler.serve.requests import Asked, RequestError, no_such_model, parse_chat, parse_completion

ROUTES = "GET /v1/models, GET /v1/models/NAME, POST /v1/chat/completions, POST /v1/completions, GET /health"


@dataclass(frozen=True)
class Service:
    """State of the routes. token: required when set; without it only loopback requests are accepted."""

    engine: EngineThread
    encoder: Encoder
    model: str
    token: str = ""

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @property
    def model_card(self) -> dict[str, object]:
        """The model as OpenAI's API lists it, and its context as vLLM's does."""
        limit = {"max_model_len": self.engine.capacity}
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "deepscaler", **limit}


def make_app(service: Service) -> Starlette:
    async def models(request: Request) -> Response:
        authorize(request, service.token)
        return JSONResponse({"object": "list", "data": [service.model_card]})

    async def model(request: Request) -> Response:
        authorize(request, service.token)
        asked = request.path_params["name"]
        if asked != service.model:
            raise no_such_model(asked, service.model)
        return JSONResponse(service.model_card)

    async def chat(request: Request) -> Response:
        return await _answer(request, service, parse_chat)

    async def completions(request: Request) -> Response:
        return await _answer(request, service, parse_completion)

    async def health(request: Request) -> Response:
        return _health(request, service)

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={RequestError: _error_response, 404: _no_route, 405: _no_route})


async def _error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    refusal = RequestError(f"{request.method} {request.url.path} is not served; there are {ROUTES}", status=status)
    return JSONResponse(refusal.body(), status_code=status)


def _health(request: Request, service: Service) -> Response:
    """Health check without a key; the number of open completions only for authorized requests."""
    try:
        service.engine.check()
    except RequestError:
        return JSONResponse({"status": "failed"}, status_code=503)
    try:
        authorize(request, service.token)
    except RequestError:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "ok", "open": service.engine.num_open})


async def _answer(request: Request, service: Service, parse: Callable[[object, str], Asked]) -> Response:
    authorize(request, service.token)
    asked = parse(await read_json(request), service.model)
    service.engine.check(asked.n * max(1, len(asked.prompts)))
    prompts = await asyncio.to_thread(service.encoder.prompts, asked)
    seeds = [secrets.randbits(63) if asked.seed is None else asked.seed for _ in prompts]
    capacity = service.engine.capacity
    jobs = [(p.ids, sampling_params(asked, p.ids, capacity, s)) for p, s in zip(prompts, seeds, strict=True)]
    pieces: asyncio.Queue[Piece | RequestError] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def deliver(piece: Piece | RequestError) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended with the server
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    job = service.engine.submit(jobs, asked, deliver)
    reply = Reply(
        asked,
        service.model,
        sum(len(prompt.ids) for prompt in prompts),
        lambda token: service.tokenizer.decode([token]),
        [_echo(service, prompt) if asked.echo else "" for prompt in prompts],
        prompts[0].thinking,
    )
    if asked.stream:
        return StreamingResponse(_stream(reply, job, pieces), media_type="text/event-stream")
    return await _whole(request, reply, job, pieces)


def _echo(service: Service, prompt: Prompt) -> str:
    return service.tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text


async def _whole(request: Request, reply: Reply, job: Job, pieces: asyncio.Queue[Piece | RequestError]) -> Response:
    """Wait for the last piece of every choice; cancel them when the client disconnects."""
    gone = asyncio.create_task(_disconnected(request))
    texts: dict[int, str] = {}
    done: list[Piece] = []
    try:
        while len(done) < reply.num_choices:
            get = asyncio.create_task(pieces.get())
            await asyncio.wait({get, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                return Response(status_code=499)
            piece = get.result()
            if isinstance(piece, RequestError):
                raise piece
            texts[piece.index] = texts.get(piece.index, "") + piece.text
            if piece.finish_reason is not None:
                text = texts[piece.index]
                done.append(Piece(piece.index, text, piece.finish_reason, piece.tokens, piece.logprobs))
    finally:
        gone.cancel()
        job.cancel()
    # Log-probabilities may have millions of entries; serialize them outside of the event loop.
    return await asyncio.to_thread(lambda: JSONResponse(reply.whole(done)))


async def _stream(reply: Reply, job: Job, pieces: asyncio.Queue[Piece | RequestError]) -> AsyncIterator[bytes]:
    """Server-sent events; closed early when the client disconnects."""
    left = reply.num_choices
    try:
        while left:
            piece = await pieces.get()
            if isinstance(piece, RequestError):
                yield event(piece.body())
                break
            yield event(reply.chunk(piece) if piece.logprobs is None else await asyncio.to_thread(reply.chunk, piece))
            left -= piece.finish_reason is not None
        if reply.asked.stream_usage:
            yield event(reply.usage_chunk())
        yield DONE
    finally:
        job.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
