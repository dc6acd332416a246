"""The replica of one machine: this process updates the weights, helper processes add to the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from deepscaler.cluster.helper import trainable, views_of
from deepscaler.cluster.sharding import split_evenly
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.protocols import PolicyOrReference
from deepscaler.training.gradients import GradientComputer, Logprobs
from deepscaler.training.replica import ModelReplica, Optimizers
from deepscaler.types import TokenSums, TrainSample

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GradientHelper:
    """A remote `cluster.helper.Helper` with the memory in which it leaves its gradient."""

    remote: SupervisedRemote
    lent: Tensor

    def add_gradient(self, model: nn.Module) -> None:
        parameters = trainable(model)
        for parameter, part in zip(parameters, views_of(self.lent, [p.shape for p in parameters]), strict=True):
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad.add_(part)


class SharedReplica(ModelReplica):
    """Shards are fixed by position and size, so the result is a function of the recipe and the number of processes."""

    def __init__(
        self,
        computer: GradientComputer,
        make_optimizers: Callable[[nn.Module], Optimizers],
        helpers: Sequence[GradientHelper] = (),
    ) -> None:
        super().__init__(computer, make_optimizers)
        self._helpers = list(helpers)

    @property
    def num_processes(self) -> int:
        return 1 + len(self._helpers)

    def logprobs(self, samples: Sequence[TrainSample], *, of: PolicyOrReference = "policy") -> Logprobs:
        shards = split_evenly([s.num_tokens for s in samples], self.num_processes)
        replies = [
            helper.remote.call("logprobs", [samples[i] for i in shard], of)
            for helper, shard in zip(self._helpers, shards[1:], strict=True)
        ]
        parts = [super().logprobs([samples[i] for i in shards[0]], of=of)]
        parts += [reply.result() for reply in replies]
        return in_order(shards, parts)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        return self.accumulate_while(samples, old, ref, lambda: None, 0)[0]

    def accumulate_while(
        self,
        samples: Sequence[TrainSample],
        old: Logprobs | None,
        ref: Logprobs | None,
        work: Callable[[], T],
        work_tokens: int,
    ) -> tuple[TokenSums, T]:
        """As `accumulate`; meanwhile this process also does `work`, about the cost of so many tokens."""
        shards = split_evenly([s.num_tokens for s in samples], self.num_processes, work_tokens)
        replies = [
            helper.remote.call("accumulate", *_chosen(shard, samples, old, ref))
            for helper, shard in zip(self._helpers, shards[1:], strict=True)
        ]
        sums = super().accumulate(*_chosen(shards[0], samples, old, ref))
        made = work()
        for helper, reply in zip(self._helpers, replies, strict=True):
            sums += reply.result()
            helper.add_gradient(self._computer.model)
        return sums, made


def in_order(shards: Sequence[Sequence[int]], parts: Sequence[Sequence[T]]) -> list[T]:
    """One value per index, from one part per shard."""
    values = {i: v for shard, part in zip(shards, parts, strict=True) for i, v in zip(shard, part, strict=True)}
    return [values[i] for i in range(len(values))]


def _chosen(
    shard: Sequence[int], samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None
) -> tuple[list[TrainSample], Logprobs | None, Logprobs | None]:
    return (
        [samples[i] for i in shard],
        None if old is None else [old[i] for i in shard],
        None if ref is None else [ref[i] for i in shard],
    )
