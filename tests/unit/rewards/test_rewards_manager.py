"""A part of the reward that has a grader of its own: its items hold all that their problem says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepscaler.config.sections.reward import RewardSection
from deepscaler.rewards.manager import RewardManager
from deepscaler.rewards.scoring import items_of, scored
from deepscaler.types import FinishReason, GradeItem, Group, Outcome, Problem, Rollout, Verdict


class Recorded:
    def __init__(self) -> None:
        self.items: list[GradeItem] = []

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        self.items += items
        return [Verdict(Outcome.CORRECT, 1.0) for _ in items]


def test_another_profile_is_asked_what_the_runs_grader_was_asked() -> None:
    problem = Problem("a", "?", ("B",), tolerance=0.5, answer_kind="letter")
    ids, logprobs = np.full(3, 7, np.int32), np.zeros(3, np.float32)
    groups = [Group(problem, (Rollout("a", 0, ids[:1], ids, logprobs, FinishReason.LENGTH, 0),))]
    items = items_of(groups, lambda ids: "B", thinking_prefilled=True)
    grader = Recorded()
    section = RewardSection.model_validate({"parts": [{"name": "other", "profile": "string"}]})
    manager = RewardManager(section, {}, {"other": grader})
    (group,) = manager.score(scored(groups, items, [Verdict(Outcome.WRONG, 0.0)]), thinking_prefilled=True)
    manager.close()
    assert grader.items == items
    assert group.rewards == (1.0,)
