"""What the loop needs from its workers. Local, pipelined and distributed runs are different objects behind these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from deepscaler.types import (
    GradeItem,
    Group,
    Problem,
    Request,
    Rollout,
    SamplingParams,
    TrainSample,
    UpdateStats,
    Verdict,
    WeightsInfo,
)


class Sampler(Protocol):
    """An engine: token ids in, token ids out. Every engine passes tests/unit/rollout/test_rollout_engine.py."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield every rollout as it finishes, in any order. Closing the iterator cancels what is left."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """Take over the named weights (torch tensors), cast to the engine's dtype."""
        ...

    def weights_info(self) -> WeightsInfo:
        """Version and digest of the weights that sampling uses right now, read back from the engine itself."""
        ...


class Fleet(Protocol):
    """One or many samplers behind one door. Knows the tokenizer, so it takes problems."""

    def sample(
        self,
        problems: Sequence[Problem],
        num_samples: int,
        params: SamplingParams,
        *,
        next_index: MutableMapping[str, int] | None = None,
    ) -> list[Group]:
        """Groups in the order of `problems`, their rollouts in the order of the sample index.

        next_index: problem id -> its first free sample index in this step, moved on by this call. Whoever samples
        twice in a step passes the same one, since equal indices draw equal completions; absent: a step of its own.
        """
        ...

    def publish_weights(self, learner: Learner) -> WeightsInfo:
        """Take over the learner's weights; raises RuntimeError when the engine's digest differs afterwards."""
        ...


class Grader(Protocol):
    """Verifies completions: the same for training, evaluation, saved completions and regrading."""

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """One verdict per item, in order. Never raises for what an item holds."""
        ...


class Learner(Protocol):
    """Owns the trainable weights and the optimizer.

    version: steps updated. num_updates: updates applied since the optimizer was new.
    """

    @property
    def version(self) -> int: ...

    @property
    def num_updates(self) -> int: ...

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        """One step's optimizer updates, one per mini-batch, in order."""
        ...

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None: ...

    def weights_info(self, dtype: Any = None) -> WeightsInfo:
        """Version and digest; with `dtype` (torch's) the digest that weights cast to it would have."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Any]]:
        """Every trainable weight (a torch tensor) under its transformers name, tied ones once."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights and optimizer into an existing empty directory."""
        ...

    def load(self, directory: Path, *, optimizer: bool = True) -> None:
        """Restore what `save` wrote; without the optimizer's state where the caller wants it new."""
        ...
