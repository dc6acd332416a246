"""`deepscaler doctor`: what this machine has, and what is missing for which extra. Works without torch."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from deepscaler.observability.counts import counted
from deepscaler.observability.terminal import console

GIB = 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. status: `ok`, `note` (worth knowing) or `missing`."""

    topic: str
    status: str
    text: str


def diagnose() -> list[Finding]:
    """All findings, in the order they are shown. Never raises for what a machine lacks."""
    return [*_machine(), *_torch(), *_packages(), *_programs()]


def show(*, as_json: bool) -> None:
    findings = diagnose()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.topic), Text(finding.status, colours[finding.status]), Text(finding.text))
    console(highlight=False).print(table)


def _machine() -> list[Finding]:
    version = platform.python_version()
    python = Finding("python", "ok", f"{version} on {platform.platform(terse=True)}, {platform.machine()}")
    cores = usable_cores()
    memory = usable_memory()
    free = shutil.disk_usage(Path.cwd()).free
    return [
        python,
        Finding("cores", "ok" if cores >= 2 else "note", f"{cores:g} usable of {os.cpu_count()}"),
        Finding("memory", *_amount(memory, 4, "the quickstart wants about 4 GiB")),
        Finding(
            "disk",
            *_amount(free, 5, "an installation and a run want about 5 GiB"),
        ),
    ]


def _amount(size: int | None, least_gib: int, otherwise: str) -> tuple[str, str]:
    if size is None:
        return "note", "unknown on this system"
    enough = size >= least_gib * GIB
    return ("ok" if enough else "note"), f"{size / GIB:.1f} GiB" + ("" if enough else f"; {otherwise}")


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


def _read_words(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a wheel whose shared libraries do not load here
        return [
            Finding("torch", "missing", f"{error}; install it with `make setup` or `pip install deepscaler`"),
            Finding("gpu", "note", "unknown without torch"),
        ]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    findings = [Finding("torch", "ok", f"{torch.__version__}, {build}, {counted(torch.get_num_threads(), 'thread')}")]
    return [*findings, *_gpus(torch)]


def _gpus(torch: Any) -> list[Finding]:
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi")
        text = "a driver is here but torch sees no GPU; is this torch a CPU build?" if driver else "none: CPU only"
        return [Finding("gpu", "note", text)]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        text = f"{index}: {properties.name}, {properties.total_memory / GIB:.0f} GiB"
        found.append(Finding("gpu", "ok", text))
    return found


def _packages() -> list[Finding]:
    """Core and every extra, from the metadata of the installed distribution."""
    try:
        requirements = metadata.requires("deepscaler") or []
    except metadata.PackageNotFoundError:
        return [Finding("deepscaler", "missing", "not installed as a package; run `make setup`")]
    extras: dict[str, list[str]] = {"": []}
    for line in requirements:
        found = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        extras.setdefault(found[1] if found else "", []).append(line.split(";")[0].strip())
    version = metadata.version("deepscaler")
    return [
        Finding("deepscaler", "ok", version),
        *(_extra(name, needed) for name, needed in extras.items()),
    ]


def _extra(name: str, requirements: list[str]) -> Finding:
    topic = f"extra {name}" if name else "core packages"
    wrong = [problem for line in requirements if (problem := _problem(line))]
    if not wrong:
        versions = ", ".join(f"{p} {metadata.version(p)}" for p in map(_package, requirements))
        return Finding(topic, "ok", versions)
    remedy = f"pip install -c constraints.txt -e '.[{name}]'" if name else "make setup"
    return Finding(topic, "note" if name else "missing", f"{'; '.join(wrong)}. To add: {remedy}")


def _package(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _problem(requirement: str) -> str | None:
    """None when the requirement is met, else what is wrong."""
    package = _package(requirement)
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return None  # versions cannot be compared; being there is all that can be said
    met = Requirement(requirement).specifier.contains(version, prereleases=True)
    return None if met else f"{package} {version} is here, {requirement} is needed"


def _programs() -> list[Finding]:
    browser = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    git = shutil.which("git")
    return [
        Finding("git", "ok" if git else "note", git or "not found: run.json will not name the commit"),
        Finding("chromium", "ok" if browser else "note", browser or "not found: the report's browser test skips"),
    ]
