"""Speed on CPU: `accelerate`, operations with a torch reference beside each, and process-wide settings.

Importing this package loads neither torch nor numba; numba is loaded by the first operation that runs a kernel.
DEEPSCALER_CPU_ACCELERATION=0 switches all of it off: then plain torch computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepscaler.cpu.settings import available_cores, is_accelerated, keep_freed_memory, prepare

__all__ = ["accelerate", "available_cores", "compile_kernels", "is_accelerated", "keep_freed_memory", "prepare"]


def accelerate(model: Any, parts: Callable[[Any], Any] | None, device: Any = None) -> Any:
    """Let the model's layers compute through this package; returns the model, whose modules and weights stay.

    Called wherever a model is loaded or built. A model that is not in float32 on CPU stays as it is.
    parts: the modules of a layer by what they compute, `family_of(model).parts`; None where its layers stay its own.
    device: where the weights will be, for a model on the meta device.
    """
    import torch

    from deepscaler.cpu.dispatch import can_accelerate
    from deepscaler.cpu.layers import use_fused_layers
    from deepscaler.cpu.matmul import use_onednn

    weight = model.get_input_embeddings().weight
    if can_accelerate(torch.empty(0, dtype=weight.dtype, device=device or weight.device)):
        use_onednn(model)
        use_fused_layers(model, parts)
    return model


def compile_kernels(say: Callable[[str], None]) -> None:
    """Compile what is not on disk yet, so that nobody waits without a word and worker processes find it there."""
    if is_accelerated():
        from deepscaler.cpu.kernels import disk_cache

        disk_cache.compile_all(say)
