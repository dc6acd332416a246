"""Which way weights take into a vLLM server: files, or vLLM's weight transfer over CUDA IPC or NCCL."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.cuda import nccl
from torch.multiprocessing.reductions import rebuild_cuda_tensor

WeightTransfer = Literal["auto", "files", "ipc", "nccl"]
Way = Literal["files", "ipc", "nccl"]
PHASES = (
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/weight_info",
)
KEY = "vllm_weight_transfer"


@dataclass(frozen=True, slots=True)
class Choice:
    """reason: why files, where something else was possible in principle; for the record of the run."""

    way: Way
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process of a server, as `deepscaler_prepare` reports it.

    backend: of `--weight-transfer-config`, empty for none. gpu: UUID of its GPU, empty on CPU. unpickles: whether it
    takes CUDA IPC handles over HTTP (VLLM_ALLOW_INSECURE_SERIALIZATION=1). handle_arguments: what its torch needs to
    open one. nccl: version.
    """

    backend: str
    gpu: str
    unpickles: bool
    handle_arguments: tuple[str, ...]
    nccl: tuple[str, ...]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Worker:
        arguments, version = tuple(answer["handle_arguments"]), tuple(map(str, answer["nccl"]))
        return cls(answer["backend"], answer["gpu"], bool(answer["unpickles"]), arguments, version)


@dataclass(frozen=True, slots=True)
class LearnerDevices:
    """What this process can send with.

    gpus: UUID -> CUDA device index of every GPU that it sees. own_gpu: UUID of the learner's. Others: as Worker.
    """

    gpus: Mapping[str, int]
    own_gpu: str
    handle_arguments: tuple[str, ...]
    nccl: tuple[str, ...]

    @classmethod
    def here(cls) -> LearnerDevices:
        arguments = tuple(inspect.signature(rebuild_cuda_tensor).parameters)
        if not torch.cuda.is_available():
            return cls({}, "", arguments, ())
        uuids = {str(torch.cuda.get_device_properties(i).uuid): i for i in range(torch.cuda.device_count())}
        own = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        return cls(uuids, own, arguments, tuple(map(str, nccl.version())))


def choose(
    wanted: WeightTransfer, routes: Collection[str], workers: Sequence[Worker], learner: LearnerDevices, server: str
) -> Choice:
    """server: its name, for messages. Raises ValueError where a way was asked for that is not possible."""
    if wanted == "files":
        return Choice("files")
    way, reason = _possible(routes, workers, learner)
    if reason == "" and wanted in ("auto", way):
        return Choice(way)
    if wanted == "auto":
        return Choice("files", reason)
    raise ValueError(
        f"{KEY} = {wanted!r} is not possible with {server}: "
        f"{reason or f'it was started for {way!r}'}. Set {KEY} = 'files', or 'auto', which takes files where it must"
    )


def server_backend(wanted: WeightTransfer, *, on_gpu: bool) -> Way:
    """What a server that we start, on this machine, is started for."""
    if not on_gpu or wanted == "files":
        return "files"
    return "ipc" if wanted == "auto" else wanted


def _possible(routes: Collection[str], workers: Sequence[Worker], learner: LearnerDevices) -> tuple[Way, str]:
    """The way that the server was started for, and what speaks against it; empty for nothing."""
    backends = {worker.backend for worker in workers}
    way: Way = "ipc" if backends == {"ipc"} else "nccl" if backends == {"nccl"} else "files"
    if not all(worker.gpu for worker in workers):
        return way, "its workers run on CPU, and CUDA IPC and NCCL are between GPUs"
    if missing := [path for path in PHASES if path not in routes]:
        return way, f"its release of vLLM has no {', '.join(missing)}"
    if way == "files":
        return way, 'it was started without --weight-transfer-config \'{"backend": "ipc"}\' or "nccl"'
    if not learner.gpus:
        return way, "the learner sees no GPU"
    return way, _against_ipc(workers, learner) if way == "ipc" else _against_nccl(workers, learner)


def _against_ipc(workers: Sequence[Worker], learner: LearnerDevices) -> str:
    if not all(worker.unpickles for worker in workers):
        return "it was started without VLLM_ALLOW_INSECURE_SERIALIZATION=1, and takes no CUDA IPC handles"
    if hidden := [worker.gpu for worker in workers if worker.gpu not in learner.gpus]:
        return f"the learner does not see its GPU {hidden[0]}, and CUDA IPC is between processes on the same GPU"
    if any(worker.handle_arguments != learner.handle_arguments for worker in workers):
        return "its release of torch opens CUDA IPC handles in another form than the learner's"
    return ""


def _against_nccl(workers: Sequence[Worker], learner: LearnerDevices) -> str:
    for worker in workers:
        if worker.nccl != learner.nccl:
            theirs, ours = (".".join(version) or "none" for version in (worker.nccl, learner.nccl))
            return f"its NCCL is {theirs}, the learner's {ours}; all ranks of a group need the same"
    if any(worker.gpu == learner.own_gpu for worker in workers):
        return "it shares the learner's GPU, and NCCL takes one process a GPU"
    return ""
