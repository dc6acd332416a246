"""Starts vLLM servers on a model directory, or connects to servers that run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepscaler import cpu
from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.registry import ModelFiles, engine_fingerprint
from deepscaler.engines.sizing import DTYPES
from deepscaler.engines.vllm_server.client import Json, ServerClient
from deepscaler.engines.vllm_server.engine import ServerSettings, VllmServerEngine
from deepscaler.engines.vllm_server.environment import python_path, server_key, versions_of
from deepscaler.engines.vllm_server.ipc_wire import IpcWire, share_on
from deepscaler.engines.vllm_server.nccl_group import NcclGroup
from deepscaler.engines.vllm_server.nccl_wire import NcclWire
from deepscaler.engines.vllm_server.process import ServerProcess
from deepscaler.engines.vllm_server.transfer_choice import Choice, LearnerDevices, Worker, choose, server_backend
from deepscaler.engines.vllm_server.weight_transfer import WeightTransferClient
from deepscaler.engines.vllm_shared.model_files import (
    STEP_TOKENS,
    Limits,
    cpu_cache_arguments,
    refuse_other_shapes,
)
from deepscaler.modeling.load import unknown_ids
from deepscaler.modeling.positions import model_context
from deepscaler.observability.counts import counted
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

    config: transformers' configuration. forbidden_ids: ids without a token (head.forbid_ids). on_gpu: servers use GPUs.
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
            gpus=gpus_of(index, torch.cuda.device_count(), self._settings.num_gpus) if self._model.on_gpu else None,
            takes_handles=server_backend(self._settings.weight_transfer, on_gpu=self._model.on_gpu) == "ipc",
        )

    def connect(self, process: ServerProcess, is_cancelled: IsCancelled = lambda: False) -> VllmServerEngine:
        """Wait until it is ready. Raises RunError with its last lines where it ends before."""
        client = ServerClient(process.url, process.key, process)
        with closed_on_failure(client):
            process.wait_until_ready(client.is_healthy)
            return connected(client, self._model, self._settings, is_cancelled)

    def _threads(self) -> int:
        """Of each worker process on CPU."""
        workers = self._engine.vllm_servers * self._settings.num_gpus
        return max(1, (self._engine.processes or cpu.available_cores()) // workers)


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
    """capacity: tokens of prompt and completion.

    Raises ValueError for a sleep level that vLLM has not on CPU, and for more GPUs of a server than there are.
    """
    if engine.vllm_sleep_level and files.device.type != "cuda":
        raise ValueError(
            f"vllm_sleep_level = {engine.vllm_sleep_level}: vLLM sleeps on GPUs only; set it to 0, and servers and "
            "learner keep their memory"
        )
    num_gpus = engine.vllm_tensor_parallel * engine.vllm_pipeline_parallel
    if engine.vllm_python and files.device.type == "cuda":
        gpus_of(0, torch.cuda.device_count(), num_gpus)
    context = model_context(files.config)
    return ServerSettings(
        stop_ids=files.stop_ids(params.stop_token_ids),
        dtype=files.dtype,
        context=context,
        max_tokens=min(context, capacity),
        sleep_level=engine.vllm_sleep_level,
        weight_transfer=engine.vllm_weight_transfer,
        num_gpus=num_gpus,
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
    for flag, ranks in (("tensor", engine.vllm_tensor_parallel), ("pipeline", engine.vllm_pipeline_parallel)):
        if ranks > 1:
            arguments += [f"--{flag}-parallel-size", str(ranks), "--distributed-executor-backend", "mp"]
    if settings.sleep_level:
        arguments.append("--enable-sleep-mode")
    if (backend := server_backend(settings.weight_transfer, on_gpu=model.on_gpu)) != "files":
        arguments += ["--weight-transfer-config", json.dumps({"backend": backend})]
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
    answers = client.rpc("deepscaler_prepare", list(model.forbidden_ids))
    built = {name: tuple(shape) for answer in answers for name, shape in answer["shapes"].items()}
    refuse_other_shapes(model.path, built)
    _check_prepared(client, answers, settings)
    transfer, choice = _transfer(client, served, answers, settings, built)
    untruncated = all(answer["untruncated"] for answer in answers)
    return VllmServerEngine(
        client, replace(settings, untruncated=untruncated), is_cancelled, transfer=transfer, choice=choice
    )


def _check_prepared(client: ServerClient, answers: Sequence[Json], settings: ServerSettings) -> None:
    dtype = answers[0]["dtype"]
    if dtype != settings.dtype:
        raise ValueError(
            f"{client.name} holds weights in {dtype}, this run needs {settings.dtype}: start it with "
            f"--dtype {settings.dtype}, or set model.dtype (engine.dtype) = '{dtype}'"
        )
    if any(answer["is_updating"] for answer in answers):
        raise ValueError(
            f"{client.name} is in the middle of an update of its weights that another client began and never finished: "
            "it may hold a mixture of two versions. Start it again"
        )


def _transfer(
    client: ServerClient,
    routes: Collection[str],
    answers: Sequence[Json],
    settings: ServerSettings,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[WeightTransferClient | None, Choice]:
    """vLLM's weight transfer, where it can be used, and why. Raises ValueError where it was asked for and cannot."""
    if settings.weight_transfer == "files":
        return None, Choice("files")
    workers = [Worker.of(answer["transfer"]) for answer in answers]
    learner = LearnerDevices.here()
    choice = choose(settings.weight_transfer, routes, workers, learner, client.name)
    if choice.way == "ipc":
        wire = IpcWire(share_on({worker.gpu: learner.gpus[worker.gpu] for worker in workers}))
        return WeightTransferClient(client, wire, shapes), choice
    if choice.way == "nccl":
        own = torch.device("cuda", learner.gpus[learner.own_gpu])
        return WeightTransferClient(client, NcclWire(len(workers), lambda: NcclGroup(own)), shapes), choice
    return None, choice


def gpus_of(index: int, count: int, each: int) -> list[int]:
    """CUDA devices of server `index`, `each` of them, out of the `count` that this process sees.

    The learner is on the first; servers take the others in turn, and share it where there are not enough others.
    Raises ValueError for more than there are.
    """
    free = list(range(1, count)) if count > each else list(range(count))
    if len(free) < each:
        raise ValueError(
            f"vllm_tensor_parallel and vllm_pipeline_parallel ask for {counted(each, 'GPU')} a server, this machine "
            f"has {count}; lower them"
        )
    first = each * (index % (len(free) // each))
    return free[first : first + each]
