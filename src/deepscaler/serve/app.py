"""HTTP application: routes, streaming, and client disconnects.

As in vLLM, `raw_request` is the HTTP request and `request` the parsed one.
"""

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

from deepscaler.serve.authorization import authorize
from deepscaler.serve.engine_pool import EnginePool, PooledJob
from deepscaler.serve.output_processor import CompletionOutput, sampling_params
from deepscaler.serve.prompts import Prompt, PromptEncoder
from deepscaler.serve.request_body import read_json
from deepscaler.serve.requests import CompletionRequest, RequestError, no_such_model, parse_chat, parse_completion
from deepscaler.serve.responses import DONE, ResponseBuilder, server_sent_event

ROUTES = "GET /v1/models, GET /v1/models/NAME, POST /v1/chat/completions, POST /v1/completions, GET /health"
OutputQueue = asyncio.Queue[CompletionOutput | RequestError]


@dataclass(frozen=True)
class Service:
    """State that the routes share. token: required when set; without it only loopback requests are accepted."""

    engine: EnginePool
    encoder: PromptEncoder
    model: str
    token: str = ""

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @property
    def model_card(self) -> dict[str, object]:
        """The model object of OpenAI's API, with vLLM's `max_model_len`."""
        limit = {"max_model_len": self.engine.capacity}
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "deepscaler", **limit}


def make_app(service: Service) -> Starlette:
    async def models(request: Request) -> Response:
        authorize(request, service.token)
        return JSONResponse({"object": "list", "data": [service.model_card]})

    async def model(request: Request) -> Response:
        authorize(request, service.token)
        name = request.path_params["name"]
        if name != service.model:
            raise no_such_model(name, service.model)
        return JSONResponse(service.model_card)

    async def chat(request: Request) -> Response:
        return await _create(request, service, parse_chat)

    async def completions(request: Request) -> Response:
        return await _create(request, service, parse_completion)

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
    no_route = RequestError(
        f"this server has no route {request.method} {request.url.path}; its routes are {ROUTES}", status=status
    )
    return JSONResponse(no_route.body(), status_code=status)


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


async def _create(
    raw_request: Request, service: Service, parse: Callable[[object, str], CompletionRequest]
) -> Response:
    authorize(raw_request, service.token)
    request = parse(await read_json(raw_request), service.model)
    service.engine.check(request.n * max(1, len(request.prompts)))
    prompts = await asyncio.to_thread(service.encoder.prompts, request)
    seeds = [secrets.randbits(63) if request.seed is None else request.seed for _ in prompts]
    capacity = service.engine.capacity
    inputs = [(p.ids, sampling_params(request, p.ids, capacity, s)) for p, s in zip(prompts, seeds, strict=True)]
    outputs: OutputQueue = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def on_output(output: CompletionOutput | RequestError) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended with the server
            loop.call_soon_threadsafe(outputs.put_nowait, output)

    job = service.engine.submit(inputs, request, on_output)
    builder = ResponseBuilder(
        request,
        service.model,
        sum(len(prompt.ids) for prompt in prompts),
        lambda token: service.tokenizer.decode([token]),
        [_echo(service, prompt) if request.echo else "" for prompt in prompts],
        prompts[0].thinking,
    )
    if request.stream:
        return StreamingResponse(_stream(builder, job, outputs), media_type="text/event-stream")
    return await _complete(raw_request, builder, job, outputs)


def _echo(service: Service, prompt: Prompt) -> str:
    return service.tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text


async def _complete(raw_request: Request, builder: ResponseBuilder, job: PooledJob, outputs: OutputQueue) -> Response:
    """Wait for the final output of every choice; cancel them when the client disconnects."""
    disconnected = asyncio.create_task(_wait_for_disconnect(raw_request))
    texts: dict[int, str] = {}
    done: list[CompletionOutput] = []
    try:
        while len(done) < builder.num_choices:
            get = asyncio.create_task(outputs.get())
            await asyncio.wait({get, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                return Response(status_code=499)
            output = get.result()
            if isinstance(output, RequestError):
                raise output
            texts[output.index] = texts.get(output.index, "") + output.text
            if output.finish_reason is not None:
                text = texts[output.index]
                done.append(
                    CompletionOutput(output.index, text, output.finish_reason, output.token_ids, output.logprobs)
                )
    finally:
        disconnected.cancel()
        job.cancel()
    # Log-probabilities may have millions of entries; serialize them outside of the event loop.
    return await asyncio.to_thread(lambda: JSONResponse(builder.response(done)))


async def _stream(builder: ResponseBuilder, job: PooledJob, outputs: OutputQueue) -> AsyncIterator[bytes]:
    """Server-sent events; closed early when the client disconnects."""
    left = builder.num_choices
    try:
        while left:
            output = await outputs.get()
            if isinstance(output, RequestError):
                yield server_sent_event(output.body())
                break
            large = output.logprobs is not None  # serialized outside of the event loop
            yield server_sent_event(await asyncio.to_thread(builder.chunk, output) if large else builder.chunk(output))
            left -= output.finish_reason is not None
        if builder.request.stream_usage:
            yield server_sent_event(builder.usage_chunk())
        yield DONE
    finally:
        job.cancel()


async def _wait_for_disconnect(raw_request: Request) -> None:
    while (await raw_request.receive())["type"] != "http.disconnect":
        pass
