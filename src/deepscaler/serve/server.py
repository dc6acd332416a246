"""A model directory behind an OpenAI-compatible address, until it is told to stop."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from deepscaler.cluster.model_directory import open_model
from deepscaler.engines.sizing import cache_bytes
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.observability.counts import counted
from deepscaler.serve.admission import LOOPBACK, check_key
from deepscaler.serve.app import Service, make_app
from deepscaler.serve.connections import BoundedProtocol
from deepscaler.serve.engine_thread import EngineThread
from deepscaler.serve.prompts import Encoder

SPARE_CONNECTIONS = 256  # for those that ask for a place in the queue, and for health checks


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """context: most tokens of prompt and completion, 0 = the model's own. token_env: variable with the API key.

    stop_token_ids, stop: end every completion, beside what the model's files and a request name.
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


def read_token(options: ServeOptions) -> str:
    """The API key from the environment.

    Raises ValueError for an address others can reach, without a key, and for a key that cannot be sent.
    """
    token = os.environ.get(options.token_env, "").strip()
    check_key(token, options.token_env)
    if options.host not in LOOPBACK and not token:
        raise ValueError(
            f"--host {options.host} can be reached from elsewhere, so requests need a key: set the environment "
            f"variable {options.token_env}, or name another with --token-env"
        )
    return token


@contextmanager
def open_service(model_dir: str | Path, options: ServeOptions) -> Iterator[Service]:
    """The model loaded and its engine running. Raises ModelError, ValueError."""
    token = read_token(options)
    if "" in options.stop:
        raise ValueError("--stop: an empty text would end every completion before it begins; leave it out")
    files = open_model(model_dir, options.dtype)
    if options.context > files.context:
        raise ValueError(
            f"--context {options.context} is above the model's context of {counted(files.context, 'token')}; lower it"
        )
    capacity = options.context or files.context
    model = files.load(capacity)
    slots = files.slots(capacity=capacity, most=options.max_active)
    stop_ids = files.stop_ids(options.stop_token_ids)
    tokenizer = files.tokenizer
    engine = EngineThread(
        TorchEngine(model, stop_ids=stop_ids, max_active=slots, max_cache_bytes=cache_bytes(files.device, 1)),
        decode=lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False),
        stop_ids=stop_ids,
        capacity=capacity,
        max_queued=options.max_queued,
        stop=options.stop,
    )
    num_ids = min(model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values()) + 1)
    encoder = Encoder(tokenizer, capacity, num_ids)
    try:
        yield Service(engine, encoder, options.name or Path(model_dir).resolve().name, token)
    finally:
        engine.close()


def make_server(service: Service, options: ServeOptions) -> uvicorn.Server:
    """The HTTP server: connections beyond what may be queued get 503, and silent ones are closed."""
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
    """A connection is an open file, of which a process may have 1,024 in many systems unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
