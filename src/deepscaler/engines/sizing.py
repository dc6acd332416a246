"""Device and dtype of an engine, and the size of its key-value cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deepscaler.observability.counts import counted

# Fraction of the free memory. Activations need the rest, and on CPU a copy while the cache grows.
CACHE_SHARE = {"cpu": 0.6, "cuda": 0.8}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> str:
    """The name of a dtype; `auto`: bfloat16 on a GPU, float32 on CPU, where bfloat16 is emulated."""
    return name if name != "auto" else "bfloat16" if device.type == "cuda" else "float32"


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of one token in the cache: keys and values of every layer."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads  # older architectures have one for each
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * kv_heads * head_dim * dtype.itemsize


def max_sequences(config: Any, dtype: torch.dtype, device: torch.device, *, capacity: int, most: int) -> int:
    """The number of sequences of `capacity` tokens that fit the cache, at most `most`. Raises ValueError for none."""
    fits = int(_free_bytes(device) * CACHE_SHARE[device.type] / (bytes_per_token(config, dtype) * capacity))
    if fits < 1:
        raise ValueError(
            f"the key-value cache of one sequence of {counted(capacity, 'token')} does not fit into the free memory; "
            "lower --max-tokens or --context"
        )
    return min(fits, most)


def cache_bytes(device: torch.device, processes: int) -> int:
    """Upper limit of the cache of one of `processes` engines, from the memory that is free now."""
    return int(_free_bytes(device) * CACHE_SHARE[device.type] / processes)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory that torch reserves without using it counts as free
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30  # the system does not report it
