"""Ray itself: connected to, or started on this machine for one run, and its leftovers removed.

A Ray started here listens on loopback only, asks for a token that exists in this process's environment and nowhere
else, has no dashboard, and ends with this process, however that ends.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import _raylet as untyped_raylet
from ray._private import ray_constants, services

LOOPBACK = "127.0.0.1"
CONNECT_LIMIT_S = 10.0
MOST_TEMPORARY_PATH = 40  # characters; Ray's socket paths below it must fit into the 107 of a Unix socket
# A dead machine is noticed within about 20 s instead of a minute.
_SYSTEM_CONFIG = {"health_check_period_ms": 2000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}


_raylet: Any = untyped_raylet  # types of both are incomplete
_services: Any = services


@dataclass(frozen=True, slots=True)
class Local:
    """What a Ray that is started here has. object_store_bytes: for samples and completions on their way."""

    num_cpus: int
    num_gpus: int
    object_store_bytes: int


@contextmanager
def ray_session(address: str | None, local: Local) -> Iterator[None]:
    """Connect to the Ray cluster at `cluster.address`, or start Ray as `local` says; an existing connection is used.

    Raises ValueError for a cluster that cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    found = _address(address)
    with _loopback(found is None), _temporary_directory(found is None) as directory:
        if found is None:
            _start(local, directory)
        else:
            _connect(found)
        try:
            yield
        finally:
            ray.shutdown()


def _address(configured: str | None) -> str | None:
    """HOST:PORT of the cluster to connect to; None to start one."""
    try:
        return _services.canonicalize_bootstrap_address(configured)
    except ValueError as error:
        raise ValueError(f"cluster.address = {configured!r}: give HOST:PORT, or local ({error})") from error


def _connect(address: str) -> None:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_LIMIT_S).close()
        _init(address=address)
    except (OSError, ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"the Ray cluster at {address} cannot be used ({' '.join(str(error).split())}). Start it (`ray start "
            "--head` there), remove what a crashed one left (`ray stop`), or let this command start Ray on this "
            "machine alone: --set cluster.address=local"
        ) from error


def _start(local: Local, directory: Path) -> None:
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        _raylet.Config.initialize("")  # this process has read the mode before
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _init(
        address="local",
        num_cpus=local.num_cpus,
        num_gpus=local.num_gpus,
        object_store_memory=local.object_store_bytes,
        include_dashboard=False,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(directory),
        _system_config=_SYSTEM_CONFIG,
    )


def _init(**settings: Any) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future behaviour; it warns else
    with _kept_signal_handler():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)


@contextmanager
def _loopback(only: bool) -> Iterator[None]:
    """Let Ray take 127.0.0.1 as this machine's address, by its own switch for systems with a firewall dialog."""
    if not only:
        yield
        return
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, set_before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[name] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]
        if set_before is not None:
            os.environ[name] = set_before


@contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """ray.init takes over SIGTERM, which the training loop needs to stop after a step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _temporary_directory(wanted: bool) -> Iterator[Path]:
    """A directory for Ray's sockets and logs that is gone afterwards, also where this process is killed."""
    if not wanted:
        yield Path()
        return
    short = len(tempfile.gettempdir()) + len("/deepscaler-ray-12345678") <= MOST_TEMPORARY_PATH
    directory = Path(tempfile.mkdtemp(prefix="deepscaler-ray-", dir=None if short else "/tmp"))
    sweeper = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("ray_sweeper.py")), str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        sweeper.kill()
        sweeper.communicate(timeout=10)
