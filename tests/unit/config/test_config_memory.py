"""The expected peak on CPU, beside what was measured once on whole training steps (benchmarks/step_memory.py)."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from deepscaler.config.memory import KEPT_BYTES, ModelShape, cpu_peak
from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import OptimizerSection, TrainingSection

# Shape, and MiB that two processes took at the most: 8 x 8 completions of 192 tokens, two steps.
MEASURED = {
    "tiny": (ModelShape(128, 384, 4, 4, 2, 32, 2048, True), 1191),
    "small": (ModelShape(512, 2048, 8, 8, 2, 64, 8192, True), 3544),
    "135m": (ModelShape(576, 1536, 30, 9, 3, 64, 49_152, True), 6305),
}


def recipe() -> Recipe:
    return Recipe(
        name="memory",
        num_steps=2,
        model=ModelSection(path="unused"),
        data=DataSection(source="unused.json", max_prompt_tokens=32),
        rollout=RolloutSection(prompts_per_step=8, group_size=8),
        stages=(StageSection(name="s", max_completion_tokens=192),),
        optimizer=OptimizerSection(learning_rate=1e-5),
        training=TrainingSection(processes=2),
    )


@pytest.mark.parametrize("size", MEASURED)
def test_the_expected_peak_is_within_15_percent_of_the_measured_one(size: str) -> None:
    shape, measured_mib = MEASURED[size]
    assert cpu_peak(recipe(), shape, 2).total / 2**20 == pytest.approx(measured_mib, rel=0.15)


def test_every_part_counts_and_one_process_takes_less_than_two() -> None:
    shape, _ = MEASURED["small"]
    one, two = cpu_peak(recipe(), shape, 1), cpu_peak(recipe(), shape, 2)
    assert two.total == sum(asdict(two).values()) and min(asdict(two).values()) > 0
    assert (one.weights, one.optimizer) == (two.weights, two.optimizer)
    assert 2 * one.head == two.head and one.total < two.total < 2 * one.total


def test_a_large_vocabulary_never_takes_logits_of_all_tokens() -> None:
    small, large = (ModelShape(128, 384, 4, 4, 2, 32, vocabulary, True) for vocabulary in (2048, 151_936))
    weight = 2 * 4 * 128 * 2048
    assert small.head_bytes(4096) == 4 * 4096 * 2048 + weight
    assert large.head_bytes(4096) == large.head_bytes(8192) < KEPT_BYTES + 2 * 4 * 128 * 151_936
