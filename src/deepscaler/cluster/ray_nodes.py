"""The machines of a Ray cluster: whether they can work together, checked before a model is loaded."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, RayTaskError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deepscaler.observability.environment import package_versions

PACKAGES = ("deepscaler", "torch", "transformers", "numpy", "safetensors", "ray")
LOOK_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one machine sees. token: what it read in the shared directory; None where there is no such file."""

    versions: Mapping[str, str]
    token: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the cluster. complaint: why it cannot take part, None where it can."""

    name: str
    cores: int
    gpus: int
    complaint: str | None


def check_nodes(run_dir: Path) -> None:
    """Raises ValueError when a machine has other versions than this one, or does not see the run's directory.

    Does nothing where this machine is the only one.
    """
    if len(live_nodes()) < 2:
        return
    for machine in machines(run_dir):
        if machine.complaint:
            raise ValueError(machine.complaint)


def machines(run_dir: Path) -> Iterator[Machine]:
    """Every machine that is up, with what it is asked to read in run_dir and its versions compared with those here."""
    nodes, resources = live_nodes(), {node["NodeID"]: node["Resources"] for node in ray.nodes()}
    with _token_file(run_dir) as (path, token):
        asked = {
            node_id: _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(path)
            for node_id in nodes
        }
        for node_id, name in nodes.items():
            there = resources[node_id]
            try:
                seen = _answer(name, asked[node_id])
            except ValueError as error:
                complaint: str | None = str(error)
            else:
                if seen is None:
                    continue
                complaint = _complaint(name, seen, token, run_dir)
            yield Machine(name, int(there.get("CPU", 0)), int(there.get("GPU", 0)), complaint)


def _complaint(name: str, seen: Seen, token: str, run_dir: Path) -> str | None:
    here = _versions()
    if differing := [_difference(key, here, seen.versions) for key in here if seen.versions.get(key) != here[key]]:
        return (
            f"the machine {name} has other versions than this one ({', '.join(differing)}); install the same "
            "on all machines of the Ray cluster"
        )
    if seen.token != token:
        return (
            f"the machine {name} does not see the run's directory {run_dir}: weights and checkpoints pass "
            "through it, so --run-dir must be on a file system that all machines of the Ray cluster share"
        )
    return None


def live_nodes() -> dict[str, str]:
    """Ray's id -> address, of every machine that is up."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


@contextmanager
def _token_file(run_dir: Path) -> Iterator[tuple[Path, str]]:
    token = secrets.token_hex(8)
    path = run_dir.absolute() / f".shared-{token}"
    path.write_text(token)
    try:
        yield path, token
    finally:
        path.unlink()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **package_versions(PACKAGES)}


@ray.remote(num_cpus=0, max_retries=0)
def _look(path: Path) -> Seen:
    if path.parent.is_dir():
        list(path.parent.iterdir())  # a network file system looks again
    return Seen(_versions(), path.read_text() if path.is_file() else None)


def _answer(name: str, reference: Any) -> Seen | None:
    """None for a machine that has just left the cluster. Raises ValueError for one that cannot be used."""
    try:
        return ray.get(reference, timeout=LOOK_LIMIT_S)
    except (TaskUnschedulableError, NodeDiedError):
        return None
    except RayTaskError as error:
        raise ValueError(
            f"the machine {name} cannot run this program ({type(error.cause).__name__}: {error.cause}); install "
            "deepscaler[cluster] there, in the environment that its `ray start` runs in"
        ) from error
    except (RayError, GetTimeoutError) as error:
        raise ValueError(
            f"the machine {name} does not answer ({' '.join(str(error).split())[:200]}); restart Ray there, or take it "
            "out of the cluster"
        ) from error


def _difference(name: str, here: Mapping[str, str], there: Mapping[str, str]) -> str:
    return f"{name} {there.get(name, 'absent')} instead of {here[name]}"
