"""Starts vLLM in this process on the model in a directory.

One process and one device: vLLM's own worker processes are turned off, so the engine ends with this process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deepscaler.engines.sizing import pick_device
from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.held_weights import slots
from deepscaler.engines.vllm_shared.model_files import (
    STEP_TOKENS,
    Limits,
    cpu_cache_arguments,
    model_files_only,
    refuse_other_shapes,
)

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # version 2 does not expose log-probabilities before top-k and top-p
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # grader processes would inherit the binding
}
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}  # unless the environment sets it


def start_vllm(directory: Path, config: Any, dtype: torch.dtype, limits: Limits) -> tuple[Any, Any]:
    """(vLLM's engine, its model runner). config: transformers' configuration of the model.

    Raises ValueError when one sequence does not fit into the cache, or when vLLM builds the model with other shapes.
    """
    cache = _cache_arguments(directory, config, dtype, limits)
    with _this_process_unchanged(), model_files_only(directory) as files:
        engine = _start(files, dtype, limits, cache)
    runner: Any = engine.collective_rpc(lambda worker: worker.model_runner)[0]
    refuse_other_shapes(directory, {slot.name: slot.shape for slot in slots(runner.get_model())})
    return engine, runner


def _start(directory: Path, dtype: torch.dtype, limits: Limits, cache: dict[str, int]) -> Any:
    from vllm import EngineArgs, LLMEngine  # type: ignore[import-not-found]

    _hide_llvmlite()
    on_cpu = pick_device().type == "cpu"
    # A prompt split over two steps has vLLM 0.32 turn back the generator of its request, which no CPU generator can.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(limits.max_tokens, STEP_TOKENS)}
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(directory),
            dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
            skip_tokenizer_init=True,
            max_model_len=limits.max_tokens,
            max_num_seqs=limits.max_active,
            enable_prefix_caching=True,  # prefill the prompt of a group once
            enforce_eager=on_cpu,  # on CPU compiling takes a minute and gains 20%
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # no defaults from the model's directory
            use_tqdm_on_load=False,
            disable_log_stats=True,
            **(whole_prompts if on_cpu else {}),  # type: ignore[arg-type]
            **cache,  # type: ignore[arg-type]
        )
    )


def _hide_llvmlite() -> None:
    """vLLM 0.32 searches `vars` of every object of every loaded module for its kernels, and on CPU fails at llvmlite's
    handle of LLVM, whose `__dict__` is not a dictionary. llvmlite is loaded once the torch engine has sampled."""
    try:
        from vllm.triton_utils import dispatcher  # type: ignore[import-not-found]
    except ImportError:
        return  # a release without this search
    dispatcher.vars = lambda value: found if hasattr(found := vars(value), "get") else {}


def _cache_arguments(directory: Path, config: Any, dtype: torch.dtype, limits: Limits) -> dict[str, int]:
    """On a GPU vLLM chooses both unless the limit is given. Raises ValueError when one sequence does not fit."""
    if pick_device().type == "cuda":
        return {} if limits.max_cache_bytes is None else {"kv_cache_memory_bytes": limits.max_cache_bytes}
    return cpu_cache_arguments(directory, config, dtype, limits)


@contextmanager
def _this_process_unchanged() -> Iterator[None]:
    """Import and start vLLM without its changes to the rest of the process.

    vLLM adds libraries to LD_PRELOAD, which every grader would load, replaces `torch.set_num_threads`, and warns of its
    own use of deprecated interfaces.
    """
    os.environ.update(ENVIRONMENT)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    preload, set_num_threads = os.environ.get("LD_PRELOAD"), torch.set_num_threads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch.set_num_threads = set_num_threads
        os.environ.pop("LD_PRELOAD", None)
        if preload is not None:
            os.environ["LD_PRELOAD"] = preload
