"""vLLM as `engine.kind` and `rollout.engine`: opened over a model directory, and what of it shapes a completion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from deepscaler import cpu
from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.registry import Decode, Engine, ModelFiles, Report, engine_fingerprint, print_note
from deepscaler.engines.sizing import DTYPES
from deepscaler.engines.vllm.engine import VllmEngine
from deepscaler.engines.vllm.installation import require_vllm
from deepscaler.engines.vllm_shared.requests import refuse_stop_strings
from deepscaler.modeling.load import unknown_ids
from deepscaler.protocols import Sampler
from deepscaler.types import SamplingParams


def fingerprint(files: ModelFiles, _: EngineSection) -> dict[str, object]:
    """Raises ValueError where vLLM is not installed."""
    return engine_fingerprint("vllm", files, {"vllm": require_vllm()})


@contextmanager
def open_vllm_engine(
    files: ModelFiles,
    engine: EngineSection,
    *,
    capacity: int,
    params: SamplingParams,
    run_dir: Path | None = None,
    report: Report = print_note,
) -> Iterator[tuple[Sampler, Decode]]:
    """vLLM in this process, on CPU with a thread for each process that the embedded engine would have."""
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
        yield sampler, files.decoder(stop_ids)
    finally:
        sampler.close()
        torch.set_num_threads(threads)


ENGINE = Engine(fingerprint, open_vllm_engine)
