"""Alarms against silent failure: each names the condition, its figures and a remedy. Metric names as documented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepscaler.config.models import AlarmSection

GATE_FAILED_FRAC = 0.9
TRUNCATED_FRAC = 0.9
GRADER_TROUBLE_FRAC = 0.05
MISMATCH_NATS = 0.1
ENTROPY_LOW, ENTROPY_HIGH = 0.005, 8.0
SKIPPED_IN_A_ROW = 5
COLLAPSE_REWARD_FALL, COLLAPSE_TRUNCATION_RISE, COLLAPSE_LENGTH_FACTOR = 0.1, 0.1, 1.15


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    fatal: bool
    reason: str
    remedy: str


class Alarms:
    """Watches the metrics of each step. An alarm fires once its condition has held for `window` steps in a row,
    and again only after the condition was gone in between."""

    def __init__(self, section: AlarmSection) -> None:
        self._window = section.window
        self._held: dict[str, int] = {}
        self._history: list[dict[str, float]] = []

    def observe(self, step: int, metrics: Mapping[str, Any]) -> list[Alarm]:
        """Alarms that fire at this step."""
        names = ("reward_mean", "truncated_frac", "length_mean")
        self._history = [*self._history, {n: float(metrics[n]) for n in names}][-3 * self._window :]
        fired = []
        for alarm, holds, needed in self._conditions(metrics):
            count = self._held.get(alarm.name, 0) + 1 if holds else 0
            self._held[alarm.name] = count
            if count == needed:
                fired.append(alarm)
        return fired

    def _conditions(self, m: Mapping[str, Any]) -> list[tuple[Alarm, bool, int]]:
        """(alarm, whether its condition holds now, steps it must hold)."""
        window = self._window
        reward, truncated = m["reward_mean"], m["truncated_frac"]
        no_answer = m.get("outcome_no_answer_frac", 0.0)
        trouble = m.get("outcome_timeout_frac", 0.0) + m.get("outcome_grader_failed_frac", 0.0)
        bad_reference = m.get("outcome_bad_reference_frac", 0.0)
        entropy, mismatch = m.get("entropy_mean"), m.get("mismatch_mean", 0.0)
        conditions = [
            (_REWARD_ZERO, reward == 0.0, window),
            (_REWARD_ONE, reward == 1.0, window),
            (_GATE.with_figure(no_answer), no_answer > GATE_FAILED_FRAC, max(1, window // 2)),
            (_TRUNCATION.with_figure(truncated), truncated > TRUNCATED_FRAC, window),
            (_GRADER.with_figure(trouble), trouble > GRADER_TROUBLE_FRAC, window),
            (_REFERENCE.with_figure(bad_reference), bad_reference > GRADER_TROUBLE_FRAC, window),
            (_MISMATCH.with_figure(mismatch), mismatch > MISMATCH_NATS, max(1, window // 2)),
            (_SKIPPED, m.get("skipped_updates", 0) > 0, SKIPPED_IN_A_ROW),
            (_COLLAPSE, self._collapsed(), 1),
        ]
        if entropy is not None:
            conditions.append((_ENTROPY_LOW.with_figure(entropy), entropy < ENTROPY_LOW, window))
            conditions.append((_ENTROPY_HIGH.with_figure(entropy), entropy > ENTROPY_HIGH, window))
        return [(planned.alarm, bool(holds), needed) for planned, holds, needed in conditions]

    def _collapsed(self) -> bool:
        """Length and truncation rise together while the reward falls: first against last third of the history."""
        if len(self._history) < 3 * self._window:
            return False
        first, last = self._history[: self._window], self._history[-self._window :]
        reward, truncated, length = (_change(first, last, n) for n in ("reward_mean", "truncated_frac", "length_mean"))
        return (
            reward[1] < reward[0] - COLLAPSE_REWARD_FALL
            and truncated[1] > truncated[0] + COLLAPSE_TRUNCATION_RISE
            and length[1] > length[0] * COLLAPSE_LENGTH_FACTOR
        )

    def forget_trend(self) -> None:
        """A new stage changes budget, and with it length and truncation; trends start anew."""
        self._history = []

    def state_dict(self) -> dict[str, Any]:
        return {"held": self._held, "history": self._history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held, self._history = dict(state["held"]), list(state["history"])


def _change(first: Sequence[dict[str, float]], last: Sequence[dict[str, float]], name: str) -> tuple[float, float]:
    return sum(r[name] for r in first) / len(first), sum(r[name] for r in last) / len(last)


@dataclass(frozen=True, slots=True)
class _Planned:
    alarm: Alarm

    def with_figure(self, value: float) -> _Planned:
        a = self.alarm
        return _Planned(Alarm(a.name, a.fatal, a.reason.format(value), a.remedy))


def _planned(name: str, reason: str, remedy: str, *, fatal: bool = False) -> _Planned:
    return _Planned(Alarm(name, fatal, reason, remedy))


_REWARD_ZERO = _planned(
    "reward_all_zero",
    "every reward has been 0, so nothing is learned",
    "read some rollouts (deepscaler report): wrong template, gate, references, or problems far too hard",
    fatal=True,
)
_REWARD_ONE = _planned(
    "reward_all_one",
    "every reward has been 1, so nothing is learned",
    "take harder problems, or check the grader: it may accept everything",
)
_GATE = _planned(
    "gate_failed",
    "{:.0%} of the completions hold no answer the grader can find",
    "check that the chat template's <think> and the model's \\boxed{{}} are what the grader expects",
    fatal=True,
)
_TRUNCATION = _planned(
    "truncation",
    "{:.0%} of the completions are cut at the budget",
    "raise max_completion_tokens of the stage, or start from a model with shorter answers",
)
_GRADER = _planned(
    "grader_trouble",
    "{:.0%} of the gradings timed out or failed",
    "read their details in the rollouts; raise grader.cpu_s, grader.wall_s or grader.memory_mib if they say so",
)
_REFERENCE = _planned(
    "bad_references",
    "{:.0%} of the gradings met a reference answer that cannot be read",
    "check data.answer_field and the answers in the data",
)
_MISMATCH = _planned(
    "mismatch",
    "trainer and sampler differ by {:.3f} nats per token on average",
    "weights may not reach the sampler, or its precision is too low; set algorithm.importance_cap",
)
_SKIPPED = _planned(
    "skipped_updates",
    "updates were skipped for non-finite gradients five steps in a row",
    "lower optimizer.learning_rate, or go back to an earlier checkpoint",
    fatal=True,
)
_COLLAPSE = _planned(
    "collapse",
    "length and truncated share rise together while the reward falls",
    "go back to an earlier checkpoint; lower the learning rate or keep a KL term",
    fatal=True,
)
_ENTROPY_LOW = _planned(
    "entropy_low",
    "the policy's entropy is {:.4f} nats: it hardly explores any more",
    "raise clip_high or the temperature, or stop here",
)
_ENTROPY_HIGH = _planned(
    "entropy_high",
    "the policy's entropy is {:.2f} nats: it is close to noise",
    "lower the learning rate or the entropy coefficient",
)
