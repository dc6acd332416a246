"""What every benchmark record holds, and its place in docs/benchmarks.md."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markers import replace_between_markers

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("torch", "transformers", "trl", "numpy")


def machine() -> dict[str, Any]:
    """Date, processor, memory and versions, for the record and the line under a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    meminfo = Path("/proc/meminfo")
    kib = int(meminfo.read_text().split()[1]) if meminfo.is_file() else 0
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "memory_gib": round(kib / 2**20),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def with_range(value: dict[str, float], digits: int = 2) -> str:
    """A median with its range, as tables show it."""
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}–{value['high']:.{digits}f})"


def write_table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str, info: dict[str, Any]
) -> None:
    """Replace what stands between the markers of `name` in docs/benchmarks.md. Raises ValueError without markers."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    where = ", ".join(f"{key} {value}" for key, value in info.items())
    replace_between_markers(PAGE, name, "\n".join(lines) + f"\n\n{note}\n\n{where}.")
