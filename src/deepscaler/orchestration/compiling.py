"""The compiled functions of sampling and learning, made before the first step of an installation."""

from __future__ import annotations

from collections.abc import Callable

from deepscaler import compiled

SOURCES = ("compiled/pass_kernels.py", "engines/torch/kernels.py", "training/attention_kernels.py")


def compile_once(say: Callable[[str], None]) -> None:
    """Compile what is not on disk yet, so that nobody waits without a word and worker processes find it there.

    Without numba nothing happens; every place that would use a compiled function has another way.
    """
    if not compiled.has_numba():
        return
    from deepscaler.compiled import disk_cache

    sources = [disk_cache.PACKAGE / source for source in SOURCES]
    if not all(disk_cache.folder(source).is_dir() for source in sources):
        say("compiling for this processor, once per installation (about ten seconds)")
        disk_cache.ensure(sources)
