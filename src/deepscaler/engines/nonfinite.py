"""Check for NaN and infinite logits."""

from __future__ import annotations

from torch import Tensor

from deepscaler.types import RunError

NON_FINITE = (
    "the model returned non-finite logits while sampling; its weights or activations overflowed. Go back to "
    'an earlier checkpoint, lower optimizer.learning_rate, or use model.dtype = "float32"'
)


def check_finite(logprobs_N: Tensor) -> None:
    """Raises RunError when the logits of any of these log-probabilities were not finite."""
    if not bool(logprobs_N.isfinite().all()):
        raise RunError(NON_FINITE)
