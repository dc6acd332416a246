"""Optimizer updates on traces, and the loss on traces kept out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepscaler.config.sections.training import OptimizerSection
from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import read_json
from deepscaler.protocols import Replica
from deepscaler.training.cross_entropy import token_mean
from deepscaler.training.learner import COUNTERS_FILE, MAX_SKIPPED_IN_A_ROW, TrainingDivergedError
from deepscaler.training.schedules import learning_rate_factor, warmup_factor
from deepscaler.types import TrainSample

VALIDATION_BATCH = 64  # sequences of one call, so that log-probabilities of a large set never are in memory at once


@dataclass(frozen=True, slots=True)
class Update:
    """loss: mean cross-entropy of the assistant's tokens before the update (nats). grad_norm: before clipping.

    num_trained_tokens: prompts included. num_loss_tokens: of the assistant.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    num_trained_tokens: int
    num_loss_tokens: int

    @property
    def applied(self) -> bool:
        return math.isfinite(self.grad_norm)

    @property
    def metrics(self) -> dict[str, float]:
        """For metrics.jsonl: finite numbers only."""
        values = {
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "num_trained_tokens": self.num_trained_tokens,
            "num_loss_tokens": self.num_loss_tokens,
            "skipped_updates": 0 if self.applied else 1,
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}


class SftLearner:
    """One update a step, at the rate of the schedule. Loads no torch.

    num_steps: of the whole run, over which the learning rate falls where `optimizer.decay_steps` is absent.
    num_applied: updates so far without those skipped for a gradient that is not finite.
    """

    def __init__(self, replica: Replica, optimizer: OptimizerSection, num_steps: int) -> None:
        self._replica, self._optimizer, self._num_steps = replica, optimizer, num_steps
        self.num_applied = 0
        self._skipped_in_a_row = 0

    def update(self, step: int, samples: Sequence[TrainSample]) -> Update:
        """The update of a step, counted from 1. Raises TrainingDivergedError after five skipped in a row."""
        sums = self._replica.accumulate(token_mean(samples), None, None)
        applied = self._replica.apply(self.learning_rate(step), self._optimizer.max_grad_norm)
        done = Update(
            loss=sums.loss,
            grad_norm=applied.grad_norm,
            learning_rate=applied.learning_rate,
            num_trained_tokens=sum(sample.num_tokens for sample in samples),
            num_loss_tokens=int(sum(sample.token_weights.sum() for sample in samples)),
        )
        self.num_applied += done.applied
        self._skipped_in_a_row = 0 if done.applied else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDivergedError(
                f"{counted(self._skipped_in_a_row, 'update')} in a row had a non-finite gradient (last norm "
                f"{applied.grad_norm}, loss {sums.loss}); the weights are those before them. Lower "
                f"optimizer.learning_rate ({self._optimizer.learning_rate:g}), or look at the traces of step {step}"
            )
        return done

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 1."""
        section = self._optimizer
        return (
            section.learning_rate
            * warmup_factor(self.num_applied, section.warmup_updates)
            * learning_rate_factor(
                section.schedule,
                update=step - 1,
                num_updates=section.decay_steps or self._num_steps,
                warmup_updates=section.warmup_updates,
                floor=section.min_learning_rate_ratio,
            )
        )

    def mean_loss(self, samples: Sequence[TrainSample]) -> float:
        """Mean cross-entropy of the learned tokens of all samples (nats), under the weights as they are."""
        total, count = 0.0, 0.0
        for start in range(0, len(samples), VALIDATION_BATCH):
            batch = samples[start : start + VALIDATION_BATCH]
            for sample, logprobs in zip(batch, self._replica.logprobs(batch), strict=True):
                total -= float((sample.token_weights * logprobs).sum())
                count += float(sample.token_weights.sum())
        return total / count

    def save(self, directory: Path) -> None:
        """What the replica saves, and counters as JSON."""
        self._replica.save(directory)
        counters = {"num_updates": self.num_applied, "skipped_in_a_row": self._skipped_in_a_row}
        (directory / COUNTERS_FILE).write_text(json.dumps(counters) + "\n")

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote. Raises ValueError for a directory without counters."""
        counters = read_json(directory / COUNTERS_FILE)
        if counters is None:
            raise ValueError(f"{directory} holds no {COUNTERS_FILE}, so it is no checkpoint of `deepscaler sft`")
        self._replica.load(directory, num_updates=counters["num_updates"])
        self.num_applied, self._skipped_in_a_row = counters["num_updates"], counters["skipped_in_a_row"]
