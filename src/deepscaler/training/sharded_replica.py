"""One rank's part of a replica: the model is divided over all ranks of the process group, and so is every step.

Every method is a collective: all ranks are called with the same method, each with samples of its own. Who calls them,
over pipes, sockets or Ray, is not known here (`cluster.rank_group`). Calls carry positions only, hence no keywords.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from deepscaler.config.models import Recipe
from deepscaler.modeling.head import forbidden_ids
from deepscaler.modeling.meta_init import device_of
from deepscaler.modeling.published_files import KEPT_VERSIONS, FileWeights, remove_versions, write_weights
from deepscaler.protocols import AppliedUpdate, PolicyOrReference
from deepscaler.training.adapters import save_weights, saved_weights
from deepscaler.training.background_write import write_as_rank
from deepscaler.training.context_parallel import ContextParallel
from deepscaler.training.gradients import Logprobs
from deepscaler.training.optimizer_state import (
    check_optimizer,
    load_optimizer,
    load_weights,
    on_host,
    optimizer_tensors,
)
from deepscaler.training.replica import Optimizers, adamw, computer_of, own_reference
from deepscaler.training.sharded_model import ShardedComputer, gathered, whole_of
from deepscaler.training.sharded_state import save_sharded, staged
from deepscaler.types import RunError, TokenSums, TrainSample

ANOTHER_RANK = "another rank"  # begins the message of a rank that is not the one that failed
COLLECTIVE_LIMIT_S = 1800.0  # how long a rank waits for the others: rank 0 reads data or makes a base first


class ShardedReplica:
    """This rank's weights, gradients and optimizer state.

    published: directory that all samplers see, in which rank 0 publishes weights. dtype: that they are published in.
    make_optimizers: new optimizers for the model, at the start and wherever a stage resets them.
    """

    def __init__(
        self,
        computer: ShardedComputer,
        make_optimizers: Callable[[nn.Module], Optimizers],
        published: Path,
        dtype: str,
    ) -> None:
        self._computer, self._published, self._dtype = computer, published, dtype
        self._make_optimizers = make_optimizers
        ((self._optimizer, _),) = make_optimizers(computer.model)
        self._is_first = dist.get_rank() == 0
        self._idle = _idle_sample(computer.model)
        self._saving: dist.ProcessGroup | None = None

    @torch.no_grad()
    def logprobs(self, samples: Sequence[TrainSample], of: PolicyOrReference = "policy") -> Logprobs:
        """Log-probability of every completion token of this rank's samples, float32 [num_tokens] per sample."""
        missing = self._missing_micro_batches(samples)
        result = self._computer.logprobs(samples, of=of)
        for _ in range(missing):
            self._computer.logprobs([self._idle], of=of)
        self._computer.free_gathered(of)
        return result

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        """Add the gradient of the samples of all ranks; the sums are those of this rank's samples."""
        missing = self._missing_micro_batches(samples)
        sums = self._computer.accumulate(samples, old, ref)
        for _ in range(missing):
            self._computer.accumulate([self._idle], None, None)
        return sums

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        """Clip by the norm of the whole gradient and update, on all ranks or, if it is not finite, on none."""
        model = self._computer.model
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if math.isfinite(grad_norm):
            factor = min(1.0, max_grad_norm / (grad_norm + 1e-6))
            for gradient in gradients:
                _local(gradient).mul_(factor)
            self._optimizer.step()
        model.zero_grad(set_to_none=True)
        return AppliedUpdate(grad_norm, learning_rate)

    def publish(self, version: int) -> FileWeights | None:
        """Write the weights as files. Rank 0 returns the handle, the others None."""
        weights = self._on_first(
            lambda named: write_weights(self._published, version, named, self._dtype), gathered(self._computer.model)
        )
        if self._is_first:
            remove_versions(self._published, KEPT_VERSIONS)
        return weights

    def begin_stage(self, reset_optimizer: bool, reset_reference: bool) -> None:
        if reset_optimizer:
            ((self._optimizer, _),) = self._make_optimizers(self._computer.model)
        if reset_reference and (reference := own_reference(self._computer)) is not None:
            pairs = zip(reference.parameters(), self._computer.model.parameters(), strict=True)
            for theirs, mine in pairs:
                _local(theirs.detach()).copy_(_local(mine.detach()))

    def save(self, directory: Path) -> None:
        """Weights as a Hugging Face model, by rank 0; optimizer and reference by every rank, its part.

        Returns when all ranks have written. Raises RunError where a rank does not see the directory.
        """
        check_shared(directory)
        model = self._computer.model
        self._on_first(lambda named: save_weights(model, directory, dict(named)), whole_of(saved_weights(model)))
        save_sharded(directory, *self._held())

    def begin_save(self, directory: Path) -> None:
        """As `save`, of copies in host memory: returns when they are made. `RankWrites` tells when all have written.

        The ranks meet in a process group of its own, since the next step's collectives run meanwhile.
        """
        check_shared(directory)
        if self._saving is None:
            made = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_LIMIT_S))
            assert isinstance(made, dist.ProcessGroup)
            self._saving = made
        model, saved = self._computer.model, whole_of(saved_weights(self._computer.model))
        weights = self._on_first(lambda named: {name: on_host(weight) for name, weight in named}, saved)
        optimizer, reference = self._held()
        parts = staged({"optimizer": optimizer, "reference": reference or {}})
        held, group = (parts["optimizer"], None if reference is None else parts["reference"]), self._saving

        def write() -> None:
            if weights is not None:
                save_weights(model, directory, weights)
            save_sharded(directory, *held, group)

        write_as_rank(directory, dist.get_rank(), write)

    def _held(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """This rank's part of the optimizer's state and of the reference's weights."""
        reference = own_reference(self._computer)
        of_reference = None if reference is None else {name: p.detach() for name, p in reference.named_parameters()}
        return optimizer_tensors(self._optimizer, self._computer.model), of_reference

    def load(self, directory: Path, num_updates: int | None) -> None:
        """Restore what `save` wrote with any number of ranks, or what one process wrote.

        num_updates: what the loaded optimizer must have the moments of; None leaves the optimizer new.
        """
        check_shared(directory)
        load_weights(directory, self._computer.model, self._computer.reference)
        if num_updates is not None:
            load_optimizer(directory, self._optimizer, self._computer.model)
            check_optimizer(self._optimizer, num_updates, directory)

    def _on_first(
        self, take: Callable[[Iterator[tuple[str, Tensor]]], Any], named: Iterator[tuple[str, Tensor]]
    ) -> Any:
        """Let rank 0 take weights, gathered one after the other; the result is its own, None elsewhere.

        Gathering is a collective, so where rank 0 fails it gathers the rest before it raises.
        """
        try:
            return take(named) if self._is_first else None
        finally:
            deque(named, maxlen=0)

    def _missing_micro_batches(self, samples: Sequence[TrainSample]) -> int:
        """How many more micro-batches another rank has: each forward and backward pass is a collective."""
        try:
            own, failed = self._computer.num_micro_batches(samples), None
        except ValueError as error:
            own, failed = 0, error
        most, any_failed = _maximum(own, int(failed is not None))
        if failed is not None:
            raise failed
        if any_failed:
            raise RunError(f"{ANOTHER_RANK} refused its samples")
        return most - own


def join_process_group(**arguments: Any) -> None:
    """gloo, and NCCL for what is on GPUs. arguments: of torch's init_process_group; none under torchrun."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=COLLECTIVE_LIMIT_S), **arguments)


def check_shared(directory: Path) -> None:
    """On every rank. Raises RunError where one does not see this directory."""
    here = directory.is_dir()
    if _maximum(int(not here))[0]:
        raise RunError(
            f"{directory} is {'there' if here else 'not there'} on {socket.gethostname()}, the machine of rank "
            f"{dist.get_rank()}, but not on all; --run-dir must be in a file system that all machines of the run share"
        )


def sharded_replica(recipe: Recipe, model: nn.Module, published: Path, files: Path | None = None) -> ShardedReplica:
    """This rank's part of a recipe's replica, over the whole world. Every rank gives the same float32 model.

    files: directory of the weights, for a model that is on the meta device: this rank reads its part of them.

    Ranks that share every micro-batch (training.context_parallel) are neighbours; their gradients add up as all others.
    """
    device, together = device_of(model).type, recipe.training.context_parallel
    mesh, context = init_device_mesh(device, (dist.get_world_size(),)), None
    if together > 1:
        shape = (dist.get_world_size() // together, together)
        groups = init_device_mesh(device, shape, mesh_dim_names=("samples", "context"))
        context = ContextParallel(groups.get_group("context"))
    make = partial(ShardedComputer, mesh=mesh, cpu_offload=recipe.training.cpu_offload, files=files, context=context)
    return ShardedReplica(computer_of(recipe, model, make), adamw(recipe.optimizer), published, recipe.model.dtype)


def _maximum(*values: int) -> list[int]:
    """Of every value over all ranks."""
    tensor = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def _local(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _idle_sample(model: Any) -> TrainSample:
    """One token that weighs nothing, for a rank that has fewer micro-batches than another."""
    forbidden = forbidden_ids(model)
    left_out = set() if forbidden is None else set(forbidden.tolist())
    token = np.array([next(i for i in range(model.config.vocab_size) if i not in left_out)], np.int32)
    zero = np.zeros(1, np.float32)
    return TrainSample(
        prompt_ids=token,
        completion_ids=token,
        rollout_logprobs=zero,
        advantage=0.0,
        token_weights=zero,
        policy_version=0,
    )
