"""The weights that vLLM's model in this process samples from, and their digest."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.held_weights import held_weights, unsigned
from deepscaler.modeling.weights import weights_digest
from deepscaler.types import RunError


def unsigned_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Digest without the signs of zeros, which are lost where a packed matrix is read back by a matmul."""
    return weights_digest(unsigned(weights))


def held_digest(model: nn.Module) -> str:
    """`unsigned_digest` of what sampling uses now. Raises RunError when a tied head differs from the embedding."""
    try:
        return unsigned_digest(held_weights(model))
    except RuntimeError as error:
        raise RunError(str(error)) from error
