"""What is installed of the package's requirements, by their metadata; nothing of it is imported."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib import metadata

from deepscaler.cli.diagnosis.finding import Finding
from deepscaler.engines.vllm.installation import vllm_version


def packages() -> Iterator[Finding]:
    """Core, every extra, and vLLM, which no extra brings."""
    try:
        requirements = metadata.requires("deepscaler") or []
    except metadata.PackageNotFoundError:
        yield Finding("deepscaler", "missing", "not installed as a package; run `make setup`")
        return
    extras: dict[str, list[str]] = {"": []}
    for line in requirements:
        found = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        extras.setdefault(found[1] if found else "", []).append(line.split(";")[0].strip())
    yield Finding("deepscaler", "ok", metadata.version("deepscaler"))
    yield from (_extra(name, needed) for name, needed in extras.items())
    version = vllm_version()
    otherwise = "not installed here: rollout.engine = 'vllm' needs it in this environment"
    yield Finding("vllm", "ok" if version else "note", version or otherwise)


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


def programs() -> Iterator[Finding]:
    browser = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    git = shutil.which("git")
    yield Finding("git", "ok" if git else "note", git or "not found: run.json will not name the commit")
    yield Finding("chromium", "ok" if browser else "note", browser or "not found: the report's browser test skips")
