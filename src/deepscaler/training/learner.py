"""The learner: weights, optimizer, and one step's updates on packed micro-batches.

C: completion tokens of one micro-batch. Token weights come with the samples, so micro-batches simply add up:
splitting, packing and the order of samples change the result by rounding only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepscaler.algorithms.importance import truncated_importance_weights
from deepscaler.algorithms.kl import KL_ESTIMATORS
from deepscaler.algorithms.losses import LOSSES, combine
from deepscaler.attention import forward_hidden
from deepscaler.config.models import AlgorithmSection, OptimizerSection, Recipe, TrainingSection
from deepscaler.training.logprobs import token_logprobs
from deepscaler.training.metrics import UpdateMetrics
from deepscaler.training.optimizer_state import load_optimizer, save_optimizer
from deepscaler.training.packing import PackedBatch, pack, per_token, plan_micro_batches
from deepscaler.types import FloatArray, RunError, TrainSample, UpdateStats, WeightsInfo
from deepscaler.weights import weights_digest

MAX_SKIPPED_IN_A_ROW = 5


class TrainingDivergedError(RunError):
    """Updates were skipped several times in a row for non-finite gradients."""


class LocalLearner:
    """One process, one device. Parameters stay float32; bfloat16 compute goes through autocast."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model = model
        self._algorithm: AlgorithmSection = recipe.algorithm
        self._optimizer_section: OptimizerSection = recipe.optimizer
        self._training: TrainingSection = recipe.training
        self._temperature = recipe.rollout.temperature
        self._device = next(model.parameters()).device
        self._autocast = recipe.model.dtype == "bfloat16"
        self.optimizer = self._new_optimizer()
        self.version = 0
        self._num_updates = 0
        self._skipped_in_a_row = 0
        if recipe.model.activation_checkpointing:
            _enable_checkpointing(model)
        self._reference: nn.Module | None = None
        if self._algorithm.kl.coefficient > 0:
            self._reference = copy.deepcopy(model).eval().requires_grad_(False)

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        if reset_optimizer:
            self.optimizer = self._new_optimizer()
            self._num_updates = 0
        if reset_reference and self._reference is not None:
            self._reference.load_state_dict(self.model.state_dict())

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        """One optimizer update per mini-batch. Raises TrainingDivergedError after five skipped in a row."""
        metrics = UpdateMetrics()
        batches = [[s for s in batch if self._contributes(s)] for batch in mini_batches]
        # With a single update the current policy still is the policy at the start of the step, exactly.
        on_policy = len(batches) == 1
        olds = [None if on_policy else self._logprobs_of(self.model, batch) for batch in batches]
        refs = [self._logprobs_of(self._reference, batch) if self._reference else None for batch in batches]
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
        self,
        batch: Sequence[TrainSample],
        old: list[FloatArray] | None,
        ref: list[FloatArray] | None,
        metrics: UpdateMetrics,
    ) -> None:
        learning_rate = self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        for members in self._plan(batch):
            samples = [batch[i] for i in members]
            loss = self._loss(
                samples,
                None if old is None else [old[i] for i in members],
                None if ref is None else [ref[i] for i in members],
                metrics,
            )
            loss.backward()
        limit = self._optimizer_section.max_grad_norm
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        metrics.add_update(grad_norm, learning_rate, applied=math.isfinite(grad_norm))
        if math.isfinite(grad_norm):
            self.optimizer.step()
            self._num_updates += 1
            self._skipped_in_a_row = 0
            return
        self.optimizer.zero_grad(set_to_none=True)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDivergedError(
                f"{self._skipped_in_a_row} updates in a row had a non-finite gradient (last norm {grad_norm}); the "
                f"weights are those before them. Learning rate {learning_rate:g}; mean |log-probability mismatch| "
                f"{metrics.mismatch_mean:.3g}. Lower optimizer.learning_rate, or go back to an earlier checkpoint"
            )

    def _loss(
        self,
        samples: Sequence[TrainSample],
        old: list[FloatArray] | None,
        ref: list[FloatArray] | None,
        metrics: UpdateMetrics,
    ) -> Tensor:
        """The micro-batch's share of the step's loss: a plain sum over its tokens."""
        device, algorithm = self._device, self._algorithm
        batch = pack(samples, device)
        logprobs_C, entropy_C = self._forward(self.model, batch)
        old_C = logprobs_C.detach() if old is None else per_token(samples, old, device)
        rollout_C = per_token(samples, [s.rollout_logprobs for s in samples], device)
        advantages_C = torch.tensor([s.advantage for s in samples], device=device)[batch.segments]
        weights_C = per_token(samples, [s.token_weights for s in samples], device)
        policy = LOSSES[algorithm.loss](
            logprobs_C,
            old_C,
            advantages_C,
            batch.segments,
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
        )
        importance_C = None
        if algorithm.importance_cap > 0:
            importance_C = truncated_importance_weights(old_C, rollout_C, algorithm.importance_cap)
        kl_C = None
        if ref is not None:
            kl_C = KL_ESTIMATORS[algorithm.kl.estimator](logprobs_C, per_token(samples, ref, device))
        loss_C = combine(
            policy.loss_T,
            importance_T=importance_C,
            kl_T=kl_C,
            kl_coefficient=algorithm.kl.coefficient,
            entropy_T=entropy_C,
            entropy_coefficient=algorithm.entropy_coefficient,
        )
        metrics.add_tokens(batch.num_tokens, entropy_C, policy.clipped_T, kl_C, old_C - rollout_C)
        return (weights_C * loss_C).sum()

    def _forward(self, model: nn.Module, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of every completion token: float32 [C] each."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            hidden = forward_hidden(model, batch.input_ids, batch.position_ids, batch.attention)[0]
            return token_logprobs_of(model, hidden[batch.predictor_index], batch.targets, self._temperature, self._training)

    @torch.no_grad()
    def _logprobs_of(self, model: nn.Module, samples: Sequence[TrainSample]) -> list[FloatArray]:
        """Log-probabilities of every sample's completion under `model`, float32 [num_tokens] each."""
        result: list[FloatArray] = [np.empty(0, np.float32)] * len(samples)
        for members in self._plan(samples):
            chosen = [samples[i] for i in members]
            logprobs_C, _ = self._forward(model, pack(chosen, self._device))
            ends = np.cumsum([len(s.completion_ids) for s in chosen])[:-1]
            for index, part in zip(members, np.split(logprobs_C.cpu().numpy(), ends), strict=True):
                result[index] = part
        return result

    def _plan(self, samples: Sequence[TrainSample]) -> list[list[int]]:
        return plan_micro_batches([s.num_tokens for s in samples], self._training.tokens_per_micro_batch)

    def _new_optimizer(self) -> torch.optim.AdamW:
        o = self._optimizer_section
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=o.learning_rate,
            betas=(o.beta1, o.beta2),
            eps=o.eps,
            weight_decay=o.weight_decay,
        )

    def _set_learning_rate(self) -> float:
        warmup = self._optimizer_section.warmup_updates
        factor = min(1.0, (self._num_updates + 1) / warmup) if warmup else 1.0
        rate = self._optimizer_section.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def weights_info(self) -> WeightsInfo:
        return WeightsInfo(self.version, weights_digest(self.named_weights()))

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every trainable weight under its transformers name, tied ones once."""
        return self.model.named_parameters()

    def save(self, directory: Path) -> None:
        """Weights as a Hugging Face model, optimizer and reference as safetensors, counters as JSON."""
        model: Any = self.model
        model.save_pretrained(directory)
        counters = {
            "version": self.version,
            "num_updates": self._num_updates,
            "skipped_in_a_row": self._skipped_in_a_row,
        }
        save_optimizer(directory, self.optimizer, self.model, self._reference, counters)

    def load(self, directory: Path) -> None:
        counters = load_optimizer(directory, self.optimizer, self.model, self._reference)
        self.version = counters["version"]
        self._num_updates = counters["num_updates"]
        self._skipped_in_a_row = counters["skipped_in_a_row"]


def _enable_checkpointing(model: Any) -> None:
    """transformers renames the switch in v5 and will drop the old name in v6."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model.train()  # it is active in training mode only; these models have no dropout


def token_logprobs_of(
    model: Any, hidden: Tensor, targets: Tensor, temperature: float, training: TrainingSection
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` with the model's own vocabulary head."""
    head = model.get_output_embeddings().weight
    return token_logprobs(
        hidden, head, targets, temperature=temperature, chunk_tokens=training.logprob_chunk_tokens
    )
