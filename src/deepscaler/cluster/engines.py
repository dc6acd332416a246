"""The engines in this process that an evaluation can ask for, by their names in its recipe (`engine.kind`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from deepscaler import cpu
from deepscaler.cluster.embedded import ModelFiles, open_torch_engine
from deepscaler.config.evaluation import EngineSection
from deepscaler.data.templates import decoder
from deepscaler.engines.sizing import DTYPES
from deepscaler.observability.environment import package_versions
from deepscaler.protocols import Sampler
from deepscaler.training.model import unknown_ids
from deepscaler.types import SamplingParams

Decode = Callable[[Any], str]


class Open(Protocol):
    """Starts the engine; it ends with the context. capacity: tokens of prompt and completion. params: what ends one."""

    def __call__(
        self, files: ModelFiles, engine: EngineSection, *, capacity: int, params: SamplingParams
    ) -> AbstractContextManager[tuple[Sampler, Decode]]: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """facts: what of the engine shapes a completion; raises ValueError where it is not installed."""

    facts: Callable[[ModelFiles], dict[str, Any]]
    open: Open


def torch_facts(dtype: str, device: str) -> dict[str, Any]:
    """What of the embedded engine shapes a completion."""
    versions = package_versions(("deepscaler", "torch", "transformers"))
    return {"kind": "torch", "versions": versions, "dtype": dtype, "device": device}


def vllm_facts(files: ModelFiles) -> dict[str, Any]:
    from deepscaler.engines.vllm.engine import require_vllm

    versions = {"vllm": require_vllm(), **package_versions(("deepscaler", "torch", "transformers"))}
    return {"kind": "vllm", "versions": versions, "dtype": files.dtype, "device": files.device.type, **files.facts()}


@contextmanager
def open_vllm_engine(
    files: ModelFiles, engine: EngineSection, *, capacity: int, params: SamplingParams
) -> Iterator[tuple[Sampler, Decode]]:
    """vLLM in this process, on CPU with a thread for each process that the embedded engine would have."""
    from deepscaler.engines.vllm.engine import VllmEngine, refuse_stop_strings

    refuse_stop_strings(params)
    stop_ids = files.stop_ids(params.stop_token_ids)
    threads = torch.get_num_threads()
    torch.set_num_threads(engine.processes or cpu.available_cores())
    sampler = VllmEngine(
        files.directory,
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
    "torch": Engine(lambda files: {**torch_facts(files.dtype, files.device.type), **files.facts()}, open_torch_engine),
    "vllm": Engine(vllm_facts, open_vllm_engine),
}
