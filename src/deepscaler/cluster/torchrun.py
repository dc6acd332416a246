"""The torchrun construction: rank 0 runs the controller and is a learner rank too, the other ranks serve it.

Every rank has its part of the sharded learner, and an engine with a copy of the weights in the run's dtype, which it
loads from the files that rank 0 publishes below the run's directory. torchrun ends the other ranks when one fails.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from deepscaler.cluster.connection import ConnectionRemote, IsCancelled, serve
from deepscaler.cluster.life_signs import wait_limits
from deepscaler.cluster.local import WORKERS, PolicyFiles, engine_settings, open_engine
from deepscaler.cluster.model_directory import open_model
from deepscaler.cluster.processes import divided
from deepscaler.cluster.rank_connections import Meeting, accept_ranks, connect, open_meeting
from deepscaler.cluster.rank_group import OwnRank, RankGroup
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.cluster.torchrun_environment import Rank, check_size, this_rank
from deepscaler.cluster.worker_log import write_stacks_to
from deepscaler.config import Recipe
from deepscaler.config.derived import completions_per_update
from deepscaler.engines.sizing import DTYPES
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.lifetime import die_with_parent
from deepscaler.modeling.published_files import FileWeights, remove_versions
from deepscaler.protocols import Cluster
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.sharded_replica import ShardedReplica, check_shared, join_process_group, sharded_replica
from deepscaler.types import Request, Rollout, SamplingParams, WeightsInfo

PUBLISHED_FOLDER = "weights"


@dataclass(frozen=True, slots=True)
class Task:
    """What rank 0 tells the others. model, published, logs: directories that every machine sees under these names."""

    meeting: Meeting
    recipe: Recipe
    model: Path
    stop_ids: frozenset[int]
    longest: int
    published: Path
    logs: Path


class TorchrunRank:
    """What a rank is asked for: to sample with its own engine, and everything that its replica does."""

    def __init__(self, replica: ShardedReplica, engine: TorchEngine) -> None:
        self._replica, self._engine = replica, engine

    def generate(self, requests: list[Request], params: SamplingParams) -> Iterator[Rollout]:
        return self._engine.generate(requests, params)

    def load_weights(self, weights: FileWeights) -> WeightsInfo:
        """Sample with these from now on; returns what the engine then holds."""
        return self._engine.load_weights(weights)

    def release_memory(self) -> None:
        """For the learner on the same device."""
        self._engine.release_memory()

    def __getattr__(self, method: str) -> Any:
        return getattr(self._replica, method)


@contextmanager
def open_torchrun(recipe: Recipe, policy: PolicyFiles, run_dir: Path) -> Iterator[Cluster]:
    """The workers of a run, on rank 0. Weights are published below run_dir, or where vLLM servers read them; all ranks
    see that directory.

    Raises ValueError where the ranks do not fit the recipe.
    """
    rank = this_rank()
    gpus = torch.cuda.device_count() if policy.files.device.type == "cuda" else None
    check_size(rank, completions_per_update(recipe), gpus, recipe.training.context_parallel)
    die_with_parent()
    published = Path(recipe.rollout.vllm_weights_dir or run_dir.absolute() / PUBLISHED_FOLDER)
    published.mkdir(parents=True, exist_ok=True)
    remotes: list[ConnectionRemote] = []
    notices: deque[str] = deque()
    limits = wait_limits(recipe.cluster)
    with open_meeting(rank.address, on_one_machine=rank.on_one_machine) as (meeting, server):
        _join(rank)
        logs = run_dir.absolute() / WORKERS
        task = Task(meeting, recipe, policy.files.path, policy.stop_ids, policy.longest, published, logs)
        dist.broadcast_object_list([task])
        for number, connection in enumerate(accept_ranks(meeting, server, rank.size - 1), start=1):
            name = f"learner rank {number}"
            remotes.append(ConnectionRemote(connection, name, limits, log=_log(task, number)))
    with ExitStack() as stack:
        stack.callback(_remove_published, published)
        for remote in remotes:
            stack.callback(remote.close)
        replica, engine = _build(task, policy, rank, lambda: False)
        group = RankGroup([OwnRank(replica), *remotes], recipe.training.context_parallel)
        if engine is None:
            sampler = stack.enter_context(open_engine(recipe, policy, run_dir, notices.append))
        else:
            sampler = SamplerGroup(engine, [_never_restarted(remote) for remote in remotes], shares_devices=True)
        grader = stack.enter_context(make_grader(recipe.grader))
        yield Cluster(PolicyLearner(group, recipe.algorithm, recipe.optimizer), sampler, grader, rank.size, notices)


def serve_rank() -> None:
    """A rank other than 0, from beginning to end: until rank 0 ends, or anything fails. Opens no run directory."""
    rank = this_rank()
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the controller finishes its step; then this rank ends with it
        signal.signal(number, signal.SIG_IGN)
    _join(rank)
    sent: list[Any] = [None]
    dist.broadcast_object_list(sent)
    task: Task = sent[0]
    write_stacks_to(_log(task, rank.rank))
    connection = connect(task.meeting, rank.rank)

    def build(is_cancelled: IsCancelled) -> object:
        files = open_model(task.model, task.recipe.model.dtype)
        replica, engine = _build(task, PolicyFiles(files, task.stop_ids, task.longest), rank, is_cancelled)
        return replica if engine is None else TorchrunRank(replica, engine)

    serve(connection, build, ends_on_error=True, limits=wait_limits(task.recipe.cluster))


def _log(task: Task, rank: int) -> Path:
    """For the stacks of a rank; what it says goes to torchrun's standard error."""
    return task.logs / f"learner-rank-{rank}.log"


def _remove_published(directory: Path) -> None:
    """What this run wrote, and the directory if nothing else is in it."""
    remove_versions(directory)
    with suppress(OSError):
        directory.rmdir()


def _never_restarted(remote: ConnectionRemote) -> SupervisedRemote:
    """A rank is lost with its part of the learner, so the run ends and torchrun ends all others."""
    return SupervisedRemote(remote.name, lambda: remote, most_restarts=0)


def _join(rank: Rank) -> None:
    """The process group of all ranks: gloo, and NCCL for what is on GPUs."""
    if rank.on_one_machine and sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local_rank)
    join_process_group()


def _build(
    task: Task, policy: PolicyFiles, rank: Rank, is_cancelled: IsCancelled
) -> tuple[ShardedReplica, TorchEngine | None]:
    """This rank's part of the learner, and its engine with weights of its own, None where servers sample."""
    check_shared(task.published)
    engine = None
    if task.recipe.rollout.engine == "torch":
        settings = divided(engine_settings(task.recipe, policy), rank.size)
        engine = settings.start(policy.load(DTYPES[task.recipe.model.dtype]), is_cancelled)
    return sharded_replica(task.recipe, policy.load_on_meta(), task.published, policy.files.path), engine
