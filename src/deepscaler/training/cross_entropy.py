"""Cross-entropy of given completions as a policy loss: REINFORCE with advantage 1, weighted by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import FloatArray, IntArray, TrainSample

CROSS_ENTROPY = AlgorithmSection(loss="reinforce")


def cross_entropy_computer(
    model: nn.Module, training: TrainingSection, section: ModelSection | None = None
) -> GradientComputer:
    """Gradients of the weighted sum of the completions' token losses (nats)."""
    section = section or ModelSection()
    return GradientComputer(
        model,
        None,
        CROSS_ENTROPY,
        training,
        temperature=1.0,
        autocast=section.dtype == "bfloat16",
        float32_head=section.float32_head,
    )


def supervised_sample(prompt_ids: IntArray, completion_ids: IntArray, weights: FloatArray | None = None) -> TrainSample:
    """weights: float32 [num completion tokens], 0 for a token that is not learned; absent = 1 for each."""
    count = len(completion_ids)
    chosen = np.ones(count, np.float32) if weights is None else weights
    return TrainSample(prompt_ids, completion_ids, np.zeros(count, np.float32), 1.0, chosen, 0)


def token_mean(samples: Sequence[TrainSample]) -> list[TrainSample]:
    """The samples of one update, weighted so that the loss is the mean over all their learned tokens.

    New samples: the batch before this one may be trained on meanwhile, and hold the same ones.
    """
    total = sum(float(sample.token_weights.sum(dtype=np.float64)) for sample in samples)
    return [replace(sample, token_weights=sample.token_weights / np.float32(total)) for sample in samples]
