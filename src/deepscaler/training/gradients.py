"""Gradients and log-probabilities of samples under one model: the part of learning that is done on packed batches.

C: completion tokens of one micro-batch. Token weights come with the samples, so micro-batches, and the shares of
several processes, simply add up: splitting and order change the result by rounding only. Ranks that share every
micro-batch (context_parallel) add up their gradients as well, but each has the sums for the metrics of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepscaler.algorithms.importance import importance_weights, ratio_sums
from deepscaler.algorithms.kl import KL_ESTIMATORS
from deepscaler.algorithms.losses import combine
from deepscaler.algorithms.own import loss_of
from deepscaler.config.context import check_context_parallel
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.modeling.attention import forward_hidden
from deepscaler.modeling.generic import activation_bytes, is_generic
from deepscaler.modeling.head import forbidden_ids
from deepscaler.modeling.lora import adapters_off
from deepscaler.modeling.positions import check_rotations
from deepscaler.observability import liveness
from deepscaler.protocols import PolicyOrReference
from deepscaler.training.context_parallel import ContextParallel, TokenValues
from deepscaler.training.logprobs import token_logprobs
from deepscaler.training.packing import PackedBatch, micro_batch_budget, pack, per_token, plan_samples
from deepscaler.training.padded import padded_token_values, plan_padded
from deepscaler.types import FloatArray, TokenSums, TrainSample

Logprobs = list[FloatArray]


class GradientComputer:
    """One process. `old` absent means on-policy: the current policy is the policy at the start of the step.

    reference: of the KL term; the model itself where that is the model without its adapters (modeling.lora). context:
    the ranks that share every micro-batch with this process; they get the same calls.

    Raises ValueError for a model whose rotations were rounded (`positions.check_rotations`), or whose attention heads
    cannot be dealt out to the ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module | None,
        algorithm: AlgorithmSection,
        training: TrainingSection,
        *,
        temperature: float,
        autocast: bool = False,
        float32_head: bool = False,
        context: ContextParallel | None = None,
    ) -> None:
        for each in (model, reference):
            if each is not None:
                check_rotations(each)
        self.model, self.reference = model, reference
        self._algorithm, self._training = algorithm, training
        self._temperature, self._float32_head = temperature, float32_head
        self._half = torch.bfloat16 if autocast else None
        self._context = context
        self._device = next(model.parameters()).device
        config: Any = model.config
        self._is_generic = is_generic(model)
        if float32_head and self._is_generic:
            raise ValueError(
                f"model.float32_head changes how the head is computed, and model type {config.model_type} computes its "
                "own (docs/models.md); set model.float32_head = false"
            )
        if context is not None:
            if self._is_generic:
                raise ValueError(
                    f"training.context_parallel divides sequences inside attention, and model type {config.model_type} "
                    "computes its own (docs/models.md); set training.context_parallel = 1"
                )
            check_context_parallel(context.num_ranks, config.num_attention_heads)
        self._activation_bytes = activation_bytes(model)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        """Add the samples' part of the loss gradient to the model's `.grad`; returns sums for the metrics."""
        sums = TokenSums()
        for members in self._plan(samples):
            loss, of_batch = self._loss(
                [samples[i] for i in members],
                None if old is None else [old[i] for i in members],
                None if ref is None else [ref[i] for i in members],
            )
            sums += of_batch
            loss.backward()
        return sums

    def _loss(
        self,
        samples: Sequence[TrainSample],
        old: Logprobs | None,
        ref: Logprobs | None,
    ) -> tuple[Tensor, TokenSums]:
        """The micro-batch's part of the step's loss, a plain sum over its tokens, and its sums for the metrics."""
        device, algorithm = self._device, self._algorithm
        batch = pack(samples, device)
        logprobs_C, entropy_C = self._forward(self.model, batch)
        old_C = logprobs_C.detach() if old is None else per_token(samples, old, device)
        rollout_C = per_token(samples, [s.rollout_logprobs for s in samples], device)
        advantages_C = torch.tensor([s.advantage for s in samples], device=device)[batch.segments]
        weights_C = per_token(samples, [s.token_weights for s in samples], device)
        policy = loss_of(algorithm.loss)(
            logprobs_C,
            old_C,
            advantages_C,
            batch.segments,
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
        )
        importance_C = importance_weights(old_C, rollout_C, batch.segments, algorithm)
        kl_C = None
        if ref is not None:
            kl_C = KL_ESTIMATORS[algorithm.kl.estimator](logprobs_C, per_token(samples, ref, device))
        loss_C = combine(
            policy.loss_T,
            importance_T=importance_C,
            kl_T=kl_C,
            kl_coefficient=algorithm.kl.coefficient if kl_C is not None else 0.0,
            entropy_T=entropy_C,
            entropy_coefficient=algorithm.entropy_coefficient,
        )
        loss = (weights_C * loss_C).sum()
        mismatch_C = (old_C - rollout_C).detach().abs()
        ratio, ratio_squared = ratio_sums(old_C, rollout_C)
        masked = None
        if algorithm.importance_mask != "none" and importance_C is not None:
            masked = float((importance_C == 0).sum())
        return loss, TokenSums(
            num_tokens=len(entropy_C),
            num_packed_tokens=sum(s.num_tokens for s in samples),
            loss=float(loss.detach()),
            entropy=float(entropy_C.detach().sum()),
            clipped=float(policy.clipped_T.sum()),
            kl=None if kl_C is None else float(kl_C.detach().sum()),
            mismatch=float(mismatch_C.sum()),
            mismatch_max=float(mismatch_C.max()),
            ratio=ratio,
            ratio_squared=ratio_squared,
            masked=masked,
        )

    @torch.no_grad()
    def logprobs(self, samples: Sequence[TrainSample], *, of: PolicyOrReference = "policy") -> Logprobs:
        """Log-probability of every completion token, float32 [num_tokens] per sample."""
        model = self.reference if of == "reference" else self.model
        assert model is not None
        if of == "reference" and model is self.model:
            with adapters_off(model):
                return self._logprobs(model, samples)
        return self._logprobs(model, samples)

    def _logprobs(self, model: nn.Module, samples: Sequence[TrainSample]) -> Logprobs:
        result: Logprobs = [np.empty(0, np.float32)] * len(samples)
        for members in self._plan(samples):
            chosen = [samples[i] for i in members]
            logprobs_C, _ = self._forward(model, pack(chosen, self._device))
            ends = np.cumsum([len(s.completion_ids) for s in chosen])[:-1]
            for index, part in zip(members, np.split(logprobs_C.cpu().numpy(), ends), strict=True):
                result[index] = part
        return result

    def _forward(self, model: Any, batch: PackedBatch) -> TokenValues:
        liveness.beat()
        if self._context is None:
            return self._token_values(model, batch)
        return self._context.token_values(batch, partial(self._token_values, model))

    def _token_values(self, model: Any, batch: PackedBatch) -> TokenValues:
        if self._is_generic:
            return padded_token_values(model, batch, self._temperature, self._half)
        hidden = forward_hidden(model, batch.input_ids, batch.position_ids, batch.attention, half=self._half)[0]
        predictors = hidden[batch.predictor_index]
        return token_logprobs(
            predictors.to(self._half or predictors.dtype),
            model.get_output_embeddings().weight,
            batch.targets,
            temperature=self._temperature,
            chunk_tokens=self._training.logprob_chunk_tokens,
            float32_logits=self._float32_head,
            forbidden=forbidden_ids(model),
        )

    def num_micro_batches(self, samples: Sequence[TrainSample]) -> int:
        """Of the forward and backward passes over these samples. Raises ValueError for one over the budget."""
        return len(self._plan(samples))

    def _plan(self, samples: Sequence[TrainSample]) -> list[list[int]]:
        lengths = [s.num_tokens for s in samples]
        limit = self._training.tokens_per_micro_batch
        budget = micro_batch_budget(limit, lengths, self._device, self._activation_bytes)
        return plan_padded(lengths, budget) if self._is_generic else plan_samples(samples, budget)
