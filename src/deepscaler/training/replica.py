"""A model replica: weights, reference weights and optimizer, and the computations with them.

The policy learner (training.learner) decides what to update with; a replica computes it. `ModelReplica` is the replica
of one process; `cluster.replica.SharedReplica` adds processes of the same machine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deepscaler.config.models import Recipe
from deepscaler.config.sections.training import OptimizerSection
from deepscaler.modeling.generic import is_generic
from deepscaler.modeling.lora import add_adapters, merged_weights
from deepscaler.modeling.weights import LiveWeights
from deepscaler.protocols import AppliedUpdate, Future, PolicyOrReference
from deepscaler.training.adapters import save_weights, saved_weights
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
        self._published = LiveWeights(version, self.named_weights)
        return self._published

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Under transformers' names, tied ones once; with adapters merged."""
        return merged_weights(self._computer.model)

    def _expire(self) -> None:
        if self._published is not None:
            self._published.expire()

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        if reset_optimizer:
            self._optimizers = self._make_optimizers(self._computer.model)
        if reset_reference and (reference := own_reference(self._computer)) is not None:
            reference.load_state_dict(self._computer.model.state_dict())

    def save(self, directory: Path) -> None:
        """Weights as a Hugging Face model, optimizer and reference as safetensors."""
        self._write(directory, self._held(), None)

    def begin_save(self, directory: Path) -> Future[None]:
        """As `save`, of copies that are made before it returns; the future's result comes when they are written."""
        weights, (optimizer, reference) = saved_weights(self._computer.model), self._held()
        copied = copied_to_host([weights, optimizer, reference or {}])
        held = (copied[1], None if reference is None else copied[2])
        return BackgroundWrite(lambda: self._write(directory, held, copied[0]), directory.name)

    def _held(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """The optimizer's state and the reference's weights."""
        reference = own_reference(self._computer)
        of_reference = None if reference is None else {name: p.detach() for name, p in reference.named_parameters()}
        return optimizer_tensors(self._only_optimizer, self._computer.model), of_reference

    def _write(
        self,
        directory: Path,
        held: tuple[dict[str, Tensor], dict[str, Tensor] | None],
        weights: dict[str, Tensor] | None,
    ) -> None:
        """weights: None for the model's own."""
        save_weights(self._computer.model, directory, weights)
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


def own_reference(computer: GradientComputer) -> nn.Module | None:
    """The reference where it has weights of its own: not where it is the model without its adapters."""
    return None if computer.reference is computer.model else computer.reference


C = TypeVar("C", bound=GradientComputer)


def policy_computer(model: nn.Module, recipe: Recipe) -> GradientComputer:
    """Loss, log-probabilities and gradients of a recipe; for a KL term with a frozen copy, or adapters that go off."""
    return computer_of(recipe, model, GradientComputer)


def computer_of(recipe: Recipe, model: nn.Module, make: Callable[..., C]) -> C:
    """As `policy_computer`, of the class that `make` makes with the arguments of `GradientComputer`."""
    lora = recipe.model.lora
    if lora.rank:
        add_adapters(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=recipe.seed)
    if recipe.model.activation_checkpointing:
        enable_checkpointing(model)
    reference = None
    if recipe.algorithm.kl.coefficient > 0:
        reference = model if lora.rank else copy.deepcopy(model).eval().requires_grad_(False)
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
            [parameter for parameter in model.parameters() if parameter.requires_grad],
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
