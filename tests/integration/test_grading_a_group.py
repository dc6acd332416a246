"""Groups graded by a pool as a run makes it: truncation, tolerance and profile."""

from __future__ import annotations

import numpy as np

from deepscaler.rewards.isolation.pool import GraderPool
from deepscaler.rewards.isolation.process import Limits
from deepscaler.rewards.scoring import items_of, scored
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup


def scored_groups(profile: str, text: str, *problems: Problem) -> list[ScoredGroup]:
    """Two completions of each problem, the first cut at its budget, graded by a pool as a run makes it."""
    ids = np.array([7], np.int32)
    reasons = (FinishReason.LENGTH, FinishReason.STOP)
    rollouts = tuple(Rollout("p", i, ids, ids, np.zeros(1, np.float32), reason, 0) for i, reason in enumerate(reasons))
    limits = Limits(wall_s=60, cpu_s=1, memory_mib=1024)
    groups = [Group(problem, rollouts) for problem in problems]
    items = items_of(groups, lambda ids: text, thinking_prefilled=True)
    with GraderPool(num_workers=1, limits=limits, profile=profile) as pool:
        return scored(groups, items, pool.grade(items))


def test_a_truncated_rollout_earns_nothing_and_is_not_graded() -> None:
    (group,) = scored_groups("deepscaler", "</think>\\boxed{7}", Problem("p", "?", ("7",)))
    assert [v.outcome for v in group.verdicts] == [Outcome.TRUNCATED, Outcome.CORRECT]
    assert group.rewards.tolist() == [0.0, 1.0]
    assert group.texts == ("</think>\\boxed{7}",) * 2


def test_a_problem_brings_its_tolerance_and_no_other_has_one() -> None:
    exact, near = Problem("a", "?", ("0.5",)), Problem("b", "?", ("0.5",), tolerance=0.1)
    groups = scored_groups("deepscaler", "</think>\\boxed{0.51}", exact, near, exact)
    assert [g.verdicts[1].outcome for g in groups] == [Outcome.WRONG, Outcome.CORRECT, Outcome.WRONG]


def test_the_profile_decides_what_equal_means() -> None:
    problem = Problem("p", "?", ("0.5",))
    for profile, outcome in (("deepscaler", Outcome.CORRECT), ("string", Outcome.WRONG)):
        (group,) = scored_groups(profile, "</think>\\boxed{1/2}", problem)
        assert group.verdicts[1].outcome is outcome
