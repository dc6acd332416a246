"""The policy learner: one step's updates, over a replica that holds weights and gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import OptimizerSection
from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import read_json
from deepscaler.protocols import Future, PublishedWeights, Replica
from deepscaler.training.metrics import StepSums
from deepscaler.training.schedules import learning_rate_factor, warmup_factor
from deepscaler.types import FloatArray, RunError, TrainSample, UpdateStats

COUNTERS_FILE = "learner.json"
MAX_SKIPPED_IN_A_ROW = 5
Logprobs = list[FloatArray]


class TrainingDivergedError(RunError):
    """Updates were skipped several times in a row for non-finite gradients."""


class PolicyLearner:
    """Decides which samples go into which update, and at which learning rate. Loads no torch.

    version: steps updated. num_updates: updates applied since the optimizer was new.
    """

    def __init__(self, replica: Replica, algorithm: AlgorithmSection, optimizer: OptimizerSection) -> None:
        self._replica = replica
        self._algorithm = algorithm
        self._optimizer = optimizer
        self.version = 0
        self.num_updates = 0
        self._skipped_in_a_row = 0

    @property
    def replica(self) -> Replica:
        return self._replica

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        self._replica.begin_stage(reset_optimizer=reset_optimizer, reset_reference=reset_reference)
        if reset_optimizer:
            self.num_updates = 0

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        """One optimizer update per mini-batch and pass. Raises TrainingDivergedError after five skipped in a row."""
        sums = StepSums()
        batches = [[s for s in batch if self._contributes(s)] for batch in mini_batches]
        passes = self._optimizer.num_iterations
        # With a single update the current policy still is the policy at the start of the step, exactly.
        on_policy = passes * len(batches) == 1
        olds = [None if on_policy else self._replica.logprobs(batch) for batch in batches]
        refs = [self._replica.logprobs(batch, of="reference") if self._has_reference else None for batch in batches]
        updates = [*zip(batches, olds, refs, strict=True)] * passes
        for index, (batch, old, ref) in enumerate(updates):
            if batch:
                self._one_update(batch, old, ref, sums, self._learning_rate(index, len(updates)))
        self.version += 1
        return sums.stats()

    @property
    def _has_reference(self) -> bool:
        return self._algorithm.kl.coefficient > 0

    def _contributes(self, sample: TrainSample) -> bool:
        """False for samples whose every loss term is exactly zero: they cost no forward and no backward."""
        regularised = self._has_reference or self._algorithm.entropy_coefficient > 0
        return bool(sample.token_weights.any()) and (sample.advantage != 0 or regularised)

    def _one_update(
        self, batch: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None, sums: StepSums, rate: float
    ) -> None:
        sums.tokens += self._replica.accumulate(batch, old, ref)
        applied = self._replica.apply(rate, self._optimizer.max_grad_norm)
        sums.add_update(applied)
        if math.isfinite(applied.grad_norm):
            self.num_updates += 1
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDivergedError(
                f"{counted(self._skipped_in_a_row, 'update')} in a row had a non-finite gradient (last norm "
                f"{applied.grad_norm}); the weights are those before them. Learning rate {applied.learning_rate:g}; "
                f"mean |log-probability mismatch| {sums.tokens.mismatch_mean:.3g}. Lower optimizer.learning_rate, or "
                "go back to an earlier checkpoint"
            )

    def _learning_rate(self, index: int, per_step: int) -> float:
        """Of the update `index` of this step's `per_step` ones.

        The warm-up counts applied updates and begins anew with a new optimizer; the decay counts the run's steps.
        """
        section = self._optimizer
        return (
            section.learning_rate
            * warmup_factor(self.num_updates, section.warmup_updates)
            * learning_rate_factor(
                section.schedule,
                update=self.version * per_step + index,
                num_updates=None if section.decay_steps is None else section.decay_steps * per_step,
                warmup_updates=section.warmup_updates,
                floor=section.min_learning_rate_ratio,
            )
        )

    def logprobs(self, samples: Sequence[TrainSample]) -> Logprobs:
        return self._replica.logprobs(samples)

    def publish(self) -> PublishedWeights:
        return self._replica.publish(self.version)

    def save(self, directory: Path) -> None:
        """What the replica saves, and counters as JSON."""
        self._replica.save(directory)
        self._write_counters(directory)

    def begin_save(self, directory: Path) -> Future[None]:
        """As `save`, of copies in host memory: returns when they are made, its future when they are written."""
        written = self._replica.begin_save(directory)
        self._write_counters(directory)
        return written

    def _write_counters(self, directory: Path) -> None:
        counters = {
            "version": self.version,
            "num_updates": self.num_updates,
            "skipped_in_a_row": self._skipped_in_a_row,
        }
        (directory / COUNTERS_FILE).write_text(json.dumps(counters) + "\n")

    def load(self, directory: Path, *, optimizer: bool = True) -> None:
        """optimizer: also its state and the warm-up's counter; otherwise these begin anew.

        Raises ValueError for a directory without counters, RunError for an optimizer that does not belong to them.
        """
        counters = read_json(directory / COUNTERS_FILE)
        if counters is None:
            raise ValueError(f"{directory} holds no {COUNTERS_FILE}, so it is no checkpoint of a training run")
        self._replica.load(directory, num_updates=counters["num_updates"] if optimizer else None)
        self.version = counters["version"]
        if optimizer:
            self.num_updates = counters["num_updates"]
            self._skipped_in_a_row = counters["skipped_in_a_row"]
