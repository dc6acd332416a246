"""A tiny run that workers under Ray train, and what it is compared by."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from child_pythonpath import PYTHONPATH
from deepscaler.cluster import ray as ray_construction
from deepscaler.cluster.ray_remote import RayRemote
from deepscaler.config import load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.progress import Progress
from deepscaler.loop.restarts import train_restarting
from deepscaler.loop.run import Run

NUM_STEPS = 4
SETTINGS = (f"num_steps={NUM_STEPS}", "evaluation.during_training_problems=1", "evaluation.set_operations=[2]")


def run(recipe: Path, path: Path, progress: Progress, *overrides: str) -> Run:
    """Train to the end, as the command does."""
    chosen = load_recipe(recipe, [*SETTINGS, *overrides])
    opened = partial(open_run, chosen, Path(chosen.model.path or ""), path, progress)
    return train_restarting(opened, chosen.cluster.max_restarts, progress.message)


def run_on_this_machine(recipe: Path, path: Path) -> Path:
    run(recipe, path, Progress(StringIO(), terminal=False))
    return path


def record_workers(monkeypatch: pytest.MonkeyPatch) -> dict[str, RayRemote]:
    """The newest worker of each role, by its name."""
    found: dict[str, RayRemote] = {}

    class Recorded(RayRemote):
        def __init__(self, build, options) -> None:
            super().__init__(build, options)
            found[options.role] = self

    monkeypatch.setattr(ray_construction, "RayRemote", Recorded)
    return found


class Machines:
    """Ray nodes on this machine, each with one core for one worker, beside a head without any."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._cluster = cluster
        self._nodes: list[Any] = []
        for _ in range(count):
            self.add()

    def add(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))

    def remove_under(self, worker: RayRemote) -> None:
        """Kill all processes of the node that the worker is on."""
        pid = worker.pid
        machine = actors(worker._actor._actor_id.hex())["Address"]["NodeID"]
        node = next(each for each in self._nodes if each.node_id == machine)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        with suppress(ProcessLookupError):  # it outlives its node by a moment
            os.kill(pid, signal.SIGKILL)

    @property
    def count(self) -> int:
        return len(self._nodes)


@contextmanager
def ray_machines(count: int) -> Iterator[Machines]:
    """A Ray cluster of several nodes, its files in a directory of its own; this process is connected to it.

    A node that is gone is noticed within seconds.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", PYTHONPATH)
        patched.setenv("RAY_TMPDIR", directory := f"/tmp/rm-{os.getpid()}")
        Path(directory).mkdir()
        noticed = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": noticed})
        try:
            machines = Machines(cluster, count)
            ray.init(address=cluster.address, log_to_driver=False)
            yield machines
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(directory)
