"""A model directory behind an OpenAI-compatible address, until it is told to stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from deepscaler.data.stopping import all_stop_ids
from deepscaler.positions import model_context
from deepscaler.rollout.sizing import DTYPES, cache_bytes, pick_device, pick_dtype, slots_that_fit
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.serve.app import LOOPBACK, Service, make_app
from deepscaler.serve.engine_thread import EngineThread
from deepscaler.training.cpu_layers import use_compiled_passes
from deepscaler.training.model import load_model, load_tokenizer, read_config, resolve_model, stop_token_ids
from deepscaler.training.products import use_fast_products


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
    """The API key from the environment. Raises ValueError for an address others can reach, without a key."""
    token = os.environ.get(options.token_env, "").strip()
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
    device = pick_device()
    dtype = DTYPES[pick_dtype(options.dtype, device)]
    tokenizer = load_tokenizer(model_dir)
    directory = resolve_model(model_dir)
    own = model_context(read_config(directory))
    if options.context > own:
        raise ValueError(f"--context {options.context} is above the model's context of {own} tokens; lower it")
    capacity = options.context or own
    model: Any = load_model(directory, dtype=dtype, device=device, tokenizer=tokenizer, longest=capacity)
    use_fast_products(model)  # prompts are computed as the learner and an evaluation compute them
    use_compiled_passes(model)
    slots = slots_that_fit(model.config, dtype, device, capacity=capacity, most=options.max_active)
    stop_ids = all_stop_ids(stop_token_ids(model, tokenizer), tokenizer, options.stop_token_ids)
    engine = EngineThread(
        TorchEngine(model, stop_ids=stop_ids, max_active=slots, max_cache_bytes=cache_bytes(device, 1)),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        stop_ids=stop_ids,
        capacity=capacity,
        max_queued=options.max_queued,
        stop=options.stop,
    )
    try:
        yield Service(engine, tokenizer, options.name or Path(model_dir).resolve().name, token)
    finally:
        engine.close()


def run(service: Service, options: ServeOptions) -> None:
    """Serve until interrupted."""
    config = uvicorn.Config(
        make_app(service),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run()
