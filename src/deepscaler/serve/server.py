"""Serves a model directory over an OpenAI-compatible HTTP API."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from torch import nn

from deepscaler.cluster.model_directory import ModelDirectory, open_model
from deepscaler.cluster.processes import num_processes
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.engines.sizing import cache_bytes
from deepscaler.modeling.generic import note_of
from deepscaler.observability.counts import counted
from deepscaler.serve.app import Service, make_app
from deepscaler.serve.authorization import LOOPBACK, check_key
from deepscaler.serve.connections import BoundedProtocol
from deepscaler.serve.engine_pool import EnginePool
from deepscaler.serve.engine_process import EngineOptions, start_processes
from deepscaler.serve.prompts import PromptEncoder

SPARE_CONNECTIONS = 256  # above max_queued: for requests that get 429, and for health checks


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """context: maximum tokens of prompt and completion, 0 for the model's own. token_env: variable with the API key.

    stop_token_ids, stop: end every completion, in addition to those of the model's files and of the request.
    processes: engines on CPU, one thread each; None for one per core.
    prompt_format: system prompt and template variables of chats that say nothing else.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    dtype: str = "auto"
    max_active: int = 64
    max_queued: int = 1024
    context: int = 0
    token_env: str = "DEEPSCALER_API_KEY"
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    processes: int | None = None
    prompt_format: PromptFormat = field(default_factory=PromptFormat)


def read_token(options: ServeOptions) -> str:
    """The API key from the environment.

    Raises ValueError for an address that others can reach without a key, and for a key that no header can carry.
    """
    token = os.environ.get(options.token_env, "").strip()
    check_key(token, options.token_env)
    if options.host not in LOOPBACK and not token:
        raise ValueError(
            f"--host {options.host} can be reached from other machines, so requests need an API key: set the "
            f"environment variable {options.token_env}, or name another variable with --token-env"
        )
    return token


@contextmanager
def open_service(model_dir: str | Path, options: ServeOptions) -> Iterator[Service]:
    """Load the model and start its engine. Raises ModelError, ValueError."""
    token = read_token(options)
    if "" in options.stop:
        raise ValueError("--stop: an empty string would end every completion at once; leave it out")
    files = open_model(model_dir, options.dtype, prompt_format=options.prompt_format, section="--template")
    if options.context > files.context:
        raise ValueError(
            f"--context {options.context} is above the model's context of {counted(files.context, 'token')}; lower it"
        )
    if note := note_of(files.config):
        print(note, file=sys.stderr, flush=True)
    capacity = options.context or files.context
    model, tokenizer = files.load(capacity), files.tokenizer
    processes = num_processes(options.processes, files.device)
    engine = _start_engines(files, model, options, capacity, processes)
    num_ids = min(model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values()) + 1)
    encoder = PromptEncoder(tokenizer, capacity, num_ids, options.prompt_format)
    try:
        yield Service(engine, encoder, options.name or Path(model_dir).resolve().name, token)
    finally:
        engine.close()


def _start_engines(
    files: ModelDirectory, model: nn.Module, options: ServeOptions, capacity: int, processes: int
) -> EnginePool:
    """`processes` engines, this process's among them, that together decode `options.max_active` sequences at once."""
    slots = files.slots(capacity=capacity, most=options.max_active)
    settings = EngineOptions(
        model=model,
        tokenizer=files.tokenizer,
        stop_ids=files.stop_ids(options.stop_token_ids),
        max_active=-(-slots // processes),
        max_cache_bytes=cache_bytes(files.device, processes),
        capacity=capacity,
        max_queued=options.max_queued,
        stop=options.stop,
    )
    others = start_processes(settings, processes - 1)
    return EnginePool(settings.start(), others, options.max_queued)


def make_server(service: Service, options: ServeOptions) -> uvicorn.Server:
    """The HTTP server: connections above the limit get 503, and idle ones are closed."""
    config = uvicorn.Config(
        make_app(service),
        host=options.host,
        port=options.port,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        limit_concurrency=options.max_queued + SPARE_CONNECTIONS,
        log_level="warning",
        access_log=False,
        use_colors=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def run(service: Service, options: ServeOptions) -> None:
    """Serve until interrupted."""
    _allow_open_files(options.max_queued + 2 * SPARE_CONNECTIONS)
    make_server(service, options).run()


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files, 1,024 on many systems: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
