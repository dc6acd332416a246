"""The only rank of a learner in another process: it computes as one process does, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepscaler.modeling.published_files import KEPT_VERSIONS, FileWeights, remove_versions, write_weights
from deepscaler.protocols import AppliedUpdate, PolicyOrReference
from deepscaler.training.background_write import write_as_rank
from deepscaler.training.gradients import Logprobs
from deepscaler.training.replica import ModelReplica
from deepscaler.types import TokenSums, TrainSample


class OnlyRank:
    """A replica whose weights are published as files in `root`, cast to `dtype`."""

    def __init__(self, replica: ModelReplica, root: Path, dtype: str) -> None:
        self._replica, self._root, self._dtype = replica, root, dtype

    def logprobs(self, samples: Sequence[TrainSample], of: PolicyOrReference) -> Logprobs:
        return self._replica.logprobs(samples, of=of)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        return self._replica.accumulate(samples, old, ref)

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        return self._replica.apply(learning_rate, max_grad_norm)

    def publish(self, version: int) -> FileWeights:
        written = write_weights(self._root, version, self._replica.named_weights(), self._dtype)
        remove_versions(self._root, keep=KEPT_VERSIONS)
        return written

    def begin_stage(self, reset_optimizer: bool, reset_reference: bool) -> None:
        self._replica.begin_stage(reset_optimizer=reset_optimizer, reset_reference=reset_reference)

    def save(self, directory: Path) -> None:
        self._replica.save(directory)

    def begin_save(self, directory: Path) -> None:
        """Returns when copies are made; `RankWrites` tells when they are written."""
        written = self._replica.begin_save(directory)
        write_as_rank(directory, 0, written.result)

    def load(self, directory: Path, num_updates: int | None) -> None:
        self._replica.load(directory, num_updates=num_updates)
