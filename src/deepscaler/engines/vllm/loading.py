"""Starts vLLM in this process on the model in a directory.

One process and one device: vLLM's own worker processes are turned off, so the engine ends with this process.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepscaler.engines.sizing import CACHE_SHARE, bytes_per_token, cache_bytes, pick_device
from deepscaler.engines.vllm.weights import model_files_only, slots
from deepscaler.modeling.files import file_shapes
from deepscaler.observability.counts import counted

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # version 2 does not expose log-probabilities before top-k and top-p
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # grader processes would inherit the binding
}
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}  # unless the environment sets it
CPU_BLOCK_TOKENS = 32
STEP_TOKENS = 2048  # prompt tokens of a step on CPU: vLLM's own default


@dataclass(frozen=True, slots=True)
class Limits:
    """max_tokens: most tokens of prompt and completion together. max_active, max_cache_bytes: as of `VllmEngine`."""

    max_active: int
    max_tokens: int
    max_cache_bytes: int | None


def start_vllm(directory: Path, config: Any, dtype: torch.dtype, limits: Limits) -> tuple[Any, Any]:
    """(vLLM's engine, its model runner). config: transformers' configuration of the model.

    Raises ValueError when one sequence does not fit into the cache, or when vLLM builds the model with other shapes.
    """
    cache = _cache_arguments(directory, config, dtype, limits)
    with _this_process_unchanged(), model_files_only(directory) as files:
        engine = _start(files, dtype, limits, cache)
    runner: Any = engine.collective_rpc(lambda worker: worker.model_runner)[0]
    _check_shapes(directory, runner.get_model())
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
    """Block size and bytes of the cache for all sequences decoded at once, within the limit.

    On a GPU vLLM chooses both unless the limit is given. Raises ValueError when one sequence does not fit.
    """
    if pick_device().type == "cuda":
        return {} if limits.max_cache_bytes is None else {"kv_cache_memory_bytes": limits.max_cache_bytes}
    weight_bytes = dtype.itemsize * sum(map(math.prod, file_shapes(directory).values()))  # not loaded yet
    limit = limits.max_cache_bytes or cache_bytes(torch.device("cpu"), 1) - int(CACHE_SHARE["cpu"] * weight_bytes)
    blocks = -(-limits.max_tokens // CPU_BLOCK_TOKENS)
    block_bytes = CPU_BLOCK_TOKENS * bytes_per_token(config, dtype)
    if limit < (blocks + 1) * block_bytes:  # one block is vLLM's own
        raise ValueError(
            f"a sequence of {counted(limits.max_tokens, 'token')} does not fit into a cache of "
            f"{counted(limit, 'byte')}; lower max_completion_tokens or give the cache more memory"
        )
    wanted = (limits.max_active * blocks + 1) * block_bytes
    return {"block_size": CPU_BLOCK_TOKENS, "kv_cache_memory_bytes": min(wanted, limit // block_bytes * block_bytes)}


def _check_shapes(directory: Path, model: Any) -> None:
    """Raises ValueError when vLLM built the model with other shapes than its files have.

    vLLM 0.32 computes the width of a Qwen2 head as hidden_size / num_attention_heads, ignores `head_dim`, and then
    silently loads the first rows of each projection.
    """
    built = {slot.name: slot.shape for slot in slots(model)}
    for name, shape in file_shapes(directory).items():
        if name in built and shape != built[name]:
            raise ValueError(
                f"vLLM cannot run {directory}: weight {name} is {shape} in its files, and vLLM built the model with "
                f"{built[name]}, probably because it ignores head_dim for this family; use the torch engine "
                "(--engine torch; in training rollout.engine = 'torch')"
            )


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
