"""The interfaces between the loop and its workers. A laptop, torchrun and Ray construct different objects behind them.

The controller runs the loop. Weights and gradients never pass through it: the learner publishes a handle, and samplers
read the weights where they need them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from deepscaler.types import (
    FloatArray,
    GradeItem,
    Request,
    Rollout,
    SamplingParams,
    TokenSums,
    TrainSample,
    UpdateStats,
    Verdict,
    WeightsInfo,
)

PolicyOrReference = Literal["policy", "reference"]
T_co = TypeVar("T_co", covariant=True)


class PublishedWeights(Protocol):
    """A handle on one version of the learner's weights; the tensors are read where they are needed.

    dtype: as PyTorch names it, `float32` or `bfloat16`.
    """

    @property
    def version(self) -> int: ...

    def digest(self, dtype: str) -> str:
        """SHA-256 (hex) that the weights have when they are cast to `dtype` (weights.weights_digest)."""
        ...

    def tensors(self, dtype: str) -> Iterator[tuple[str, Any]]:
        """Name, as in transformers, and torch tensor of every weight, tied ones once."""
        ...


class Sampler(Protocol):
    """Token ids in, token ids out: one engine, or many behind one door.

    Training and evaluation use nothing else; the server drives the torch engine's scheduler itself. Every
    engine passes test_engine_conformance.py.
    """

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield every rollout as it finishes, in any order. Closing the iterator cancels the rest."""
        ...

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Take over these weights; returns what sampling uses from now on, read back from the engine itself.

        Raises RuntimeError when parts of the engine hold different weights.
        """
        ...

    def release_memory(self) -> None:
        """Give memory that only sampling needs to the learner on the same device; ends an unfinished generation."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class InterruptibleSampler(Sampler, Protocol):
    """A sampler whose completions can go on under newer weights (`rollout.max_policy_lag` from 2 on)."""

    def interrupt(self) -> None:
        """End the generation under way, if there is one. May be called from another thread, and again.

        `generate` then yields every unfinished completion as it is, with `FinishReason.CANCELLED`, and ends;
        `Request.begun` continues it.
        """
        ...


@runtime_checkable
class GroupSampler(Protocol):
    """A sampler made of several engines, each of which can be asked by itself."""

    def generate_on_each(self, request: Request, params: SamplingParams) -> list[tuple[str, Rollout]]:
        """(name of the engine, its completion of the request's only sample), of every engine with the newest weights.

        An engine that is lost meanwhile is left out; it is started again, and gets the weights before it samples.
        """
        ...


class Grader(Protocol):
    """Verifies completions: the same for training, evaluation, saved completions and regrading."""

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """One verdict per item, in order. Never raises for what an item holds."""
        ...


class Learner(Protocol):
    """Updates the policy.

    version: steps updated. num_updates: updates applied since the optimizer was new.
    """

    @property
    def version(self) -> int: ...

    @property
    def num_updates(self) -> int: ...

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        """One step's optimizer updates, one per mini-batch, in order."""
        ...

    def logprobs(self, samples: Sequence[TrainSample]) -> list[FloatArray]:
        """Log-probability of every completion token under the policy as it is now, float32 [num_tokens] (nats)."""
        ...

    def publish(self) -> PublishedWeights:
        """The weights as they are now; the handle is valid until the next update."""
        ...

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None: ...

    def save(self, directory: Path) -> None:
        """Write weights, optimizer and counters into an existing empty directory."""
        ...

    def begin_save(self, directory: Path) -> Future[None]:
        """As `save`, but returns when copies in host memory are made; the future's result comes when all is written."""
        ...

    def load(self, directory: Path, *, optimizer: bool = True) -> None:
        """Restore what `save` wrote; without the optimizer's state where the caller wants it new."""
        ...


class Validation(Protocol):
    """Evaluations inside training."""

    def evaluate(self, step: int, stage: str, weights_sha256: str) -> dict[str, Any]:
        """What results.json holds after this step, made by the sampler's weights, which have this digest."""
        ...

    def files_of(self, step: int) -> list[Path]: ...


class AppliedUpdate(NamedTuple):
    """grad_norm: of the whole gradient before clipping. learning_rate: what the optimizer holds, its largest."""

    grad_norm: float
    learning_rate: float


class Replica(Protocol):
    """The model with its optimizer: in one process, or in all ranks acting as one."""

    def logprobs(self, samples: Sequence[TrainSample], *, of: PolicyOrReference = "policy") -> list[FloatArray]:
        """Log-probability of every completion token, float32 [num_tokens] per sample (nats)."""
        ...

    def accumulate(
        self, samples: Sequence[TrainSample], old: list[FloatArray] | None, ref: list[FloatArray] | None
    ) -> TokenSums:
        """Add the samples' gradient. old: log-probabilities at the start of the step, None while on-policy."""
        ...

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        """Clip by the global norm and update. A norm that is not finite: nothing is applied anywhere."""
        ...

    def publish(self, version: int) -> PublishedWeights: ...

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None: ...

    def save(self, directory: Path) -> None: ...

    def begin_save(self, directory: Path) -> Future[None]:
        """As `Learner.begin_save`."""
        ...

    def load(self, directory: Path, *, num_updates: int | None) -> None:
        """num_updates: that the optimizer to be loaded has the moments of; None leaves the optimizer new."""
        ...


class Future(Protocol[T_co]):
    """The answer to one call of a remote object."""

    def ready(self) -> bool:
        """Whether `result` answers, or raises, without waiting. Raises WorkerLost as it does."""
        ...

    def result(self) -> T_co:
        """Wait for it. Raises RunError when the other side failed, WorkerLost when it died or gives no sign of life."""
        ...


class Stream(Protocol[T_co]):
    """The values that one call of a remote object yields."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __next__(self) -> T_co:
        """Raises RunError and WorkerLost as a future's `result` does."""
        ...

    def ready(self) -> bool:
        """Whether the next value, the end, or an error is there without waiting. Raises WorkerLost as `__next__` does.

        Who asks only this, over and over, has to learn of a lost process here.
        """
        ...

    def cancel(self) -> None:
        """Ask the other side to end early; what it yields until then can still be taken. May be called again."""
        ...

    def close(self) -> None:
        """Cancel the rest and forget it. Does not raise where the other side is lost."""
        ...


class Remote(Protocol):
    """An object in another process: the only thing in which a pipe, a torchrun rank and a Ray actor differ.

    `call` and `stream` raise WorkerLost where the process is gone already.
    """

    def call(self, method: str, *arguments: object) -> Future[Any]: ...

    def stream(self, method: str, *arguments: object) -> Stream[Any]: ...

    def close(self) -> None:
        """End the process, at once."""
        ...


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers of a run.

    num_processes: that add up gradients; sums are rounded in another order where there are more or fewer.
    notices: what happened to workers, as in `worker process 1 was started again: …`; read by taking them out.
    write_stacks: asks workers of other kinds than child processes for the stacks of their threads; returns at once.
    """

    learner: Learner
    sampler: Sampler
    grader: Grader
    num_processes: int = 1
    notices: deque[str] = field(default_factory=deque)
    write_stacks: Callable[[], object] = lambda: None
