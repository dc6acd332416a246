"""The process of a vLLM server: its last words, its end, and the end of all its processes with ours.

vLLM is replaced by a module that starts a process of its own, as vLLM does, and answers /health.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from child_pythonpath import PYTHONPATH
from deepscaler.engines.vllm_server.process import ServerProcess
from deepscaler.types import RunError

SERVER = """
import multiprocessing, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from vllm.core import engine

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        right = self.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if right else 401)
        self.end_headers()

if __name__ == "__main__":
    if "--fail" in sys.argv:
        print("the weights are too large for this device")
        sys.exit(3)
    multiprocessing.get_context("spawn").Process(target=engine, args=(sys.argv[1],)).start()
    port = int(sys.argv[sys.argv.index("--port") + 1])
    HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""
ENGINE = """
import os, pathlib, time

def engine(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(600)
"""
OWNER = """
import sys, time
from pathlib import Path
from deepscaler.engines.vllm_server.process import ServerProcess
process = ServerProcess(Path(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]))
print(process.pid, flush=True)
time.sleep(600)
"""
LIMIT_S = 60.0


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python whose environment has the stand-in."""
    package = tmp_path / "environment" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(SERVER)
    (tmp_path / "environment" / "vllm" / "core.py").write_text(ENGINE)
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="$PYTHONPATH:{tmp_path / "environment"}"\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return script


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + LIMIT_S
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_ends_before_it_is_ready_leaves_its_last_lines_in_the_error(python: Path, tmp_path: Path) -> None:
    process = ServerProcess(python, ["--fail"], tmp_path / "server.log")
    with pytest.raises(
        RunError, match=r"exit code 3 before it was ready; its last lines \(.*server\.log\):\nthe weights are too large"
    ):
        process.wait_until_ready(lambda: False, LIMIT_S)
    process.stop()


def test_a_server_that_is_never_ready_is_given_up(python: Path, tmp_path: Path) -> None:
    process = ServerProcess(python, [str(tmp_path / "engine")], tmp_path / "server.log")
    with pytest.raises(RunError, match=r"was not ready within 0 s"):
        process.wait_until_ready(lambda: False, 0.0)
    engine = wait_for(tmp_path / "engine")
    process.stop()
    assert not is_running(process.pid) and not is_running(engine)


def test_a_server_outlives_the_thread_that_asked_for_it(python: Path, tmp_path: Path) -> None:
    started: list[ServerProcess] = []

    def start() -> None:
        started.append(ServerProcess(python, [str(tmp_path / "engine")], tmp_path / "server.log"))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(LIMIT_S)
    wait_for(tmp_path / "engine")
    assert started[0].is_alive
    started[0].stop()


def test_a_python_that_cannot_be_run_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be run \(No such file or directory\); rollout\.vllm_python"):
        ServerProcess(tmp_path / "none", [], tmp_path / "server.log")


def test_no_process_of_the_server_outlives_a_killed_owner(python: Path, tmp_path: Path) -> None:
    arguments = [str(python), str(tmp_path / "engine"), str(tmp_path / "server.log")]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert owner.stdout is not None
    server = int(owner.stdout.readline())
    engine = wait_for(tmp_path / "engine")
    owner.send_signal(signal.SIGKILL)
    owner.wait(LIMIT_S)
    owner.stdout.close()
    for pid in (server, engine):
        wait_for_end(pid)
