"""A vLLM server that we start: in an environment of its own, on loopback, with a key, ended with us."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deepscaler.engines.vllm_shared import SEARCH_PATH
from deepscaler.observability.last_lines import last_lines
from deepscaler.types import RunError

READY_LIMIT_S = 900.0  # compiling kernels and loading a large model take minutes
STOP_LIMIT_S = 10.0
LAST_LINES = 20
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # pause, resume, sleep, collective_rpc
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # version 2 does not expose log-probabilities before top-k and top-p
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # deepscaler_vllm.launch: every process dies with its parent
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # others run on these cores as well
    "HF_HUB_OFFLINE": "1",  # the model is a directory
}
DROPPED = ("LD_PRELOAD", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS")  # of our own environment


class ServerProcess:
    """One server. log: file of everything it prints."""

    def __init__(
        self,
        python: Path,
        arguments: Sequence[str],
        log: Path,
        *,
        threads: int | None = None,
        gpus: Sequence[int] | None = None,
        takes_handles: bool = False,
    ) -> None:
        """Start it. threads: of a server on CPU. gpus: the only ones it sees. takes_handles: of CUDA IPC, pickled.

        Raises ValueError for no executable.
        """
        self.key, self.port, self.log = secrets.token_urlsafe(32), free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {name: value for name, value in os.environ.items() if name not in DROPPED}
        environment |= {**ENVIRONMENT, "PYTHONPATH": str(SEARCH_PATH), "VLLM_API_KEY": self.key}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(_visible, gpus))
        if takes_handles:  # from holders of its key, which is random and known to this process alone
            environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        command = [str(python), "-m", "deepscaler_vllm.launch", str(os.getpid()), *arguments]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.is_file() else 0  # of another process before that is
        try:
            self._process = _starting_thread().submit(_start, command, environment, log).result()
        except OSError as error:
            raise ValueError(
                f"{python} cannot be run ({error.strerror}); rollout.vllm_python (engine.vllm_python) is the Python "
                "of an environment that has vLLM"
            ) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, is_ready: Callable[[], bool], limit_s: float = READY_LIMIT_S) -> None:
        """Raises RunError with its last lines when the server ends, or is not ready within the limit."""
        deadline = time.monotonic() + limit_s
        while not is_ready():
            if not self.is_alive:
                raise RunError(f"{self.ended()} before it was ready{self.last_lines()}")
            if time.monotonic() > deadline:
                raise RunError(f"the vLLM server {self.url} was not ready within {limit_s:.0f} s{self.last_lines()}")
            time.sleep(0.2)

    def ended(self) -> str:
        return f"the vLLM server {self.url} (process {self.pid}) ended with exit code {self._process.poll()}"

    def last_lines(self) -> str:
        """The end of its log, for a message."""
        return last_lines(self.log, since=self._log_start, count=LAST_LINES)

    def stop(self) -> None:
        """End it with all its processes; they get the time to remove what they share in /dev/shm."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            deadline = time.monotonic() + STOP_LIMIT_S
            while self._is_group_alive() and time.monotonic() < deadline:
                time.sleep(0.05)

    def _is_group_alive(self) -> bool:
        self._process.poll()  # else it counts as alive
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@functools.cache
def _starting_thread() -> ThreadPoolExecutor:
    """One thread that lives as long as this process: servers are killed when the thread that started them ends."""
    return ThreadPoolExecutor(1, thread_name_prefix="vllm-server-start")


def _start(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle
            cwd=log.parent,
        )


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _visible(gpu: int) -> str:
    """The id of the machine's GPU that this process calls number `gpu`."""
    ours = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ours.split(",")[gpu].strip() if ours else str(gpu)
