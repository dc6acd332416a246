"""What torchrun tells each process it starts, and whether it fits the recipe. Loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from deepscaler.observability.counts import counted

START = "torchrun --nproc-per-node N -m deepscaler train RECIPE --run-dir DIR --set cluster.kind=torchrun"


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a job. local_rank and local_size: on its machine. address: host name of rank 0's machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str

    @property
    def name(self) -> str:
        return f"learner rank {self.rank}"

    @property
    def on_one_machine(self) -> bool:
        return self.size == self.local_size


def this_rank() -> Rank:
    """Raises ValueError where this process was not started by torchrun."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    missing = [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"cluster.kind = 'torchrun' needs processes that torchrun started ({', '.join(missing)} not in the "
            f"environment). Start them with `{START}`, or leave out cluster.kind for this machine alone"
        )
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in names)
    return Rank(rank, size, local_rank, local_size, os.environ["MASTER_ADDR"])


def is_controller() -> bool:
    """Whether this process runs the loop: rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def require_torchrun() -> None:
    """Raises ValueError where this process was not started by torchrun."""
    this_rank()


def refuse_ranks() -> None:
    """Raises ValueError where torchrun started several processes for a construction that starts its own."""
    size = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if size > 1:
        raise ValueError(
            f"torchrun started {counted(size, 'process', 'processes')}, but cluster.kind does not share a run among "
            "them; add --set cluster.kind=torchrun, or start one without torchrun"
        )


def check_size(rank: Rank, completions: int, gpus: int | None, together: int = 1) -> None:
    """Raises ValueError for a number of ranks that does not fit.

    completions: of one optimizer update, of which every rank gets some. gpus: on this machine, None to compute on CPU.
    together: ranks that share every micro-batch.
    """
    if rank.size % together:
        raise ValueError(
            f"{counted(rank.size, 'rank')} cannot work in groups of training.context_parallel = {together}; start a "
            "multiple of it"
        )
    if gpus is not None and rank.local_size > gpus:
        raise ValueError(
            f"{rank.local_size} ranks were started on a machine with {counted(gpus, 'GPU')}, and each needs one; start "
            f"torchrun with --nproc-per-node {gpus}"
        )
    if rank.size > completions * together:
        raise ValueError(
            f"{rank.size} ranks share updates of {counted(completions, 'completion')}, so some would never have one; "
            "start fewer, or raise optimizer.mini_batch_prompts or rollout.group_size"
        )
