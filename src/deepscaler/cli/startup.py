"""How a computing command starts: its first line, its heavy imports, threads and signals."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deepscaler import cpu
from deepscaler.loop.progress import Progress


@contextmanager
def loading(line: str = "") -> Iterator[None]:
    """Around the imports of a computing command, which take seconds: says so first, in a line on the screen.

    Garbage collection, a quarter of their time, is off for them.
    The imports make 700,000 objects that stay to the end. It would go through them again and again, now and in
    the run; what the first imports made is left out of that for good.
    """
    if line:
        print(line, flush=True)
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def prepare() -> Progress:
    """Threads, allocator and progress for a computing command."""
    cpu.prepare(threads=1 if not _cuda() else cpu.available_cores())
    # SIGTERM behaves like Ctrl-C where the training loop does not take over (evaluation, sft).
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return Progress()


def prepare_for_training() -> Progress:
    """`prepare`, and the kernels that training needs on CPU."""
    progress = prepare()
    if not _cuda():
        cpu.compile_kernels(progress.message)
    return progress


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
