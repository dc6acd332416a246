"""`engine = "vllm_server"` that cannot work is refused with one message, before torch is loaded."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.sections.vllm_servers import VllmServersSection
from deepscaler.engines.vllm_server import environment
from deepscaler.engines.vllm_server.environment import require_servers, versions_of
from fake_vllm_server import KEY, FakeVllmServer


def section(**given: Any) -> VllmServersSection:
    return VllmServersSection(**given)


def python_printing(tmp_path: Path, version: str) -> str:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho {version}\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("given", [{}, {"vllm_python": "python", "vllm_urls": ("http://127.0.0.1:1",)}])
def test_servers_come_from_exactly_one_place(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="set one of them"):
        require_servers(section(**given))


def test_an_environment_without_vllm_or_none_at_all_is_refused(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(
            ValueError, match=r"vLLM is not installed in the environment of vllm_python.*make \.venv-vllm"
        ):
            require_servers(section(vllm_python=sys.executable))
    with pytest.raises(ValueError, match=r"cannot be run \(No such file or directory\)"):
        require_servers(section(vllm_python=str(tmp_path / "none")))


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "1.0.0"])
def test_releases_outside_the_window_are_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(ValueError, match=rf"has vLLM {version}; this program uses routes of 0\.32 to 0\.33"):
        require_servers(section(vllm_python=python_printing(tmp_path, version)))


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1.dev3+cpu"])
def test_releases_in_the_window_are_taken(tmp_path: Path, version: str) -> None:
    assert versions_of(section(vllm_python=python_printing(tmp_path, version))) == version


def test_servers_that_cannot_be_reached_or_want_another_key_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 is no vLLM server that can be reached"):
        require_servers(section(vllm_urls=("http://127.0.0.1:9",)))
    with FakeVllmServer() as server:
        monkeypatch.setenv("VLLM_API_KEY", KEY)
        assert versions_of(section(vllm_urls=(server.url,))) == "0.32.0"
        monkeypatch.setenv("VLLM_API_KEY", "another")
        with pytest.raises(
            ValueError, match="answered HTTP 401; its key belongs into the environment variable VLLM_API_KEY"
        ):
            require_servers(section(vllm_urls=(server.url,)))


def test_without_aiohttp_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'deepscaler\[eval\]'"):
        require_servers(section(vllm_python="python"))
