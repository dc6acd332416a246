"""The figures of one step that the alarms see: each a number, a word or None, so that they are JSON as well."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from deepscaler.observability.draws import Repeats
from deepscaler.observability.part_metrics import num_failed_rewards
from deepscaler.observability.rollout_metrics import RolloutStats
from deepscaler.types import Outcome, ScoredGroup, TrainSample, UpdateStats, WeightsInfo

LARGE_DIFFERENCE = 1.0  # of two rewards: the most that the soft overlong penalty takes


@dataclass(frozen=True, slots=True)
class StepStats:
    """None: there is no such figure, as the step trained on nothing or has no KL term.

    solved_frac: share of solved completions, as the recipe defines it, among those with a reward.
    num_failed_rewards: completions without a reward because a reward function failed.
    num_asked: completions the grader was asked about. num_rewarded: those with a reward above 0. chance_correct: how
        many would be right by luck (`correct_by_chance`).
    num_signal: samples with an advantage and a weight. correct_advantage: the smallest lead, over the groups trained
        on, of the right completions' mean advantage over that of the others.
    problems: digest of the step's problems in order, without refills. problems_left: how many more the stage has.
    num_compared, num_repeated, repeats_by_chance: draws seen before (`DrawMemory`). policy_lag: how many versions the
        oldest rollout is behind. weights: digest of what was published after the update.
    """

    stage: str
    reward_mean: float | None
    truncated_frac: float
    length_mean: float
    no_answer_frac: float
    num_completions: int
    num_asked: int
    num_failed_gradings: int
    num_bad_references: int
    num_rewarded: int
    chance_correct: float
    num_signal: int
    correct_advantage: float | None
    problems: str
    problems_left: int
    num_compared: int
    num_repeated: int
    repeats_by_chance: float
    policy_lag: int
    num_updates: int
    skipped_updates: int
    entropy_mean: float | None
    mismatch_mean: float | None
    kl_mean: float | None
    grad_norm: float | None
    learning_rate: float | None
    weights: str
    effective_sample_size: float | None = None  # last, with a default: state of earlier versions lacks it
    solved_frac: float | None = None
    num_failed_rewards: int = 0


def step_stats(
    *,
    stage: str,
    stats: RolloutStats,
    sampled: Sequence[ScoredGroup],
    trained: Sequence[ScoredGroup],
    samples: Sequence[TrainSample],
    update: UpdateStats,
    repeats: Repeats,
    num_prompts: int,
    num_problems: int,
    weights: WeightsInfo,
) -> StepStats:
    """samples: one for each completion of `trained`, in its order. num_prompts: of a step before refills.

    num_problems: those the stage draws from.
    """
    outcomes = Counter(v.outcome for g in sampled for v in g.verdicts)
    names = [g.group.problem.id for g in sampled[:num_prompts]]
    return StepStats(
        stage=stage,
        reward_mean=stats.reward_mean,
        truncated_frac=stats.truncated_frac,
        length_mean=stats.length_mean,
        no_answer_frac=stats.outcome_frac[Outcome.NO_ANSWER],
        num_completions=stats.num_completions,
        num_asked=stats.num_completions - outcomes[Outcome.TRUNCATED],
        num_failed_gradings=outcomes[Outcome.TIMEOUT] + outcomes[Outcome.GRADER_FAILED],
        num_bad_references=outcomes[Outcome.BAD_REFERENCE],
        num_rewarded=sum(v.reward > 0 for g in sampled for v in g.verdicts),
        chance_correct=correct_by_chance(sampled),
        num_signal=sum(s.advantage != 0 and bool(s.token_weights.any()) for s in samples),
        correct_advantage=correct_advantage(trained, samples),
        problems=_digest(names),
        problems_left=num_problems - len(set(names)),
        num_compared=repeats.num_compared,
        num_repeated=repeats.num_repeated,
        repeats_by_chance=repeats.by_chance,
        policy_lag=weights.version - 1 - min(r.policy_version for g in sampled for r in g.group.rollouts),
        num_updates=update.num_updates,
        skipped_updates=update.skipped_updates,
        entropy_mean=update.entropy_mean,
        mismatch_mean=update.mismatch_mean,
        kl_mean=update.kl_mean,
        grad_norm=update.grad_norm,
        learning_rate=update.learning_rate,
        weights=weights.digest,
        effective_sample_size=update.effective_sample_size,
        solved_frac=stats.solved_frac,
        num_failed_rewards=num_failed_rewards(sampled),
    )


def correct_by_chance(groups: Sequence[ScoredGroup]) -> float:
    """How many completions would be right with the references of another problem of the step.

    The mean over the other problems, those with the same references left out. Answers and references are compared as
    text without spaces, which costs nothing and finds fewer equal ones than the grader, never more.
    """
    references = {g.group.problem.id: frozenset(map(_bare, g.group.problem.references)) for g in groups}
    kinds = Counter(references.values())
    accepting = Counter(text for kind, count in kinds.items() for text in kind for _ in range(count))
    expected = 0.0
    for group in groups:
        own = references[group.group.problem.id]
        num_others = len(references) - kinds[own]
        answers = Counter(_bare(v.answer) for v in group.verdicts if v.answer is not None)
        matches = sum(n * (accepting[text] - kinds[own] * (text in own)) for text, n in answers.items())
        expected += matches / num_others if num_others else 0.0
    return expected


def correct_advantage(groups: Sequence[ScoredGroup], samples: Sequence[TrainSample]) -> float | None:
    """The smallest lead of right over other graded completions, in mean advantage; None where no group has both.

    With a reward of one's own right is what earned most and the others what earned least, at least LARGE_DIFFERENCE
    apart: the soft overlong penalty, which comes later, may turn smaller ones around.
    """
    leads, following = [], iter(samples)
    for group in groups:
        advantages = [next(following).advantage for _ in group.verdicts]
        right, others = _best_and_others(group, advantages)
        if right and others:
            leads.append(sum(right) / len(right) - sum(others) / len(others))
    return min(leads, default=None)


def _best_and_others(group: ScoredGroup, advantages: Sequence[float]) -> tuple[list[float], list[float]]:
    if not group.composed:
        members = list(zip([v.outcome for v in group.verdicts], advantages, strict=True))
        right = [a for outcome, a in members if outcome is Outcome.CORRECT]
        return right, [a for outcome, a in members if outcome.graded and outcome is not Outcome.CORRECT]
    earned = [(r.value, a) for r, a in zip(group.composed, advantages, strict=True) if r.value is not None]
    highest, lowest = max((v for v, _ in earned), default=0.0), min((v for v, _ in earned), default=0.0)
    if highest - lowest <= LARGE_DIFFERENCE:
        return [], []
    return [a for value, a in earned if value == highest], [a for value, a in earned if value == lowest]


def _bare(text: str) -> str:
    return "".join(text.split())


def _digest(names: Sequence[str]) -> str:
    text = "\n".join(names).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()
