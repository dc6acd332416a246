"""The engines in this process by their names: `engine.kind` of an evaluation, `rollout.engine` of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from deepscaler import cpu
from deepscaler.cluster.embedded import open_torch_engine
from deepscaler.config.evaluation import EngineSection
from deepscaler.data.templates import decoder
from deepscaler.engines.sizing import DTYPES
from deepscaler.model_directory import ModelDirectory
from deepscaler.modeling.load import unknown_ids
from deepscaler.observability.environment import package_versions
from deepscaler.protocols import Sampler
from deepscaler.types import IntArray, SamplingParams

Decode = Callable[[IntArray], str]


class Open(Protocol):
    """Starts the engine; it ends with the context. capacity: tokens of prompt and completion. params: what ends one."""

    def __call__(
        self, files: ModelDirectory, engine: EngineSection, *, capacity: int, params: SamplingParams
    ) -> AbstractContextManager[tuple[Sampler, Decode]]: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """fingerprint: what of the engine shapes a completion; raises ValueError where it is not installed."""

    fingerprint: Callable[[ModelDirectory], dict[str, object]]
    open: Open


def engine_fingerprint(
    kind: str, dtype: str, device: str, stopping: Mapping[str, object], versions: Mapping[str, str] | None = None
) -> dict[str, object]:
    """What of an engine shapes a completion: the settings of `EngineSection` that do, resolved, and its environment.

    stopping: `model_directory.stopping_fingerprint`. versions: of packages beside ours, torch and transformers.
    """
    packages = {**(versions or {}), **package_versions(("deepscaler", "torch", "transformers"))}
    return {"kind": kind, "versions": packages, "dtype": dtype, "device": device, **stopping}


def _torch_fingerprint(files: ModelDirectory) -> dict[str, object]:
    return engine_fingerprint("torch", files.dtype, files.device.type, files.stopping_fingerprint())


def _vllm_fingerprint(files: ModelDirectory) -> dict[str, object]:
    from deepscaler.engines.vllm.engine import require_vllm

    versions = {"vllm": require_vllm()}
    return engine_fingerprint("vllm", files.dtype, files.device.type, files.stopping_fingerprint(), versions)


@contextmanager
def open_vllm_engine(
    files: ModelDirectory, engine: EngineSection, *, capacity: int, params: SamplingParams
) -> Iterator[tuple[Sampler, Decode]]:
    """vLLM in this process, on CPU with a thread for each process that the embedded engine would have."""
    from deepscaler.engines.vllm.engine import VllmEngine, refuse_stop_strings

    refuse_stop_strings(params)
    stop_ids = files.stop_ids(params.stop_token_ids)
    threads = torch.get_num_threads()
    torch.set_num_threads(engine.processes or cpu.available_cores())
    sampler = VllmEngine(
        files.path,
        stop_ids=stop_ids,
        dtype=DTYPES[files.dtype],
        max_active=engine.max_active,
        max_tokens=capacity,
        forbidden_ids=unknown_ids(files.tokenizer, files.config.vocab_size),
    )
    try:
        yield sampler, decoder(files.tokenizer, stop_ids)
    finally:
        sampler.close()
        torch.set_num_threads(threads)


ENGINES = {
    "torch": Engine(_torch_fingerprint, open_torch_engine),
    "vllm": Engine(_vllm_fingerprint, open_vllm_engine),
}
