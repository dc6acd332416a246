"""The context length of a model, from its config.json, and the ranks that can share a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepscaler.json_text import parse_json

STRETCHED = ("yarn", "linear", "dynamic", "longrope")


def context_limit(config: Mapping[str, Any]) -> int:
    """Maximum tokens of prompt and completion of a model.

    config: the content of config.json, or `to_dict()` of a transformers configuration. RoPE scaling (yarn, linear,
    dynamic) extends it to factor * original; some models already give that as max_position_embeddings.
    """
    own = int(config["max_position_embeddings"])
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) not in STRETCHED:
        return own
    original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or own
    return max(own, int((rope.get("factor") or 1.0) * original))


def check_context_parallel(num_ranks: int, num_heads: int) -> None:
    """Raises ValueError where the attention heads of a model cannot be dealt out evenly to the ranks of a sequence."""
    if num_heads % num_ranks:
        divisors = ", ".join(str(n) for n in range(1, num_heads + 1) if num_heads % n == 0)
        raise ValueError(
            f"training.context_parallel = {num_ranks} does not divide the {num_heads} attention heads of the model, of "
            f"which every rank computes as many; set it to one of {divisors}"
        )


def context_of_directory(path: str | Path) -> int | None:
    """The limit of a local model directory; None if there is no readable config."""
    try:
        return context_limit(parse_json((Path(path) / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
