"""On which device an engine runs, in which number type, and how many sequences its cache holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deepscaler.observability.counts import counted

# Of the free memory. Activations need the rest, and on CPU a copy while the cache grows.
CACHE_SHARE = {"cpu": 0.6, "cuda": 0.8}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> str:
    """The name of a number type; `auto`: bfloat16 on a GPU, float32 on CPU, where bfloat16 is emulated."""
    return name if name != "auto" else "bfloat16" if device.type == "cuda" else "float32"


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """What one token of one sequence takes in the cache: keys and values of every layer."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize


def slots_that_fit(config: Any, dtype: torch.dtype, device: torch.device, *, capacity: int, most: int) -> int:
    """Sequences of `capacity` tokens decoded at once, at most `most`. Raises ValueError when not even one fits."""
    fits = int(_free_bytes(device) * CACHE_SHARE[device.type] / (bytes_per_token(config, dtype) * capacity))
    if fits < 1:
        raise ValueError(
            f"the cache of one sequence of {counted(capacity, 'token')} does not fit into the free memory; lower the "
            "budget "
            "(--max-tokens, --context)"
        )
    return min(fits, most)


def cache_bytes(device: torch.device, processes: int) -> int:
    """The most that the cache of one of `processes` engines may take, of what is free now."""
    return int(_free_bytes(device) * CACHE_SHARE[device.type] / processes)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch holds without using it counts as free
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30  # where the system does not say
