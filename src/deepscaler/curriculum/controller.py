"""Which completion budget a step trains at: a fixed schedule, or a controller that watches the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepscaler.config.sections.curriculum import CurriculumSection, StageSection
from deepscaler.curriculum.signals import mean, mean_of_present, slope
from deepscaler.observability.counts import counted


@dataclass(frozen=True, slots=True)
class StepObservation:
    """What the controller sees of a step; lengths are tokens, None when no completion was right (or wrong).

    reward_mean: share of solved completions, which is the mean reward where the verdict is the reward; None when no
        completion has a reward.
    """

    step: int
    truncated_frac: float
    reward_mean: float | None
    length_correct_mean: float | None = None
    length_wrong_mean: float | None = None


@dataclass(frozen=True, slots=True)
class StageChange:
    """A decision, with the figures it rests on."""

    from_stage: str
    to_stage: str
    reason: str
    figures: dict[str, float]


class Curriculum:
    """Stages in order; `observe` is called once per step and may move on. State is JSON and exact.

    Measured control: in each stage the mean truncated share over the last `window` steps is compared with the lowest
    it has been. Once it has settled (`truncation_low`) and risen again by `truncation_rise` while the reward is flat,
    for `patience` steps in a row and after at least `min_stay` steps, the policy is asking for room: the published run
    switched when 4.2% had become 6.5%. A stage whose first full window truncates less than `skip_below_truncation`
    has nothing to teach and is left at once; a budget shorter than the model's needs is refused the same way, when
    its first window truncates more than `refuse_above_truncation` (Polaris warns of short first stages).
    """

    def __init__(self, stages: Sequence[StageSection], section: CurriculumSection) -> None:
        self._stages = tuple(stages)
        self._section = section
        self.stage_index = 0
        self._history: list[StepObservation] = []
        self._lowest: float | None = None
        self._signal_steps = 0

    @property
    def stage(self) -> StageSection:
        return self._stages[self.stage_index]

    @property
    def steps_in_stage(self) -> int:
        return len(self._history)

    def observe(self, observation: StepObservation) -> StageChange | None:
        """Take in one finished step; returns the decision to move on, if it is one."""
        self._history.append(observation)
        if self.stage_index + 1 == len(self._stages):
            return None
        if self._section.kind == "schedule":
            return self._scheduled()
        return self._measured()

    def _scheduled(self) -> StageChange | None:
        if self.steps_in_stage < (self.stage.steps or 0):
            return None
        return self._advance(f"scheduled after {counted(self.steps_in_stage, 'step')}", self._figures())

    def _measured(self) -> StageChange | None:
        section = self._section
        if self.steps_in_stage < section.window:
            return None
        figures = self._figures()
        truncated = figures["truncated_frac"]
        if self.steps_in_stage == section.window:
            unsuited = self._unsuited(truncated)
            if unsuited:
                return self._advance(unsuited, figures)
        self._lowest = truncated if self._lowest is None else min(self._lowest, truncated)
        figures["truncated_frac_lowest"] = self._lowest
        settled = self._lowest <= section.truncation_low
        rising = truncated - self._lowest >= section.truncation_rise
        flat = figures["reward_slope"] < section.reward_slope
        self._signal_steps = self._signal_steps + 1 if settled and rising and flat else 0
        if self._signal_steps < section.patience or self.steps_in_stage < section.min_stay:
            return None
        return self._advance(
            f"truncated share rose from {self._lowest:.1%} to {truncated:.1%} while the reward was flat "
            f"({figures['reward_slope']:+.5f} per step)",
            figures,
        )

    def _unsuited(self, truncated: float) -> str | None:
        section = self._section
        budget = self.stage.max_completion_tokens
        if truncated < section.skip_below_truncation:
            return f"skipped: only {truncated:.1%} of completions reach the budget of {counted(budget, 'token')}"
        if section.refuse_above_truncation and truncated > section.refuse_above_truncation:
            shares = f"{truncated:.1%} of completions are truncated"
            return f"refused to shorten: {shares} at the budget of {counted(budget, 'token')}"
        return None

    def _figures(self) -> dict[str, float]:
        """Means and slopes over the last window."""
        recent = self._history[-self._section.window :]
        rewards = [o.reward_mean for o in recent if o.reward_mean is not None]
        figures: dict[str, float | None] = {
            "steps_in_stage": float(self.steps_in_stage),
            "truncated_frac": mean([o.truncated_frac for o in recent]),
            "reward_mean": mean_of_present(rewards),
            "reward_slope": slope(rewards),
            "length_correct_mean": mean_of_present([o.length_correct_mean for o in recent]),
            "length_wrong_mean": mean_of_present([o.length_wrong_mean for o in recent]),
        }
        return {name: value for name, value in figures.items() if value is not None}

    def _advance(self, reason: str, figures: dict[str, float]) -> StageChange:
        before = self.stage.name
        self.stage_index += 1
        self._history, self._lowest, self._signal_steps = [], None, 0
        return StageChange(before, self.stage.name, reason, figures)

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage_index": self.stage_index,
            "history": [asdict(o) for o in self._history],
            "lowest": self._lowest,
            "signal_steps": self._signal_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stage_index = state["stage_index"]
        self._history = [StepObservation(**o) for o in state["history"]]
        self._lowest = state["lowest"]
        self._signal_steps = state["signal_steps"]
