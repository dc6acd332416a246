"""Learner ranks in child processes that join worlds of any size, one after the other, so that they start only once."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from deepscaler.cluster.connection import ConnectionRemote, serve
from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.rank_group import RankGroup
from deepscaler.config.models import Recipe
from deepscaler.lifetime import die_with_parent
from deepscaler.modeling.load import load_model
from deepscaler.training import sharded_state
from deepscaler.training.sharded_replica import ShardedReplica, sharded_replica
from deepscaler.training.weight_parts import is_on_meta
from tiny_models import make_model

# Imported once, by the process that the ranks are forked from.
PRELOADED = ["deepscaler.cluster.rank_group", "deepscaler.training.sharded_replica", "transformers.models.qwen2"]
LIMIT_S = 60.0  # of every wait
LIMITS = WaitLimits(start_s=LIMIT_S, silence_s=LIMIT_S, stall_s=LIMIT_S)
_worlds = itertools.count()


class JoiningRank:
    """A rank that can leave its world and join another one; everything else is asked of its replica."""

    def __init__(self) -> None:
        self._replica: ShardedReplica | None = None

    def join(
        self,
        rank: int,
        size: int,
        meeting: Path,
        recipe: Recipe,
        published: Path,
        files: Path | None,
        model: dict[str, Any],
    ) -> None:
        """files: load this model on the meta device instead of making `model`."""
        self.leave()
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(seconds=LIMIT_S)
        )
        made = make_model(**model) if files is None else load_model(files, on_meta=True, longest=64)
        assert is_on_meta(made) == (files is not None)
        self._replica = sharded_replica(recipe, made, published, files)

    def leave(self) -> None:
        if dist.is_initialized():
            self._replica = None
            dist.destroy_process_group()

    def gradients(self) -> list[torch.Tensor]:
        """Whole, of every weight."""
        return [whole(p.grad) for p in self._model.parameters()]

    def buffers(self) -> list[tuple[str, torch.Tensor]]:
        return list(self._model.named_buffers())

    def moments(self) -> list[torch.Tensor]:
        """Whole: both moments and the counter of every weight."""
        assert self._replica is not None
        state = self._replica._optimizer.state
        return [whole(state[p][key]) for p in self._model.parameters() for key in ("exp_avg", "exp_avg_sq", "step")]

    def spoil_gradient(self) -> None:
        """A NaN in this rank's part."""
        next(p for p in self._model.parameters() if p.grad.to_local().numel()).grad.to_local().view(-1)[0] = math.nan

    def hold_writes(self) -> None:
        """Writing into checkpoints waits for `let_writes_go`."""
        self._write, self._may_write = sharded_state._save, threading.Event()

        def held(*arguments: Any) -> None:
            assert self._may_write.wait(LIMIT_S)
            self._write(*arguments)

        sharded_state._save = held

    def let_writes_go(self) -> None:
        self._may_write.set()
        sharded_state._save = self._write

    def die_in(self, part: str) -> None:
        """Be killed in the middle of the next call: after two micro-batches, gathered weights, or files."""
        assert self._replica is not None
        if part == "accumulate":
            self._replica._computer._loss = killed_after(2, self._replica._computer._loss)  # type: ignore[method-assign]
        else:
            owner = {"gather": DTensor, "save": sharded_state, "background": sharded_state}[part]
            name = "full_tensor" if part == "gather" else "_save"
            setattr(owner, name, killed_after(2 if part == "gather" else 1, getattr(owner, name)))

    @property
    def _model(self) -> Any:
        assert self._replica is not None
        return self._replica._computer.model

    def __getattr__(self, method: str) -> Any:
        return getattr(self._replica, method)


def whole(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def killed_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for so many calls; the next one ends this process at once."""
    left = itertools.count(count, -1)

    def counted(*arguments: Any, **settings: Any) -> Any:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)

    return counted


class Ranks:
    """The processes. `world` makes a group of the first ones."""

    def __init__(self, remotes: list[ConnectionRemote], pids: list[int], directory: Path) -> None:
        self.remotes, self.pids, self._directory = remotes, pids, directory

    def world(self, size: int, recipe: Recipe, files: Path | None = None, **model: Any) -> RankGroup:
        """New replicas of this model, made alike on every rank; or of that in `files`, of which each reads its part."""
        number = next(_worlds)
        meeting, published = self._directory / f"meeting-{number}", self._directory / f"published-{number}"
        joined = [
            remote.call("join", rank, size, meeting, recipe, published, files, model)
            for rank, remote in enumerate(self.remotes[:size])
        ]
        for one in joined:
            one.result()
        return RankGroup(self.remotes[:size], recipe.training.context_parallel)

    def all(self, size: int, method: str, *arguments: Any) -> list[Any]:
        replies = [remote.call(method, *arguments) for remote in self.remotes[:size]]
        return [reply.result() for reply in replies]


@contextmanager
def open_ranks(count: int, directory: Path) -> Iterator[Ranks]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    remotes, processes = [], []
    try:
        for rank in range(count):
            near, far = context.Pipe()
            process = context.Process(target=_serve, args=(far,), daemon=True)
            process.start()
            far.close()
            processes.append(process)
            remotes.append(ConnectionRemote(near, f"learner rank {rank}", LIMITS))
        yield Ranks(remotes, [process.pid or 0 for process in processes], directory)
    finally:
        for process in processes:
            process.kill()
            process.join(10)
        for remote in remotes:
            remote.close()


def _serve(connection: Connection) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    serve(connection, lambda is_cancelled: JoiningRank())
