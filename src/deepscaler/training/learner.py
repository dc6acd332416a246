"""The learner: weights, optimizer, and one step's updates."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepscaler.config.models import Recipe
from deepscaler.observability.counts import counted
from deepscaler.training.gradients import GradientComputer, GradientTeam, Logprobs
from deepscaler.training.metrics import UpdateMetrics
from deepscaler.training.optimizer_state import (
    check_optimizer,
    load_optimizer,
    load_weights,
    read_counters,
    save_optimizer,
)
from deepscaler.types import RunError, TrainSample, UpdateStats, WeightsInfo
from deepscaler.weights import weights_digest

MAX_SKIPPED_IN_A_ROW = 5


class TrainingDivergedError(RunError):
    """Updates were skipped several times in a row for non-finite gradients."""


class LocalLearner:
    """One device. Parameters stay float32; bfloat16 compute goes through autocast.

    `team` computes gradients: this process alone, or several that share the weights (orchestration.parallel).
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model = model
        self._algorithm = recipe.algorithm
        self._optimizer_section = recipe.optimizer
        self.optimizer = self._new_optimizer()
        self.version = 0
        self.num_updates = 0
        self._skipped_in_a_row = 0
        if recipe.model.activation_checkpointing:
            enable_checkpointing(model)
        self._reference: nn.Module | None = None
        if self._algorithm.kl.coefficient > 0:
            self._reference = copy.deepcopy(model).eval().requires_grad_(False)
        self.computer = GradientComputer(
            model,
            self._reference,
            recipe.algorithm,
            recipe.training,
            temperature=recipe.rollout.temperature,
            autocast=recipe.model.dtype == "bfloat16",
            float32_head=recipe.model.float32_head,
        )
        self.team: GradientTeam = self.computer

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        if reset_optimizer:
            self.optimizer = self._new_optimizer()
            self.num_updates = 0
        if reset_reference and self._reference is not None:
            self._reference.load_state_dict(self.model.state_dict())

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        """One optimizer update per mini-batch. Raises TrainingDivergedError after five skipped in a row."""
        metrics = UpdateMetrics()
        batches = [[s for s in batch if self._contributes(s)] for batch in mini_batches]
        # With a single update the current policy still is the policy at the start of the step, exactly.
        on_policy = len(batches) == 1
        olds = [None if on_policy else self.team.logprobs(batch) for batch in batches]
        refs = [self.team.logprobs(batch, reference=True) if self._reference else None for batch in batches]
        for batch, old, ref in zip(batches, olds, refs, strict=True):
            if batch:
                self._one_update(batch, old, ref, metrics)
        self.version += 1
        return metrics.stats()

    def _contributes(self, sample: TrainSample) -> bool:
        """False for samples whose every loss term is exactly zero: they cost no forward and no backward."""
        regularised = self._reference is not None or self._algorithm.entropy_coefficient > 0
        return bool(sample.token_weights.any()) and (sample.advantage != 0 or regularised)

    def _one_update(
        self, batch: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None, metrics: UpdateMetrics
    ) -> None:
        self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        metrics.merge(self.team.accumulate(batch, old, ref))
        limit = self._optimizer_section.max_grad_norm
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        learning_rate = max(float(group["lr"]) for group in self.optimizer.param_groups)  # what it really holds
        metrics.add_update(grad_norm, learning_rate, applied=math.isfinite(grad_norm))
        if math.isfinite(grad_norm):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)  # while sampling, its memory is the cache's
            self.num_updates += 1
            self._skipped_in_a_row = 0
            return
        self.optimizer.zero_grad(set_to_none=True)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDivergedError(
                f"{counted(self._skipped_in_a_row, 'update')} in a row had a non-finite gradient (last norm "
                f"{grad_norm}); the "
                f"weights are those before them. Learning rate {learning_rate:g}; mean |log-probability mismatch| "
                f"{metrics.mismatch_mean:.3g}. Lower optimizer.learning_rate, or go back to an earlier checkpoint"
            )

    def _new_optimizer(self) -> torch.optim.AdamW:
        o = self._optimizer_section
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=o.learning_rate,
            betas=(o.beta1, o.beta2),
            eps=o.eps,
            weight_decay=o.weight_decay,
            fused=True,
        )

    def _set_learning_rate(self) -> None:
        warmup = self._optimizer_section.warmup_updates
        factor = min(1.0, (self.num_updates + 1) / warmup) if warmup else 1.0
        rate = self._optimizer_section.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def weights_info(self, dtype: torch.dtype | None = None) -> WeightsInfo:
        return WeightsInfo(self.version, weights_digest(self.named_weights(), dtype))

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every trainable weight under its transformers name, tied ones once."""
        return self.model.named_parameters()

    def save(self, directory: Path) -> None:
        """Weights as a Hugging Face model, optimizer and reference as safetensors, counters as JSON."""
        model: Any = self.model
        model.save_pretrained(directory)
        counters = {
            "version": self.version,
            "num_updates": self.num_updates,
            "skipped_in_a_row": self._skipped_in_a_row,
        }
        save_optimizer(directory, self.optimizer, self.model, self._reference, counters)

    def load(self, directory: Path, *, optimizer: bool = True) -> None:
        """optimizer: also its state and the warm-up's counter; otherwise these begin anew."""
        load_weights(directory, self.model, self._reference)
        if not optimizer:
            self.version = read_counters(directory)["version"]
            return
        counters = load_optimizer(directory, self.optimizer, self.model)
        check_optimizer(self.optimizer, counters["num_updates"], directory)
        self.version = counters["version"]
        self.num_updates = counters["num_updates"]
        self._skipped_in_a_row = counters["skipped_in_a_row"]


def enable_checkpointing(model: Any) -> None:
    """transformers renames the switch in v5 and will drop the old name in v6."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model.train()  # it is active in training mode only; these models have no dropout
