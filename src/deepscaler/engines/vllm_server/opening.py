"""Starts vLLM servers on a model directory, or connects to servers that run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepscaler import cpu
from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.registry import ModelFiles, engine_fingerprint
from deepscaler.engines.sizing import DTYPES
from deepscaler.engines.vllm_server.client import ServerClient
from deepscaler.engines.vllm_server.engine import ServerSettings, VllmServerEngine
from deepscaler.engines.vllm_server.environment import python_path, server_key, versions_of
from deepscaler.engines.vllm_server.process import ServerProcess
from deepscaler.engines.vllm_shared.model_files import (
    STEP_TOKENS,
    Limits,
    cpu_cache_arguments,
    refuse_other_shapes,
)
from deepscaler.modeling.load import unknown_ids
from deepscaler.modeling.positions import model_context
from deepscaler.types import SamplingParams

IsCancelled = Callable[[], bool]
SERVED_NAME = "policy"
NEEDED = ("/inference/v1/generate", "/collective_rpc", "/pause", "/resume", "/reset_prefix_cache", "/metrics")


def fingerprint_of(files: ModelFiles, engine: EngineSection) -> dict[str, object]:
    """Metadata of the servers that shapes a completion. Raises ValueError where they are missing."""
    return engine_fingerprint("vllm_server", files, {"vllm": versions_of(engine)})


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the servers run.

    config: transformers' configuration. forbidden_ids: ids without a token (head.forbid_ids). on_gpu: one GPU a server.
    """

    path: Path
    config: Any
    forbidden_ids: tuple[int, ...]
    on_gpu: bool

    @classmethod
    def of(cls, files: ModelFiles) -> ServedModel:
        forbidden = unknown_ids(files.tokenizer, files.config.vocab_size)
        return cls(files.path, files.config, tuple(forbidden), files.device.type == "cuda")


class ServerStarter:
    """Starts servers of a run, the first time and again when one died. log_directory: of their output."""

    def __init__(
        self, model: ServedModel, engine: EngineSection, settings: ServerSettings, log_directory: Path
    ) -> None:
        assert engine.vllm_python is not None
        self._model, self._engine, self._settings = model, engine, settings
        self._log_directory = log_directory
        self._python = python_path(engine.vllm_python)

    def start(self, directory: Path, index: int) -> ServerProcess:
        """Server number `index`, not ready yet. directory: with the files of the model alone (`model_files_only`)."""
        return ServerProcess(
            self._python,
            server_arguments(directory, self._model, self._settings, self._engine),
            self._log_directory / f"vllm-server-{index}.log",
            threads=None if self._model.on_gpu else self._threads(),
            gpu=_gpu_of(index) if self._model.on_gpu else None,
        )

    def connect(self, process: ServerProcess, is_cancelled: IsCancelled = lambda: False) -> VllmServerEngine:
        """Wait until it is ready. Raises RunError with its last lines where it ends before."""
        client = ServerClient(process.url, process.key, process)
        with closed_on_failure(client):
            process.wait_until_ready(client.is_healthy)
            return connected(client, self._model, self._settings, is_cancelled)

    def _threads(self) -> int:
        return max(1, (self._engine.processes or cpu.available_cores()) // self._engine.vllm_servers)


def connect_url(
    url: str, model: ServedModel, settings: ServerSettings, is_cancelled: IsCancelled = lambda: False
) -> VllmServerEngine:
    """A sampler on a server that somebody else started."""
    client = ServerClient(url, server_key())
    with closed_on_failure(client):
        return connected(client, model, settings, is_cancelled)


@contextmanager
def closed_on_failure(client: ServerClient) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.close()
        raise


def settings_for(files: ModelFiles, engine: EngineSection, *, capacity: int, params: SamplingParams) -> ServerSettings:
    """capacity: tokens of prompt and completion. Raises ValueError for a sleep level that vLLM has not on CPU."""
    if engine.vllm_sleep_level and files.device.type != "cuda":
        raise ValueError(
            f"vllm_sleep_level = {engine.vllm_sleep_level}: vLLM sleeps on GPUs only; set it to 0, and servers and "
            "learner keep their memory"
        )
    context = model_context(files.config)
    return ServerSettings(
        stop_ids=files.stop_ids(params.stop_token_ids),
        dtype=files.dtype,
        context=context,
        max_tokens=min(context, capacity),
        sleep_level=engine.vllm_sleep_level,
    )


def server_arguments(directory: Path, model: ServedModel, settings: ServerSettings, engine: EngineSection) -> list[str]:
    """The command line of a server, without its address."""
    max_active = max(1, -(-engine.max_active // engine.vllm_servers))
    arguments = [
        *("--model", str(directory), "--served-model-name", SERVED_NAME, "--dtype", settings.dtype, "--tokens-only"),
        *("--max-model-len", str(settings.max_tokens), "--max-num-seqs", str(max_active)),
        *("--enable-prefix-caching", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--worker-extension-cls", "deepscaler_vllm.extension.WorkerExtension"),
        *("--middleware", "deepscaler_vllm.authorization.RequireKey"),
    ]
    if settings.sleep_level:
        arguments.append("--enable-sleep-mode")
    if not model.on_gpu:
        limits = Limits(max_active, settings.max_tokens)
        arguments += _cpu_arguments(model, DTYPES[settings.dtype], limits, engine.vllm_servers)
    return [*arguments, *engine.vllm_args]


def _cpu_arguments(model: ServedModel, dtype: torch.dtype, limits: Limits, num_servers: int) -> list[str]:
    cache = cpu_cache_arguments(model.path, model.config, dtype, limits, num_engines=num_servers)
    # A prompt split over two steps has vLLM 0.32 turn back the generator of its request, which no CPU generator can.
    return [
        *("--enforce-eager", "--no-enable-chunked-prefill"),
        *("--max-num-batched-tokens", str(max(limits.max_tokens, STEP_TOKENS))),
        *("--block-size", str(cache["block_size"]), "--kv-cache-memory-bytes", str(cache["kv_cache_memory_bytes"])),
    ]


def connected(
    client: ServerClient, model: ServedModel, settings: ServerSettings, is_cancelled: IsCancelled = lambda: False
) -> VllmServerEngine:
    """A sampler on a server that is ready. Raises ValueError for one that lacks routes or runs another model."""
    served = set(client.get("/openapi.json").get("paths", {}))
    if missing := [path for path in NEEDED if path not in served]:
        raise ValueError(
            f"{client.name} has no {', '.join(missing)}: start it with VLLM_SERVER_DEV_MODE=1, --tokens-only and our "
            "worker extension (docs/engines.md)"
        )
    prepared = client.rpc("deepscaler_prepare", list(model.forbidden_ids))
    built = {name: tuple(shape) for name, shape in prepared["shapes"].items()}
    refuse_other_shapes(model.path, built)
    if prepared["dtype"] != settings.dtype:
        raise ValueError(
            f"{client.name} holds weights in {prepared['dtype']}, this run needs {settings.dtype}: start it with "
            f"--dtype {settings.dtype}, or set model.dtype (engine.dtype) = '{prepared['dtype']}'"
        )
    return VllmServerEngine(client, replace(settings, untruncated=bool(prepared["untruncated"])), is_cancelled)


def _gpu_of(index: int) -> int:
    """The learner is on the first GPU; servers take the others in turn, and share the only one."""
    count = torch.cuda.device_count()
    return 0 if count == 1 else 1 + index % (count - 1)
