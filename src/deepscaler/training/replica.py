"""A model replica: weights, reference weights and optimizer, and the computations with them.

The policy learner (training.learner) decides what to update with; a replica computes it. `ModelReplica` is the replica
of one process; `cluster.replica.SharedReplica` adds processes of the same machine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deepscaler.config.models import Recipe
from deepscaler.config.sections.training import OptimizerSection
from deepscaler.modeling.generic import is_generic
from deepscaler.modeling.weights import LiveWeights
from deepscaler.protocols import AppliedUpdate, Future, PolicyOrReference
from deepscaler.training.background_write import BackgroundWrite
from deepscaler.training.gradients import GradientComputer, Logprobs
from deepscaler.training.optimizer_state import (
    check_optimizer,
    copied_to_host,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    save_optimizer,
)
from deepscaler.types import TokenSums, TrainSample

# Each optimizer with the factor of the learning rate that it gets: 1.0 for a policy's AdamW.
Optimizers = Sequence[tuple[torch.optim.Optimizer, float]]


class ModelReplica:
    """One process, one device. Parameters stay float32; bfloat16 compute goes through autocast.

    make_optimizers: new optimizers for the model, at the start and wherever a stage resets them.
    """

    def __init__(self, computer: GradientComputer, make_optimizers: Callable[[nn.Module], Optimizers]) -> None:
        self._computer = computer
        self._make_optimizers = make_optimizers
        self._optimizers = make_optimizers(computer.model)
        self._published: LiveWeights | None = None

    @property
    def computer(self) -> GradientComputer:
        return self._computer

    def logprobs(self, samples: Sequence[TrainSample], *, of: PolicyOrReference = "policy") -> Logprobs:
        return self._computer.logprobs(samples, of=of)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        return self._computer.accumulate(samples, old, ref)

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        """Clip the accumulated gradient, let the optimizers step, drop the gradient.

        A gradient that is not finite is dropped and changes nothing.
        """
        model = self._computer.model
        grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
        self._set_learning_rate(learning_rate)
        held = max(float(group["lr"]) for optimizer, _ in self._optimizers for group in optimizer.param_groups)
        if math.isfinite(grad_norm):
            self._expire()
            for optimizer, _ in self._optimizers:
                optimizer.step()
        model.zero_grad(set_to_none=True)  # during sampling its memory belongs to the key-value cache
        return AppliedUpdate(grad_norm, held)

    def _set_learning_rate(self, learning_rate: float) -> None:
        for optimizer, factor in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * learning_rate

    def publish(self, version: int) -> LiveWeights:
        """The weights in place; valid until the next update."""
        self._expire()
        self._published = LiveWeights(version, self._computer.model.named_parameters)
        return self._published

    def _expire(self) -> None:
        if self._published is not None:
            self._published.expire()

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        if reset_optimizer:
            self._optimizers = self._make_optimizers(self._computer.model)
        if reset_reference and self._computer.reference is not None:
            self._computer.reference.load_state_dict(self._computer.model.state_dict())

    def save(self, directory: Path) -> None:
        """Weights as a Hugging Face model, optimizer and reference as safetensors."""
        self._write(directory, self._held(), None)

    def begin_save(self, directory: Path) -> Future[None]:
        """As `save`, of copies that are made before it returns; the future's result comes when they are written."""
        weights, (optimizer, reference) = dict(self._computer.model.state_dict()), self._held()
        copied = copied_to_host([weights, optimizer, reference or {}])
        held = (copied[1], None if reference is None else copied[2])
        return BackgroundWrite(lambda: self._write(directory, held, copied[0]), directory.name)

    def _held(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """The optimizer's state and the reference's weights."""
        reference = self._computer.reference
        of_reference = None if reference is None else {name: p.detach() for name, p in reference.named_parameters()}
        return optimizer_tensors(self._only_optimizer, self._computer.model), of_reference

    def _write(
        self,
        directory: Path,
        held: tuple[dict[str, Tensor], dict[str, Tensor] | None],
        weights: dict[str, Tensor] | None,
    ) -> None:
        """weights: None for the model's own."""
        model: Any = self._computer.model
        model.save_pretrained(directory, state_dict=weights)
        save_optimizer(directory, *held)

    def load(self, directory: Path, *, num_updates: int | None) -> None:
        """Restore what `save` wrote.

        num_updates: what the loaded optimizer must have the moments of; None leaves the optimizer new.
        """
        self._expire()
        load_weights(directory, self._computer.model, self._computer.reference)
        if num_updates is not None:
            load_optimizer(directory, self._only_optimizer, self._computer.model)
            check_optimizer(self._only_optimizer, num_updates, directory)

    @property
    def _only_optimizer(self) -> torch.optim.Optimizer:
        ((optimizer, _),) = self._optimizers
        return optimizer


C = TypeVar("C", bound=GradientComputer)


def policy_computer(model: nn.Module, recipe: Recipe) -> GradientComputer:
    """Loss, log-probabilities and gradients of a recipe, with a frozen copy of the model where it has a KL term."""
    return computer_of(recipe, model, GradientComputer)


def computer_of(recipe: Recipe, model: nn.Module, make: Callable[..., C]) -> C:
    """As `policy_computer`, of the class that `make` makes with the arguments of `GradientComputer`."""
    if recipe.model.activation_checkpointing:
        enable_checkpointing(model)
    reference = None
    if recipe.algorithm.kl.coefficient > 0:
        reference = copy.deepcopy(model).eval().requires_grad_(False)
    return make(
        model,
        reference,
        recipe.algorithm,
        recipe.training,
        temperature=recipe.rollout.temperature,
        autocast=recipe.model.dtype == "bfloat16",
        float32_head=recipe.model.float32_head,
    )


def adamw(section: OptimizerSection) -> Callable[[nn.Module], Optimizers]:
    def make(model: nn.Module) -> Optimizers:
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=section.learning_rate,
            betas=(section.beta1, section.beta2),
            eps=section.eps,
            weight_decay=section.weight_decay,
            fused=True,
        )
        return [(optimizer, 1.0)]

    return make


def enable_checkpointing(model: Any) -> None:
    """transformers renames the switch in v5 and will drop the old name in v6.

    Raises ValueError for a model without a family, whose training mode may include dropout.
    """
    if is_generic(model):
        raise ValueError(
            f"model.activation_checkpointing needs a model family of this package, and {model.config.model_type} has "
            "none (docs/models.md); set it to false and lower training.tokens_per_micro_batch to save memory"
        )
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model.train()  # it is active in training mode only; these models have no dropout
