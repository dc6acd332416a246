"""When an alarm's condition holds: small pure functions of what a step and the ones before it showed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deepscaler.observability.step_stats import StepStats

GATE_FAILED_FRAC = 0.9
TRUNCATED_FRAC = 0.9
NO_VERDICT_FRAC = 0.9
GRADER_TROUBLE_FRAC = 0.01
ENTROPY_LOW, ENTROPY_HIGH = 0.005, 8.0
OFTEN_SKIPPED, OFTEN_SKIPPED_FRAC = 4, 0.25
CHANCE_FACTOR = 1.1  # text comparison finds a little less luck than the grader
RARE_REWARD_FRAC = 0.05
KL_NEGATIVE = -1e-6  # nats; rounding stays far above it
KL_ZERO_UPDATES = 10
MIN_REPEATED, REPEATED_FACTOR = 8, 3.0
COLLAPSE_REWARD_FALL, COLLAPSE_TRUNCATION_RISE, COLLAPSE_LENGTH_FACTOR = 0.1, 0.1, 1.15


@dataclass(frozen=True, slots=True)
class Seen:
    """now: this step. before: the steps before it that are remembered, oldest first. mismatch_limit: in nats.

    max_policy_lag: versions that the recipe allows. min_effective_sample_size: share of the tokens.
    """

    window: int
    now: StepStats
    before: tuple[StepStats, ...]
    mismatch_limit: float
    kl_estimator: str
    max_policy_lag: int = 0
    min_effective_sample_size: float = 0.5

    @property
    def recent(self) -> tuple[StepStats, ...]:
        """The last `window` steps, fewer at the start of a run."""
        return (*self.before, self.now)[-self.window :]

    @property
    def in_stage(self) -> tuple[StepStats, ...]:
        """The remembered steps of this stage without a gap, this one included."""
        steps = (*self.before, self.now)
        start = max((i + 1 for i, step in enumerate(steps) if step.stage != self.now.stage), default=0)
        return steps[start:]

    @property
    def full(self) -> bool:
        return len(self.recent) == self.window

    @property
    def failed_grading_frac(self) -> float:
        return _share([s.num_failed_gradings for s in self.recent], [s.num_completions for s in self.recent])

    @property
    def bad_reference_frac(self) -> float:
        return _share([s.num_bad_references for s in self.recent], [s.num_completions for s in self.recent])

    @property
    def failed_reward_frac(self) -> float:
        return _share([s.num_failed_rewards for s in self.recent], [s.num_completions for s in self.recent])

    @property
    def no_verdict_frac(self) -> float:
        return _share([self.now.num_failed_gradings + self.now.num_bad_references], [self.now.num_asked])

    @property
    def skipped_frac(self) -> float:
        skipped = [s.skipped_updates for s in self.recent]
        return _share(skipped, [s.num_updates for s in self.recent] + skipped)

    @property
    def rewarded_frac(self) -> float:
        return _share([s.num_rewarded for s in self.recent], [s.num_completions for s in self.recent])

    @property
    def chance_frac(self) -> float:
        return _share([s.chance_correct for s in self.recent], [s.num_completions for s in self.recent])

    @property
    def num_repeated(self) -> int:
        return sum(s.num_repeated for s in self.recent)

    @property
    def num_compared(self) -> int:
        return sum(s.num_compared for s in self.recent)


def nothing_solved(seen: Seen) -> bool:
    """A reward of one's own may teach before anything is solved, so there no gradient is needed as well."""
    return seen.now.solved_frac == 0.0 and (seen.now.reward_mean == 0.0 or seen.now.num_signal == 0)


def all_solved(seen: Seen) -> bool:
    return seen.now.solved_frac == 1.0 and (seen.now.reward_mean == 1.0 or seen.now.num_signal == 0)


def rare_and_by_chance(seen: Seen) -> bool:
    """The few rewards are what answers earn with the references of other problems."""
    return _by_chance(seen) and seen.rewarded_frac < RARE_REWARD_FRAC


def frequent_and_by_chance(seen: Seen) -> bool:
    """As many answers would be right with the references of other problems: two choices make half of them right."""
    return _by_chance(seen) and seen.rewarded_frac >= RARE_REWARD_FRAC


def _by_chance(seen: Seen) -> bool:
    """Rewards are no more than luck and its standard deviation; luck is Poisson. None at all is another alarm."""
    rewarded = sum(s.num_rewarded for s in seen.recent)
    luck = CHANCE_FACTOR * sum(s.chance_correct for s in seen.recent)
    return seen.full and 0 < rewarded <= luck + math.sqrt(luck)


def no_signal(seen: Seen) -> bool:
    """Every group is all right or all wrong, though not all the same."""
    return seen.now.num_signal == 0 and seen.now.solved_frac not in (None, 0.0, 1.0)


def gate_failed(seen: Seen) -> bool:
    return seen.now.no_answer_frac > GATE_FAILED_FRAC


def truncation(seen: Seen) -> bool:
    return seen.now.truncated_frac > TRUNCATED_FRAC


def grader_trouble(seen: Seen) -> bool:
    return seen.full and seen.failed_grading_frac >= GRADER_TROUBLE_FRAC


def bad_references(seen: Seen) -> bool:
    return seen.full and seen.bad_reference_frac >= GRADER_TROUBLE_FRAC


def reward_trouble(seen: Seen) -> bool:
    return seen.full and seen.failed_reward_frac >= GRADER_TROUBLE_FRAC


def no_rewards(seen: Seen) -> bool:
    return seen.now.num_failed_rewards > NO_VERDICT_FRAC * seen.now.num_completions


def no_verdicts(seen: Seen) -> bool:
    return seen.no_verdict_frac > NO_VERDICT_FRAC


def mismatch(seen: Seen) -> bool:
    """With older weights by the recipe the two differ by the updates in between; ratios are watched then."""
    value = seen.now.mismatch_mean
    on_policy = seen.max_policy_lag == 0
    return on_policy and value is not None and not value <= seen.mismatch_limit  # NaN is a mismatch, too


def policy_lag(seen: Seen) -> bool:
    return seen.now.policy_lag > seen.max_policy_lag


def few_effective_samples(seen: Seen) -> bool:
    value = seen.now.effective_sample_size
    return value is not None and not value >= seen.min_effective_sample_size  # NaN is too few, too


def skipped_updates(seen: Seen) -> bool:
    return seen.now.skipped_updates > 0


def often_skipped(seen: Seen) -> bool:
    return sum(s.skipped_updates for s in seen.recent) >= OFTEN_SKIPPED and seen.skipped_frac >= OFTEN_SKIPPED_FRAC


def zero_gradient(seen: Seen) -> bool:
    """With signal. A KL term alone has no gradient while the policy is the reference."""
    return _learned(seen.now) and seen.now.grad_norm == 0.0


def zero_learning_rate(seen: Seen) -> bool:
    return seen.now.num_updates > 0 and seen.now.learning_rate == 0.0


def weights_unchanged(seen: Seen) -> bool:
    """The updates of the step were applied, and the published weights are those published before."""
    return _learned(seen.now) and bool(seen.before) and seen.before[-1].weights == seen.now.weights


def _learned(step: StepStats) -> bool:
    return step.num_updates > 0 and step.num_signal > 0


def correct_is_punished(seen: Seen) -> bool:
    lead = seen.now.correct_advantage
    return lead is not None and lead < -1e-9


def kl_negative(seen: Seen) -> bool:
    """k2 and k3 cannot be negative; k1 may."""
    return seen.kl_estimator != "k1" and seen.now.kl_mean is not None and seen.now.kl_mean < KL_NEGATIVE


def kl_zero(seen: Seen) -> bool:
    """The policy has been updated since the stage began, so it is not the reference."""
    return seen.now.kl_mean == 0.0 and sum(s.num_updates for s in seen.in_stage[:-1]) >= KL_ZERO_UPDATES


def same_problems(seen: Seen) -> bool:
    return bool(seen.before) and seen.now.problems_left > 0 and seen.before[-1].problems == seen.now.problems


def repeated_draws(seen: Seen) -> bool:
    """Far more completions than by chance begin as on the problem's visit before."""
    luck = sum(s.repeats_by_chance for s in seen.recent)
    return seen.num_repeated >= MIN_REPEATED and seen.num_repeated > REPEATED_FACTOR * luck + 5 * math.sqrt(luck)


def entropy_low(seen: Seen) -> bool:
    return seen.now.entropy_mean is not None and seen.now.entropy_mean < ENTROPY_LOW


def entropy_high(seen: Seen) -> bool:
    return seen.now.entropy_mean is not None and seen.now.entropy_mean > ENTROPY_HIGH


def collapse(seen: Seen) -> bool:
    """Length and truncation rise together while the reward falls: first against last third of three windows."""
    steps = seen.in_stage[-3 * seen.window :]
    if len(steps) < 3 * seen.window:
        return False
    first, last = steps[: seen.window], steps[-seen.window :]
    rewards = [_mean([s.reward_mean for s in part if s.reward_mean is not None]) for part in (first, last)]
    truncated = [_mean([s.truncated_frac for s in part]) for part in (first, last)]
    lengths = [_mean([s.length_mean for s in part]) for part in (first, last)]
    return (
        rewards[1] < rewards[0] - COLLAPSE_REWARD_FALL
        and truncated[1] > truncated[0] + COLLAPSE_TRUNCATION_RISE
        and lengths[1] > lengths[0] * COLLAPSE_LENGTH_FACTOR
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _share(parts: Sequence[float], wholes: Sequence[float]) -> float:
    return sum(parts) / sum(wholes) if sum(wholes) else 0.0
