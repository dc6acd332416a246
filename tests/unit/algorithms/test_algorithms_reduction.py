"""Token weights: every reduction equals the mean its name promises, taken naively over token losses."""

from __future__ import annotations

import statistics

import pytest
import torch

from deepscaler.algorithms.reduction import REDUCTIONS
from deepscaler.config.sections.algorithm import AlgorithmSection

NUM_TOKENS = torch.tensor([[3, 1, 7], [2, 5, 5]])
ALL = torch.ones(2, 3, dtype=torch.bool)
SOME = torch.tensor([[True, False, True], [True, True, False]])
NONE_OF_FIRST = torch.tensor([[False, False, False], [True, True, True]])
BUDGET = 8


def losses_of(num_tokens: torch.Tensor) -> list[list[list[float]]]:
    """An arbitrary loss for every token, [P][G][tokens]."""
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(int(n), generator=generator, dtype=torch.float64).tolist() for n in row] for row in num_tokens]


def naive(name: str, losses: list[list[list[float]]], mask: torch.Tensor) -> float:
    trained = [[t for t, m in zip(g, row, strict=True) if m] for g, row in zip(losses, mask.tolist(), strict=True)]
    groups = [g for g in trained if g]
    if name == "token_mean":
        return statistics.mean(x for g in groups for c in g for x in c)
    if name == "sequence_mean":
        return statistics.mean(statistics.mean(c) for g in groups for c in g)
    if name == "prompt_mean":
        return statistics.mean(statistics.mean(x for c in g for x in c) for g in groups)
    return statistics.mean(
        sum(c) / BUDGET * m for g, row in zip(losses, mask.tolist(), strict=True) for c, m in zip(g, row, strict=True)
    )


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("mask", [ALL, SOME, NONE_OF_FIRST], ids=["all", "some", "none-of-first"])
def test_the_weighted_sum_is_the_mean_the_name_promises(name: str, mask: torch.Tensor) -> None:
    losses = losses_of(NUM_TOKENS)
    weights = REDUCTIONS[name](NUM_TOKENS, mask, fixed_length=BUDGET)
    total = sum(
        w * x
        for row, group in zip(weights.tolist(), losses, strict=True)
        for w, completion in zip(row, group, strict=True)
        for x in completion
    )
    assert weights.dtype == torch.float64
    assert total == pytest.approx(naive(name, losses, mask), rel=1e-12)


@pytest.mark.parametrize("name", ["token_mean", "sequence_mean", "prompt_mean"])
@pytest.mark.parametrize("mask", [ALL, SOME, NONE_OF_FIRST], ids=["all", "some", "none-of-first"])
def test_the_weights_of_a_mean_add_up_to_one(name: str, mask: torch.Tensor) -> None:
    weights = REDUCTIONS[name](NUM_TOKENS, mask, fixed_length=BUDGET)
    assert (weights * NUM_TOKENS).sum().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_masked_completions_weigh_nothing(name: str) -> None:
    weights = REDUCTIONS[name](NUM_TOKENS, SOME, fixed_length=BUDGET)
    assert ((weights == 0) == ~SOME).all()


@pytest.mark.parametrize("name", REDUCTIONS)
def test_nothing_to_train_on_weighs_nothing(name: str) -> None:
    assert (REDUCTIONS[name](NUM_TOKENS, ~ALL, fixed_length=BUDGET) == 0).all()


@pytest.mark.parametrize("name", REDUCTIONS)
def test_an_empty_completion_weighs_nothing_and_breaks_nothing(name: str) -> None:
    num_tokens = torch.tensor([[0, 4]])
    weights = REDUCTIONS[name](num_tokens, torch.ones(1, 2, dtype=torch.bool), fixed_length=BUDGET)
    assert weights[0, 0] == 0
    assert torch.isfinite(weights).all()


def test_fixed_length_knows_nothing_of_lengths_or_masks() -> None:
    weights = REDUCTIONS["fixed_length"](NUM_TOKENS, SOME, fixed_length=BUDGET)
    assert weights[SOME].tolist() == [1 / (6 * BUDGET)] * 4


def test_a_fixed_length_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        REDUCTIONS["fixed_length"](NUM_TOKENS, ALL, fixed_length=0)


def test_every_reduction_of_a_recipe_exists_and_nothing_else() -> None:
    literals = AlgorithmSection.model_fields["reduction"].annotation.__args__  # type: ignore[union-attr]
    assert set(REDUCTIONS) == set(literals)
