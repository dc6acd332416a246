"""Settings that are allowed but doubtful are warned about."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.advice import warnings_for
from deepscaler.config.load import resolve


def warnings_of(path: Path, *overrides: str) -> str:
    resolved = resolve(path, overrides)
    return "\n".join(warnings_for(resolved.recipe, resolved.origins))


def test_stages_that_are_cut_short_or_never_reached_are_warned_about(sound: Path) -> None:
    assert "stages.1 (long) is never reached" in warnings_of(sound, "num_steps=4")
    text = warnings_of(sound, "num_steps=3")
    assert "leaves 3 of its 4 steps" in text
    assert "stages.1 (long) is never reached" in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["curriculum.patience=3"], "curriculum.patience is set in --set but not used"),
        (["algorithm.kl.estimator=k1"], "algorithm.kl.estimator is set in --set but not used"),
        (["algorithm.max_refills=2"], "algorithm.max_refills is set in --set but not used"),
        (["model.float32_head=true"], "model.float32_head is set in --set but not used"),
        (["data.source=x.jsonl", "data.num_problems=9"], "data.num_problems is set in --set but not used"),
        (["preset=rloo", "optimizer.mini_batch_prompts=4"], "algorithm.loss = 'reinforce' has no importance ratio"),
        (["algorithm.importance_low=0.4"], "algorithm.importance_low is set in --set but not used"),
        (["rollout.max_policy_lag=1"], "no importance correction is set; algorithm.importance_cap = 2 is usual"),
        (["preset=gspo", "algorithm.reduction=token_mean"], "the paper uses 'sequence_mean'"),
    ],
)
def test_idle_and_doubtful_settings_are_warned_about(sound: Path, overrides: list[str], expected: str) -> None:
    assert expected in warnings_of(sound, *overrides)
