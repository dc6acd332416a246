"""Stages of a run, and what decides when the next one begins."""

from __future__ import annotations

from typing import Literal

from deepscaler.config.setting import Section, setting


class StageSection(Section):
    """One length of the curriculum."""

    name: str = setting(shapes="samples", doc="shown in logs and the report")
    max_completion_tokens: int = setting(unit="tokens", shapes="samples", doc="completion budget", gt=0)
    steps: int | None = setting(
        None,
        unit="steps",
        shapes="samples",
        doc="length of the stage; the last one may leave it out and runs to num_steps",
        gt=0,
    )
    group_size: int | None = setting(
        None, unit="completions", shapes="samples", doc="overrides rollout.group_size", gt=1
    )
    reset_optimizer: bool = setting(False, shapes="update", doc="start the stage with a new optimizer")
    reset_reference: bool = setting(False, shapes="update", doc="KL reference := weights at the start of the stage")
    reshuffle: bool = setting(False, shapes="samples", doc="start the stage with a fresh shuffle of the data")
    sources: tuple[str, ...] | None = setting(
        None, shapes="samples", doc="names of the data.sources to draw from; absent = all"
    )
    min_difficulty: float | None = setting(
        None, shapes="samples", doc="only problems at least so difficult; absent = all"
    )
    max_difficulty: float | None = setting(
        None, shapes="samples", doc="only problems at most so difficult; absent = all"
    )
    shortest_prompt: int = setting(0, unit="tokens", shapes="samples", doc="only prompts at least so long", ge=0)
    longest_prompt: int | None = setting(
        None,
        unit="tokens",
        shapes="samples",
        doc="only prompts at most so long; absent = up to data.max_prompt_tokens",
        gt=0,
    )
    drop_solved: bool = setting(
        False, shapes="samples", doc="leave out problems whose latest group was all right when the stage begins"
    )


class CurriculumSection(Section):
    kind: Literal["schedule", "measured"] = setting(
        "schedule", shapes="samples", doc="fixed steps per stage, or a controller that watches the run"
    )
    window: int = setting(20, unit="steps", shapes="samples", doc="measured: steps averaged for each figure", gt=1)
    min_stay: int = setting(40, unit="steps", shapes="samples", doc="measured: shortest stay in a stage", gt=0)
    truncation_low: float = setting(
        0.05, shapes="samples", doc="measured: truncated share that counts as settled", ge=0, le=1
    )
    truncation_rise: float = setting(
        0.015, shapes="samples", doc="measured: rise above its lowest that calls for a longer budget", gt=0, le=1
    )
    reward_slope: float = setting(
        0.0005, unit="reward/step", shapes="samples", doc="measured: below this the reward counts as flat", ge=0
    )
    patience: int = setting(
        5, unit="steps", shapes="samples", doc="measured: steps in a row the signal must hold", gt=0
    )
    skip_below_truncation: float = setting(
        0.0,
        shapes="samples",
        doc="measured: a stage whose first window truncates less than this is skipped; 0 = never",
        ge=0,
        le=1,
    )
    refuse_above_truncation: float = setting(
        0.0,
        shapes="samples",
        doc="measured: a stage whose first window truncates more than this is left at once; 0 = never",
        ge=0,
        le=1,
    )
