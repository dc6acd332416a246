"""How far a model's positions reach, and one set of rotations for all sequences of a run.

With longrope and dynamic scaling transformers chooses the rotations by the longest sequence of each forward pass. An
engine that keeps keys would then mix several sets, and a learner that sees whole sequences would compute another
policy than the one that was sampled (measured: 6.7 nats). vLLM likewise takes one set for all positions.
"""

from __future__ import annotations

from typing import Any

import torch

from deepscaler.config.context import context_limit
from deepscaler.observability.counts import counted

SHORTER = "give them fewer tokens (max_completion_tokens, --max-tokens, --context)"
UNLIMITED = 2**31  # tokens: recurrent models, and those whose attention only decays with distance
FITTED = "fitted"  # as rotary type: the rotations stay as they are


def model_context(config: Any) -> int:
    """Tokens of prompt and completion that the model of a transformers configuration takes; UNLIMITED without one."""
    own = getattr(config, "max_position_embeddings", None)  # which some architectures store under another name
    return UNLIMITED if own is None else context_limit({**config.to_dict(), "max_position_embeddings": own})


def fit_positions(model: Any, longest: int) -> None:
    """Prepare the model for sequences of at most `longest` tokens; to be called before it is copied or sampled from.

    Raises ValueError when its context is shorter.
    """
    limit = model_context(model.config)
    if longest > limit:
        raise ValueError(
            f"sequences of {counted(longest, 'token')} exceed the model's context of {limit}; {SHORTER}, or choose a "
            "model with a longer context"
        )
    rotary: Any = getattr(model.base_model, "rotary_emb", None)
    if changes_with_length(rotary):
        with torch.no_grad():
            device = rotary.inv_freq.device
            rotary(torch.zeros(1, device=device), torch.tensor([[longest - 1]], device=device))
        rotary.rope_type = FITTED
        model.longest_fitted = longest


def cast_parameters(model: Any, dtype: torch.dtype) -> Any:
    """The same model with parameters of that type and float32 rotations.

    `model.to(dtype)` rounds the rotations' frequencies as well. In bfloat16 that is 0.2% of an angle, whole turns after
    a few thousand tokens: measured 0.3 nats a token at 8K.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def check_rotations(model: Any) -> None:
    """Raises ValueError where `model.to(dtype)` has rounded the frequencies of the rotations."""
    rounded = {
        buffer.dtype
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and buffer.dtype in (torch.bfloat16, torch.float16)
    }
    if rounded:
        raise ValueError(
            f"the model's rotary frequencies were rounded to {rounded.pop()}, as model.to(dtype) does: positions far "
            "from the start would be confused; load the weights in that type, or use "
            "deepscaler.modeling.positions.cast_parameters"
        )


def fitted_context(model: Any) -> int:
    """Tokens that the model takes as it was prepared."""
    return min(model_context(model.config), getattr(model, "longest_fitted", 2**62))


def changes_with_length(rotary: Any) -> bool:
    """Whether the rotations of a forward pass depend on its longest sequence."""
    kinds = getattr(rotary, "rope_type", "default")  # or one for every type of layer
    return any(
        kind == "longrope" or "dynamic" in kind for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])
    )
