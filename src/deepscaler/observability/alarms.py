"""Alarms against silent failure: a table of names, conditions (alarm_conditions.py), figures and remedies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deepscaler.config.sections.training import AlarmSection
from deepscaler.observability import alarm_conditions as when
from deepscaler.observability.alarm_conditions import KL_ZERO_UPDATES, Seen
from deepscaler.observability.draws import DrawMemory
from deepscaler.observability.step_stats import StepStats

# Nats per token between trainer and sampler: the lowest limit that is ever learned, and the highest.
MISMATCH_LIMITS = {"float32": (1e-4, 0.01), "bfloat16": (0.01, 0.03)}
MISMATCH_FACTOR = 10.0  # limit: so many times the least that the first steps showed
MISMATCH_LEARNED_FROM = 5  # steps
SKIPPED_IN_A_ROW = 5
CERTAIN = 3  # steps in a row of what no chance explains


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    fatal: bool
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires once `holds` has been true for `after(window)` steps in a row.

    reason: a format string over what was seen (`{s}`). fatal: only where nothing can be right any more.
    """

    name: str
    holds: Callable[[Seen], bool]
    after: Callable[[int], int]
    reason: str
    remedy: str
    fatal: bool = False


class Alarms:
    """Watches the steps of a run. An alarm that has fired fires again only after its condition was gone in between.

    dtype: what the model computes in, which decides what mismatch is ordinary. max_policy_lag: versions that rollouts
    may be behind (rollout.max_policy_lag). State is JSON and exact, with what
    was learned from the first steps.
    """

    def __init__(
        self, section: AlarmSection, *, dtype: str = "float32", kl_estimator: str = "k3", max_policy_lag: int = 0
    ) -> None:
        self._section, self._window = section, section.window
        self._max_policy_lag = max_policy_lag
        self._limits = MISMATCH_LIMITS[dtype]
        self._kl_estimator = kl_estimator
        self._held: dict[str, int] = {}
        self._before: list[StepStats] = []
        self._first_mismatches: list[float] = []
        self.draws = DrawMemory()

    def observe(self, stats: StepStats) -> list[Alarm]:
        """Alarms that fire at this step."""
        seen = Seen(
            self._window,
            stats,
            tuple(self._before),
            self.mismatch_limit,
            self._kl_estimator,
            self._max_policy_lag,
            self._section.min_effective_sample_size,
        )
        fired = []
        for rule in RULES:
            count = self._held.get(rule.name, 0) + 1 if rule.holds(seen) else 0
            self._held[rule.name] = count
            if count == rule.after(self._window):
                fired.append(Alarm(rule.name, rule.fatal, rule.reason.format(s=seen), rule.remedy))
        self._before = [*self._before, stats][-max(3 * self._window, KL_ZERO_UPDATES) :]
        if stats.mismatch_mean is not None and len(self._first_mismatches) < MISMATCH_LEARNED_FROM:
            self._first_mismatches.append(stats.mismatch_mean)
        return fired

    @property
    def mismatch_limit(self) -> float:
        """Learned from the smallest of the first steps: a fault that begins later then has nothing to hide behind."""
        lowest, highest = self._limits
        if not self._first_mismatches:
            return highest
        return min(highest, max(lowest, MISMATCH_FACTOR * min(self._first_mismatches)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "held": self._held,
            "steps": [asdict(stats) for stats in self._before],
            "first_mismatches": self._first_mismatches,
            "draws": self.draws.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """State that a checkpoint of an earlier version lacks is learned again."""
        self._held = dict(state["held"])
        self._before = [StepStats(**stats) for stats in state.get("steps", [])]
        self._first_mismatches = list(state.get("first_mismatches", []))
        self.draws.load_state_dict(state.get("draws", {}))


def _window(window: int) -> int:
    return window


def _half_window(window: int) -> int:
    return max(1, window // 2)


def _steps(count: int) -> Callable[[int], int]:
    return lambda window: count


ROLLOUT_RULES = (
    Rule(
        "reward_all_zero",
        when.nothing_solved,
        _window,
        "every reward has been 0, so nothing is learned",
        "read some rollouts (deepscaler report): wrong template, gate, references, or problems far too hard",
        fatal=True,
    ),
    Rule(
        "reward_all_one",
        when.all_solved,
        _window,
        "every reward has been 1, so nothing is learned",
        "take harder problems, or check the grader: it may accept everything",
    ),
    Rule(
        "reward_by_chance",
        when.rare_and_by_chance,
        _steps(CERTAIN),
        "{s.rewarded_frac:.1%} of the completions are rewarded, and {s.chance_frac:.1%} would be with the references "
        "of other problems: rewards are luck",
        "check that problems and answers belong together (data.answer_field, the order of rows) and read some rollouts",
        fatal=True,
    ),
    Rule(
        "reward_near_chance",
        when.frequent_and_by_chance,
        _steps(CERTAIN),
        "{s.rewarded_frac:.0%} of the completions are rewarded, and {s.chance_frac:.0%} would be with the references "
        "of other problems",
        "check that problems and answers belong together; answers that can be guessed teach guessing",
    ),
    Rule(
        "no_signal",
        when.no_signal,
        _window,
        "every group has been all right or all wrong, so nothing is learned",
        "take problems of middle difficulty, a larger rollout.group_size, or algorithm.dynamic_sampling",
    ),
    Rule(
        "reward_sign",
        when.correct_is_punished,
        _steps(1),
        "right completions got a lower advantage than wrong ones ({s.now.correct_advantage:.3f} on average in a group)",
        "rewards or advantages have the wrong sign; mend the grader or the advantage function",
        fatal=True,
    ),
    Rule(
        "gate_failed",
        when.gate_failed,
        _half_window,
        "{s.now.no_answer_frac:.0%} of the completions hold no answer the grader can find",
        "check that the chat template's <think> and the model's answers (\\boxed{}, or what grader.answer names) are "
        "what the grader expects",
        fatal=True,
    ),
    Rule(
        "truncation",
        when.truncation,
        _window,
        "{s.now.truncated_frac:.0%} of the completions are truncated at the budget",
        "raise max_completion_tokens of the stage, or start from a model with shorter answers",
    ),
    Rule(
        "grader_trouble",
        when.grader_trouble,
        _steps(1),
        "{s.failed_grading_frac:.1%} of the gradings timed out or failed; these completions are not trained on",
        "read their details in the rollouts; raise grader.cpu_s, grader.wall_s or grader.memory_mib if they say so",
    ),
    Rule(
        "bad_references",
        when.bad_references,
        _steps(1),
        "{s.bad_reference_frac:.1%} of the gradings met a reference answer that cannot be read; these completions are "
        "not trained on",
        "check data.answer_field and the answers in the data",
    ),
    Rule(
        "no_verdicts",
        when.no_verdicts,
        _half_window,
        "{s.no_verdict_frac:.0%} of the gradings reached no verdict, so nothing is learned",
        "read their details in the rollouts: the grader fails, or the references cannot be read",
        fatal=True,
    ),
    Rule(
        "reward_trouble",
        when.reward_trouble,
        _steps(1),
        "a reward function failed on {s.failed_reward_frac:.1%} of the completions, which are not trained on",
        "read its tracebacks in reward_failures.jsonl; try it with `deepscaler reward`",
    ),
    Rule(
        "no_rewards",
        when.no_rewards,
        _half_window,
        "reward functions failed on {s.now.num_failed_rewards} of {s.now.num_completions} completions, so nothing is "
        "learned",
        "read their tracebacks in reward_failures.jsonl; try them with `deepscaler reward`",
        fatal=True,
    ),
    Rule(
        "same_problems",
        when.same_problems,
        _steps(CERTAIN),
        "every step asks the same problems, though {s.now.problems_left} others wait",
        "the order of the data does not move on; this is a fault of the program, please report it",
        fatal=True,
    ),
    Rule(
        "repeated_draws",
        when.repeated_draws,
        _steps(1),
        "{s.num_repeated} of {s.num_compared} completions begin as on their problem's visit before: the same random "
        "numbers are used again",
        "the sampler's draws do not depend on the step; this is a fault of the program, please report it",
    ),
    Rule(
        "collapse",
        when.collapse,
        _steps(1),
        "length and truncated share rise together while the reward falls",
        "go back to an earlier checkpoint; lower the learning rate or keep a KL term",
        fatal=True,
    ),
)
UPDATE_RULES = (
    Rule(
        "mismatch",
        when.mismatch,
        _half_window,
        "trainer and sampler differ by {s.now.mismatch_mean:.3g} nats per token on average, the limit of this run is "
        "{s.mismatch_limit:.3g}",
        "weights may not reach the sampler, its temperature or precision may differ; see algorithm.importance_cap",
    ),
    Rule(
        "policy_lag",
        when.policy_lag,
        _half_window,
        "completions are sampled with weights {s.now.policy_lag} versions old, the recipe allows {s.max_policy_lag}",
        "weights reach the sampler late; this is a fault of the program, please report it",
    ),
    Rule(
        "effective_sample_size",
        when.few_effective_samples,
        _half_window,
        "trainer and sampler differ so much that the tokens weigh as {s.now.effective_sample_size:.0%} of their number "
        "would, the limit is {s.min_effective_sample_size:.0%}",
        "lower rollout.max_policy_lag or optimizer.learning_rate, or leave out what differs most "
        "(algorithm.importance_mask)",
    ),
    Rule(
        "skipped_updates",
        when.skipped_updates,
        _steps(SKIPPED_IN_A_ROW),
        "updates were skipped for non-finite gradients five steps in a row",
        "lower optimizer.learning_rate, or go back to an earlier checkpoint",
        fatal=True,
    ),
    Rule(
        "often_skipped",
        when.often_skipped,
        _steps(1),
        "{s.skipped_frac:.0%} of the recent updates were skipped for non-finite gradients",
        "lower optimizer.learning_rate, or go back to an earlier checkpoint",
    ),
    Rule(
        "zero_gradient",
        when.zero_gradient,
        _steps(CERTAIN),
        "the gradient is exactly 0 though there are advantages, so nothing is learned",
        "the loss does not reach the weights: parameters without requires_grad, or a mask over everything",
        fatal=True,
    ),
    Rule(
        "zero_learning_rate",
        when.zero_learning_rate,
        _steps(CERTAIN),
        "the optimizer's learning rate is 0, so nothing is learned",
        "check optimizer.learning_rate and the warm-up",
        fatal=True,
    ),
    Rule(
        "weights_unchanged",
        when.weights_unchanged,
        _steps(CERTAIN),
        "updates were applied and no weight changed, so nothing is learned",
        "the optimizer does not hold the model's weights, or optimizer.learning_rate is below their precision",
        fatal=True,
    ),
    Rule(
        "kl_negative",
        when.kl_negative,
        _steps(1),
        "the KL estimate is {s.now.kl_mean:.3g} nats, which {s.kl_estimator} cannot be",
        "policy and reference are exchanged, or their log-probabilities are of different tokens",
        fatal=True,
    ),
    Rule(
        "kl_zero",
        when.kl_zero,
        _steps(1),
        "the KL estimate is exactly 0 after the policy was updated: it is compared with itself",
        "the reference follows the policy; this is a fault of the program, please report it",
    ),
    Rule(
        "entropy_low",
        when.entropy_low,
        _window,
        "the policy's entropy is {s.now.entropy_mean:.4f} nats: it hardly explores any more",
        "raise clip_high or the temperature, or stop here",
    ),
    Rule(
        "entropy_high",
        when.entropy_high,
        _window,
        "the policy's entropy is {s.now.entropy_mean:.2f} nats: it is close to noise",
        "lower the learning rate or the entropy coefficient",
    ),
)
RULES = (*ROLLOUT_RULES, *UPDATE_RULES)
