"""A replica over ranks: a call goes to all of them, each with its share of the samples.

Ranks meet in collectives, so that none is waited for before all have been called, and the failure of one is raised
as soon as it is known, not when the others have given up waiting for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from deepscaler.cluster.replica import in_order
from deepscaler.cluster.sharding import split_evenly
from deepscaler.protocols import AppliedUpdate, Future, PolicyOrReference, PublishedWeights, Remote, Stream
from deepscaler.training.background_write import RankWrites
from deepscaler.training.sharded_replica import ANOTHER_RANK
from deepscaler.types import FloatArray, RunError, TokenSums, TrainSample, WorkerLost

POLL_S = 0.002
FIRST_CAUSE_S = 5.0  # for the message of a rank that failed first, after another one lost the connection to it
OF_ANOTHER = ("Connection closed by peer", "Connection reset by peer", ANOTHER_RANK)  # gloo's words, and ours
Logprobs = list[FloatArray]


class OwnRank:
    """The rank of this process as a remote: a call runs when its result is asked for, after the others were called."""

    def __init__(self, target: object) -> None:
        self._target = target

    def call(self, method: str, *arguments: object) -> OwnFuture:
        return OwnFuture(lambda: getattr(self._target, method)(*arguments))

    def stream(self, method: str, *arguments: object) -> Stream[object]:
        raise NotImplementedError("what this process samples is not sent to it")

    def close(self) -> None:
        """Nothing to end: it is this process."""


class OwnFuture:
    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run

    def ready(self) -> bool:
        return True

    def result(self) -> object:
        return self._run()


class RankGroup:
    """ranks: remote `training.sharded_replica.ShardedReplica`s, by rank; the caller closes them.

    Samples are dealt by position and size, so that the result is a function of the recipe and the number of ranks.

    together: neighbouring ranks that share every micro-batch (training.context_parallel). They get the same samples,
    and each answers for all of them.
    """

    def __init__(self, ranks: Sequence[Remote], together: int = 1) -> None:
        assert len(ranks) % together == 0
        self._ranks, self._together = list(ranks), together

    @property
    def num_ranks(self) -> int:
        return len(self._ranks)

    def logprobs(self, samples: Sequence[TrainSample], *, of: PolicyOrReference = "policy") -> Logprobs:
        shards = self._shards(samples)
        parts = self._shared("logprobs", [([samples[i] for i in shard], of) for shard in shards])
        return in_order(shards, parts)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        shares = [
            (
                [samples[i] for i in shard],
                None if old is None else [old[i] for i in shard],
                None if ref is None else [ref[i] for i in shard],
            )
            for shard in self._shards(samples)
        ]
        return sum(self._shared("accumulate", shares), TokenSums())

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        applied: list[AppliedUpdate] = self._all("apply", learning_rate, max_grad_norm)
        if len({math.isfinite(one.grad_norm) for one in applied}) > 1:
            norms = ", ".join(f"{one.grad_norm:g}" for one in applied)
            raise RunError(f"ranks disagree on the norm of the gradient ({norms}): their weights differ from here on")
        return applied[0]

    def publish(self, version: int) -> PublishedWeights:
        return self._all("publish", version)[0]

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        self._all("begin_stage", reset_optimizer, reset_reference)

    def save(self, directory: Path) -> None:
        """Returns when all ranks have written."""
        self._all("save", directory.absolute())

    def begin_save(self, directory: Path) -> RankWrites:
        """Returns when all ranks have copied what they hold."""
        self._all("begin_save", directory.absolute())
        return RankWrites(directory.absolute(), self.num_ranks)

    def load(self, directory: Path, *, num_updates: int | None) -> None:
        self._all("load", directory.absolute(), num_updates)

    def _shards(self, samples: Sequence[TrainSample]) -> list[list[int]]:
        return split_evenly([s.num_tokens for s in samples], self.num_ranks // self._together)

    def _shared(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        """One result per share: each goes to as many ranks as work together, of which the first answers for all."""
        return self._results(method, [given for given in arguments for _ in range(self._together)])[:: self._together]

    def _all(self, method: str, *arguments: object) -> list[Any]:
        return self._results(method, [arguments] * self.num_ranks)

    def _results(self, method: str, arguments: Iterable[tuple[object, ...]]) -> list[Any]:
        """One per rank, all called at once. Raises RunError with the first cause where one fails."""
        futures = [rank.call(method, *given) for rank, given in zip(self._ranks, arguments, strict=True)]
        waiting, results = dict(enumerate(futures)), dict[int, Any]()
        while waiting:
            errors = _take_ready(waiting, results)
            if errors:
                raise _first_cause(errors, waiting) from errors[0]
            if waiting:
                time.sleep(POLL_S)
        return [results[rank] for rank in range(self.num_ranks)]


def _take_ready(waiting: dict[int, Future[Any]], results: dict[int, Any]) -> list[Exception]:
    """Move the results that are there from one to the other; returns the errors among them."""
    errors: list[Exception] = []
    for rank, future in list(waiting.items()):
        try:
            if not future.ready():
                continue
            results[rank] = future.result()
        except Exception as error:
            errors.append(error)
        del waiting[rank]
    return errors


def _first_cause(errors: list[Exception], waiting: dict[int, Future[Any]]) -> Exception:
    """What to say of a call that failed on one rank or more. Ranks that only lost the connection to it come last."""
    deadline = time.monotonic() + FIRST_CAUSE_S
    while waiting and time.monotonic() < deadline:
        errors += _take_ready(waiting, {})
        time.sleep(POLL_S)
    if len(errors) == 1:
        return errors[0]
    causes = [error for error in errors if not any(words in str(error) for words in OF_ANOTHER)] or errors
    kind = WorkerLost if any(isinstance(error, WorkerLost) for error in causes) else RunError
    return kind("; ".join(dict.fromkeys(str(error) for error in causes)))
