"""Process-wide settings for computing on CPU: acceleration on or off, cores, threads, allocator."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

ACCELERATION = "DEEPSCALER_CPU_ACCELERATION"  # environment: 0 switches acceleration off
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 2**30
# oneDNN compiles a kernel for every shape it meets (0.2-0.5 ms, half a megabyte) and keeps 1,024 of them by default.
# Attention and decoding repeat some dozens of shapes, packed rows hardly ever one.
_KEPT_KERNELS = "192"


@functools.cache
def is_accelerated() -> bool:
    """Whether kernels and oneDNN's products are used on CPU. Raises ValueError for a value other than 0 and 1."""
    value = os.environ.get(ACCELERATION, "1")
    if value not in ("0", "1"):
        raise ValueError(f"the environment variable {ACCELERATION} is {value!r}; set it to 0 (plain torch), or to 1")
    return value == "1"


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system after every large tensor.

    Otherwise each activation above 32 MiB is mapped and its pages faulted in anew: measured at a factor of 3-5 for
    copies and 1.5 for narrow matrix products (docs/benchmarks.md). No effect where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(threads: int) -> None:
    """Set the allocator, oneDNN's cache of kernels (unless the environment does) and torch's thread count.

    Call once, before the first large tensor.

    One thread a process is the robust choice on CPU: when another program takes one of the cores, every parallel
    region of a multi-threaded product waits for it, which was measured to slow training down 30 times, while
    processes that meet once a step lose only what the other program takes.
    """
    import torch

    keep_freed_memory()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_KERNELS)  # read at the first product
    torch.set_num_threads(threads)
