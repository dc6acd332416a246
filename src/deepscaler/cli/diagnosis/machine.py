"""What this machine has: cores, memory, disk, limits, torch and GPUs. Works without torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepscaler.cli.diagnosis.finding import GIB, Finding, amount
from deepscaler.observability.counts import counted

WANTED_FILES = 65536
NVIDIA_SMI_LIMIT_S = 10


def machine(directory: Path) -> Iterator[Finding]:
    """directory: where a run would write; its nearest existing parent is looked at."""
    version = platform.python_version()
    yield Finding("python", "ok", f"{version} on {platform.platform(terse=True)}, {platform.machine()}")
    cores = usable_cores()
    yield Finding("cores", "ok" if cores >= 2 else "note", f"{cores:g} usable of {os.cpu_count()}")
    yield amount("memory", usable_memory(), 4 * GIB, "the quickstart needs about 4 GiB")
    yield amount("disk", free_disk(directory), 5 * GIB, "an installation and a run need about 5 GiB")
    yield from _shared_memory()
    yield from _open_files()


def usable_cores() -> float:
    """Cores this process may use: affinity and the container's quota, whichever is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_words("/sys/fs/cgroup/cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        return min(float(allowed), round(int(quota[0]) / int(quota[1]), 1))
    return float(allowed)


def usable_memory() -> int | None:
    """Bytes available now, or the container's limit if that is smaller; None where /proc does not tell."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", " ".join(_read_words("/proc/meminfo")))
    sizes = [int(found[1]) * 1024] if found else []
    limit = _read_words("/sys/fs/cgroup/memory.max")
    if limit and limit[0].isdecimal():
        sizes.append(int(limit[0]))
    return min(sizes, default=None)


def free_disk(directory: Path) -> int:
    """Bytes free where this directory is or will be."""
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _shared_memory() -> Iterator[Finding]:
    """Processes of a run share weights and gradients there, Ray its objects."""
    place = Path("/dev/shm")
    if place.is_dir():
        remedy = "weights are shared there between processes; in Docker --ipc=host or --shm-size=8g"
        yield amount("/dev/shm", shutil.disk_usage(place).total, GIB, remedy)


def _open_files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft == resource.RLIM_INFINITY or soft >= WANTED_FILES:
        yield Finding("open files", "ok", shown)
    else:
        allowed = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
        remedy = f"`ulimit -n {allowed}`" if allowed > soft else "the system's hard limit must be raised first"
        yield Finding("open files", "note", f"{shown}; Ray and servers of many engines need up to 65536: {remedy}")


def _read_words(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


def torch_and_gpus() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a wheel whose shared libraries do not load here
        remedy = "install it with `make setup` or `pip install deepscaler`"
        yield Finding("torch", "missing", f"{error}; {remedy}")
        yield Finding("gpu", "note", "unknown without torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", "ok", f"{torch.__version__}, {build}, {counted(torch.get_num_threads(), 'thread')}")
    yield from _gpus(torch)


def _gpus(torch: Any) -> Iterator[Finding]:
    driver = nvidia_driver()
    if not torch.cuda.is_available():
        text = f"driver {driver} is here but torch sees no GPU; is this torch a CPU build?"
        yield Finding("gpu", "note", text if driver else "none: CPU only")
        return
    if driver:
        yield Finding("driver", "ok", driver)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bfloat16 = (properties.major, properties.minor) >= (8, 0)
        text = f"{index}: {properties.name}, {properties.total_memory / GIB:.0f} GiB"
        slow = "no bfloat16 in hardware: set model.dtype = 'float32'"
        yield Finding("gpu", "ok" if bfloat16 else "note", f"{text}, {'bfloat16' if bfloat16 else slow}")


def nvidia_driver() -> str | None:
    """Version of the driver, `unknown` where nvidia-smi does not answer; None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(done.stdout.split()), "unknown")


def num_gpus() -> int:
    """That torch sees; 0 without torch."""
    try:
        import torch
    except (ImportError, OSError):
        return 0
    return torch.cuda.device_count()
