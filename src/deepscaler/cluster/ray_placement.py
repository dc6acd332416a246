"""Cores and GPUs for each role: one Ray placement group per role, one bundle per worker, packed onto few machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deepscaler.cluster.ray_nodes import live_nodes
from deepscaler.observability.counts import counted
from deepscaler.types import RunError, WorkerLost

REPLACE_LIMIT_S = 15.0  # for another machine to take over the place of a lost worker
_POLL_S = 0.5
_WORDS = {"CPU": "CPU cores", "GPU": "GPUs"}


@dataclass(frozen=True, slots=True)
class Role:
    """name: in messages. count: of its workers. gpus: of each worker; every worker has one CPU core besides."""

    name: str
    count: int
    gpus: int

    @property
    def bundle(self) -> dict[str, float]:
        return {"CPU": 1.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    @property
    def needs(self) -> dict[str, float]:
        return {name: self.count * amount for name, amount in self.bundle.items()}


def check_resources(roles: Sequence[Role]) -> None:
    """Raises ValueError when the roles need more than the cluster has in all, in use or not."""
    there = ray.cluster_resources()
    needed = {name: sum(role.needs.get(name, 0.0) for role in roles) for name in ("CPU", "GPU")}
    lacking = [
        f"{needed[name]:g} {_WORDS[name]} for {_listed(roles, name)}, and the cluster has {there.get(name, 0):g}"
        for name in needed
        if needed[name] > there.get(name, 0.0)
    ]
    if lacking:
        raise ValueError(
            f"the Ray cluster is too small: the recipe needs {'; '.join(lacking)}. Lower cluster.learner_gpus, "
            "cluster.rollout_gpus, cluster.learner_ranks or cluster.samplers, or start Ray on more machines"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """The cores and GPUs of one worker. index: of its bundle in the group."""

    group: PlacementGroup
    index: int

    @property
    def address(self) -> str:
        """Of its machine."""
        return live_nodes()[_machines(self.group)[self.index]]

    @property
    def strategy(self) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self.group, self.index)

    def check_there(self, limit_s: float = REPLACE_LIMIT_S) -> None:
        """Raises WorkerLost when its machine is gone and no other one takes it over within the limit."""
        deadline = time.monotonic() + limit_s
        while _machines(self.group)[self.index] not in live_nodes():
            if time.monotonic() > deadline:
                raise WorkerLost(f"its machine left the Ray cluster, and no other one has room for it: {_free()}")
            time.sleep(_POLL_S)


@contextmanager
def placed(role: Role, timeout_s: float) -> Iterator[list[Place]]:
    """A place for every worker of the role; workers of one machine are neighbours.

    Raises RunError when cores or GPUs do not become free in time.
    """
    group = placement_group([role.bundle] * role.count, strategy="PACK")
    try:
        if not group.wait(timeout_s):
            raise RunError(
                f"{role.name}: no room for {counted(role.count, 'worker')} within {timeout_s:g} s: "
                f"{_amounts(role.needs)} needed, {_free()}. Wait until other jobs end, or ask for fewer; "
                "cluster.placement_timeout_s sets the limit"
            )
        machines = _machines(group)
        yield [Place(group, index) for index in sorted(range(role.count), key=lambda i: (machines[i], i))]
    finally:
        remove_placement_group(group)


def _machines(group: PlacementGroup) -> dict[int, str]:
    """Ray's id of the machine of every bundle; empty while it has none."""
    return ray.util.placement_group_table(group)["bundles_to_node_id"]


def _free() -> str:
    return f"{_amounts(ray.available_resources())} free of {_amounts(ray.cluster_resources())}"


def _listed(roles: Sequence[Role], name: str) -> str:
    return " and ".join(f"{role.name} ({role.needs[name]:g})" for role in roles if name in role.needs)


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources[name]:g} {word}" for name, word in _WORDS.items() if name in resources) or "nothing"
