"""The compiled functions of sampling and learning, made before the first step of an installation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deepscaler import compiled

PACKAGE = Path(__file__).parents[1]
SOURCES = ("compiled/pass_kernels.py", "rollout/kernels.py", "training/attention_kernels.py")


def compile_once(say: Callable[[str], None]) -> None:
    """Compile what is not on disk yet, so that nobody waits without a word and worker processes find it there.

    Without numba nothing happens; every place that would use a compiled function has another way.
    """
    if not compiled.has_numba():
        return
    from deepscaler.compiled.vectors import is_kept

    if not all(is_kept(PACKAGE / source) for source in SOURCES):
        say("compiling for this processor, once per installation (about ten seconds)")
        compile_all()


def compile_all() -> None:
    """Importing is what compiles."""
    from deepscaler.compiled import pass_kernels
    from deepscaler.rollout import kernels
    from deepscaler.training import attention_kernels

    assert pass_kernels and kernels and attention_kernels
