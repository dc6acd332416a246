"""What a run ran on: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("deepscaler", "torch", "transformers", "numpy", "pyarrow", "safetensors", "pydantic")


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions, without importing the packages; absent ones are left out."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the source tree this package runs from, with `+changes` when it differs; None outside git."""
    source = Path(__file__).resolve().parent
    try:
        commit = _git(source, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(source, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware() -> dict[str, object]:
    """Processor, usable cores, memory in GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {"cpu": cpu_name(), "cores": cores, "memory_gib": round(pages / 2**30, 1)}


def run_info(recipe_digest: str, model: str, device: Mapping[str, str]) -> dict[str, object]:
    """The content of run.json. device: what computes besides the processor (`model_directory.device_metadata`)."""
    return {
        "started": time.time(),
        "model": model,
        "recipe_digest": recipe_digest,
        "python": platform.python_version(),
        "versions": package_versions(),
        "hardware": {**hardware(), **device},
        "git_commit": git_commit(),
    }
