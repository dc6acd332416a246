"""The files of a model as vLLM gets them, and the size of its key-value cache on CPU."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepscaler.engines.sizing import CACHE_SHARE, bytes_per_token, cache_bytes
from deepscaler.modeling.files import file_shapes, weight_files
from deepscaler.observability.counts import counted

CPU_BLOCK_TOKENS = 32
STEP_TOKENS = 2048  # prompt tokens of a step on CPU: vLLM's own default


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one engine.

    max_active: sequences decoded at once. max_tokens: most tokens of prompt and completion together. max_cache_bytes:
    upper limit of the key-value cache; None is 60% of the free memory on CPU, vLLM's own choice on a GPU.
    """

    max_active: int
    max_tokens: int
    max_cache_bytes: int | None = None


@contextmanager
def model_files_only(directory: Path) -> Iterator[Path]:
    """A directory with links to the files of the model: vLLM reads every file of weights that it finds."""
    chosen = set(weight_files(directory))
    with tempfile.TemporaryDirectory(prefix="deepscaler-vllm-") as temporary:
        for path in directory.iterdir():
            if path.is_file() and (path.suffix != ".safetensors" or path in chosen):
                (Path(temporary) / path.name).symlink_to(path.resolve())
        yield Path(temporary)


def cpu_cache_arguments(
    directory: Path, config: Any, dtype: torch.dtype, limits: Limits, *, num_engines: int = 1
) -> dict[str, int]:
    """Block size and bytes of the cache on CPU: for all sequences decoded at once, within the limit.

    num_engines: that share the free memory. Raises ValueError when not even one sequence fits.
    """
    weight_bytes = dtype.itemsize * sum(map(math.prod, file_shapes(directory).values()))  # not loaded yet
    free = cache_bytes(torch.device("cpu"), num_engines)
    limit = limits.max_cache_bytes or free - int(CACHE_SHARE["cpu"] * weight_bytes)
    blocks = -(-limits.max_tokens // CPU_BLOCK_TOKENS)
    block_bytes = CPU_BLOCK_TOKENS * bytes_per_token(config, dtype)
    if limit < (blocks + 1) * block_bytes:  # one block is vLLM's own
        raise ValueError(
            f"a sequence of {counted(limits.max_tokens, 'token')} does not fit into a cache of "
            f"{counted(limit, 'byte')}; lower max_completion_tokens or give the cache more memory"
        )
    wanted = (limits.max_active * blocks + 1) * block_bytes
    return {"block_size": CPU_BLOCK_TOKENS, "kv_cache_memory_bytes": min(wanted, limit // block_bytes * block_bytes)}


def refuse_other_shapes(directory: Path, built: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError when vLLM built the model with other shapes than its files have. built: name -> shape.

    vLLM 0.32 computes the width of a Qwen2 head as hidden_size / num_attention_heads, ignores `head_dim`, and then
    silently loads the first rows of each projection.
    """
    for name, shape in file_shapes(directory).items():
        if name in built and shape != built[name]:
            raise ValueError(
                f"vLLM cannot run {directory}: weight {name} is {shape} in its files, and vLLM built the model with "
                f"{built[name]}, probably because it ignores head_dim for this family; use the torch engine "
                "(--engine torch; in training rollout.engine = 'torch')"
            )
