"""The Ray construction: learner ranks and samplers are actors; the loop and the grader stay in this process.

Learner and samplers meet in files only: the learner publishes weights below the run's directory, which all machines
share, and samplers read them there.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from deepscaler import cpu
from deepscaler.cluster.connection import Build, IsCancelled
from deepscaler.cluster.engine_worker import EngineWorker
from deepscaler.cluster.gang_rank import GangRank
from deepscaler.cluster.local import WORKERS, PolicyFiles
from deepscaler.cluster.only_rank import OnlyRank
from deepscaler.cluster.rank_group import RankGroup
from deepscaler.cluster.ray_nodes import check_nodes
from deepscaler.cluster.ray_placement import Place, Role, check_resources, placed
from deepscaler.cluster.ray_remote import ActorOptions, RayRemote
from deepscaler.cluster.ray_session import Local, ray_session
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.config import Recipe
from deepscaler.config.cluster_checks import num_learner_ranks, num_samplers
from deepscaler.config.derived import group_size
from deepscaler.engines.sizing import pick_device
from deepscaler.protocols import Cluster, Replica, Sampler
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.replica import ModelReplica, adamw, policy_computer

PUBLISHED = "published"  # below the run's directory: the newest weights, while the run goes on
BYTES_PER_TOKEN = 64  # of samples and completions under way: ids, log-probabilities, weights, and copies of them
SMALLEST_STORE = 80 * 2**20  # bytes; Ray takes no less


@contextmanager
def open_ray(recipe: Recipe, policy: PolicyFiles, run_dir: Path) -> Iterator[Cluster]:
    """Workers on a Ray cluster, or on this machine by a Ray that is started for them.

    Raises ValueError for a cluster that lacks something, RunError when cores or GPUs stay taken or a worker cannot be
    started.
    """
    learner, samplers = roles = _roles(recipe)
    plan = _Plan(recipe, policy, run_dir.absolute())
    timeout_s = recipe.cluster.placement_timeout_s
    with ExitStack() as stack:
        stack.enter_context(ray_session(recipe.cluster.address, _local(recipe, roles, policy.longest)))
        check_resources(roles)
        check_nodes(run_dir)
        published = stack.enter_context(_directory(plan.run_dir / PUBLISHED))
        (plan.run_dir / WORKERS).mkdir(exist_ok=True)
        places = [stack.enter_context(placed(role, timeout_s)) for role in roles]
        sampler = stack.enter_context(_open_samplers(plan, samplers, places[1]))
        replica = stack.enter_context(_open_learner(plan, learner, places[0], published))
        grader = stack.enter_context(make_grader(recipe.grader))
        yield Cluster(
            PolicyLearner(replica, recipe.algorithm, recipe.optimizer),
            sampler,
            grader,
            learner.count,
            plan.notices,
            plan.write_stacks,
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What workers are started from. notices: of `Cluster`. started: the newest process of each worker, by name."""

    recipe: Recipe
    policy: PolicyFiles
    run_dir: Path
    notices: deque[str] = field(default_factory=deque)
    started: dict[str, RayRemote] = field(default_factory=dict)

    def start_engine(self, name: str, place: Place, role: Role) -> Callable[[], RayRemote]:
        """A function that starts an engine's process, again if need be."""

        def start() -> RayRemote:
            place.check_there()
            return self.start(
                name,
                place,
                role,
                partial(_engine, self.recipe, self.policy, role.count, self.run_dir / WORKERS / name.replace(" ", "-")),
            )

        return start

    def start(self, name: str, place: Place, role: Role, build: Build) -> RayRemote:
        log = self.run_dir / WORKERS / f"{name.replace(' ', '-')}.log"
        cluster = self.recipe.cluster
        options = ActorOptions(name, 1, role.gpus, place.strategy, log, cluster.silence_s, cluster.stall_s)
        self.started[name] = remote = RayRemote(build, options)
        return remote

    def write_stacks(self) -> None:
        for remote in self.started.values():
            remote.write_stacks()


def _roles(recipe: Recipe) -> tuple[Role, Role]:
    cluster = recipe.cluster
    return (
        Role("learner", num_learner_ranks(cluster), 1 if cluster.learner_gpus else 0),
        Role("samplers", num_samplers(cluster), 1 if cluster.rollout_gpus else 0),
    )


def _local(recipe: Recipe, roles: tuple[Role, Role], longest: int) -> Local:
    """A Ray on this machine: as many cores as the workers need, since each has one thread, and the GPUs there are."""
    sequences = max(recipe.rollout.prompts_per_step * group_size(recipe, stage) for stage in recipe.stages)
    return Local(
        num_cpus=max(cpu.available_cores(), sum(role.count for role in roles)),
        num_gpus=torch.cuda.device_count(),
        object_store_bytes=max(SMALLEST_STORE, sequences * longest * BYTES_PER_TOKEN),
    )


@contextmanager
def _open_learner(plan: _Plan, role: Role, places: list[Place], published: Path) -> Iterator[Replica]:
    """All ranks, started together; they end together."""
    ranks: list[RayRemote] = []
    try:
        for rank, place in enumerate(places):
            build = partial(_learner_rank, plan.recipe, plan.policy, published, rank, role.count)
            ranks.append(plan.start(f"learner rank {rank}", place, role, build))
        for rank in ranks:
            rank.wait_until_started()
        if role.count > 1:
            _join(ranks, [place.address for place in places])
        yield RankGroup(ranks, plan.recipe.training.context_parallel)
    finally:
        for rank in ranks:
            rank.close()


def _join(ranks: list[RayRemote], addresses: list[str]) -> None:
    port = ranks[0].call("open_meeting", addresses[0]).result()
    joining = [rank.call("join", addresses[0], port, own) for rank, own in zip(ranks, addresses, strict=True)]
    for each in joining:
        each.result()


@contextmanager
def _open_samplers(plan: _Plan, role: Role, places: list[Place]) -> Iterator[Sampler]:
    engines: list[SupervisedRemote] = []
    try:
        for number, place in enumerate(places):
            name = f"sampler {number}"
            start = plan.start_engine(name, place, role)
            most = plan.recipe.cluster.max_restarts
            engines.append(SupervisedRemote(name, start, most_restarts=most, report=plan.notices.append))
        yield SamplerGroup(None, engines, report=plan.notices.append)
    finally:
        for engine in engines:
            engine.close()


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """A new directory that is gone afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _learner_rank(
    recipe: Recipe, policy: PolicyFiles, published: Path, rank: int, num_ranks: int, is_cancelled: IsCancelled
) -> OnlyRank | GangRank:
    """In the actor. One rank computes what one process does; several divide the model among them."""
    here = _on_this_machine(policy)
    if num_ranks > 1:
        return GangRank(recipe, here, published, rank, num_ranks)
    computer = policy_computer(here.load(torch.float32), recipe)
    return OnlyRank(ModelReplica(computer, adamw(recipe.optimizer)), published, recipe.model.dtype)


def _engine(
    recipe: Recipe, policy: PolicyFiles, num_engines: int, directory: Path, is_cancelled: IsCancelled
) -> EngineWorker:
    """In the actor."""
    return EngineWorker(recipe, _on_this_machine(policy), num_engines, directory, is_cancelled)


def _on_this_machine(policy: PolicyFiles) -> PolicyFiles:
    device = pick_device()
    cpu.prepare(threads=1 if device.type == "cpu" else cpu.available_cores())
    return replace(policy, files=replace(policy.files, device=device))
