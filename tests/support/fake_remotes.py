"""Remote samplers without processes: a completion is a function of its problem and index, a process dies on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepscaler.types import FinishReason, Request, Rollout, RunError, WeightsInfo, WorkerLost


@dataclass
class Handle:
    """Published weights of which only the version counts."""

    version: int

    def digest(self, dtype: str) -> str:
        return f"digest of {self.version}"

    def tensors(self, dtype: str) -> Iterator[tuple[str, Any]]:
        return iter(())


@dataclass
class Process:
    """dies_after: completions, and in which of its calls by name it dies at once. stalls: never answers, until lost.

    wrong: reports other weights than it was given.
    """

    dies_after: int | None = None
    dies_in: str = ""
    wrong: bool = False
    version: int = 0
    is_dead: bool = False
    sampled: list[tuple[str, int]] = field(default_factory=list)
    shares: list[list[Request]] = field(default_factory=list)

    def call(self, method: str, *arguments: Any) -> Answer:
        self.check()
        if method == "load_weights":
            self.version = arguments[0].version
        info = WeightsInfo(self.version, "another" if self.wrong else f"digest of {self.version}")
        return Answer(self, method, info)

    def stream(self, method: str, *arguments: Any) -> Completions:
        self.check()
        self.shares.append(arguments[0])
        return Completions(self, arguments[0])

    def close(self) -> None:
        self.is_dead = True

    def check(self) -> None:
        if self.is_dead:
            raise WorkerLost("it died; its last line")


@dataclass
class Answer:
    process: Process
    method: str
    value: Any

    def ready(self) -> bool:
        return True

    def result(self) -> Any:
        if self.process.dies_in == self.method:
            self.process.is_dead = True
        self.process.check()
        return self.value


class Completions:
    def __init__(self, process: Process, requests: Sequence[Request]) -> None:
        self._process = process
        self._rollouts = iter([rollout(r, i, process.version) for r in requests for i in indices(r)])
        self._may_come = True

    def __iter__(self) -> Iterator[Rollout]:
        return self

    def __next__(self) -> Rollout:
        process = self._process
        if process.dies_after is not None and len(process.sampled) >= process.dies_after:
            process.is_dead = True
        process.check()
        made = next(self._rollouts)
        process.sampled.append((made.problem_id, made.sample_index))
        return made

    def ready(self) -> bool:
        """Every other time, so that samplers take turns."""
        self._may_come = not self._may_come
        return self._may_come

    def cancel(self) -> None:
        """What has not come yet comes with its first token only."""
        self._rollouts = iter([begun(whole) for whole in self._rollouts])

    def close(self) -> None:
        self._rollouts = iter(())


class FakeEngine:
    """A sampler of this process."""

    def __init__(self) -> None:
        self.version = 0

    def generate(self, requests: Sequence[Request], params: Any) -> Iterator[Rollout]:
        for request in requests:
            for index in indices(request):
                yield rollout(request, index, self.version)

    def load_weights(self, weights: Any) -> WeightsInfo:
        self.version = weights.version
        return WeightsInfo(self.version, f"digest of {self.version}")

    def release_memory(self) -> None:
        pass

    def close(self) -> None:
        raise RunError("the caller closes it")


def begun(whole: Rollout) -> Rollout:
    return replace(
        whole,
        completion_ids=whole.completion_ids[:1],
        rollout_logprobs=whole.rollout_logprobs[:1],
        finish_reason=FinishReason.CANCELLED,
    )


def indices(request: Request) -> range:
    return range(request.first_sample_index, request.first_sample_index + request.num_samples)


def rollout(request: Request, index: int, version: int) -> Rollout:
    """Its length grows with the number in the problem's name."""
    number = int("".join(filter(str.isdigit, request.problem_id)))
    ids = np.full(1 + 10 * number, index, np.int32)
    logprobs = np.zeros(len(ids), np.float32)
    return Rollout(request.problem_id, index, request.prompt_ids, ids, logprobs, FinishReason.STOP, version)
