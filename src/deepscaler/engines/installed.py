"""Whether the engine that a recipe names can run in this environment. Loads without torch, as commands ask it first."""

from __future__ import annotations

from collections.abc import Callable

from deepscaler.engines.vllm.installation import require_vllm

# Engines that need a package beside this program's requirements, each with what raises ValueError where it is missing.
REQUIREMENTS: dict[str, Callable[[], object]] = {"vllm": require_vllm}


def require_engine(kind: str) -> None:
    """kind: `rollout.engine` or `engine.kind`. Raises ValueError with instructions where it is not installed."""
    if kind in REQUIREMENTS:
        REQUIREMENTS[kind]()
