"""Supervised fine-tuning on people's traces: the sections of a recipe for `deepscaler sft` besides the shared ones."""

from __future__ import annotations

from typing import Literal

from deepscaler.config.sections.prompt import PromptSettings
from deepscaler.config.setting import Section, setting

LossOn = Literal["all", "last"]
TooLong = Literal["drop", "truncate", "error"]


class TracesSection(PromptSettings):
    """The traces. `system_prompt`, `prompt_template` and `instruction` apply as in training by reinforcement."""

    source: str = setting(
        shapes="samples", compared="content", doc="file or directory of traces, or a hub dataset (NAME@COMMIT)"
    )
    validation: str | None = setting(
        None, shapes="nothing", doc="traces kept out of training, whose loss is measured; absent = validation_frac"
    )
    validation_frac: float = setting(
        0.0, shapes="samples", doc="share of the traces of source that is kept out for the validation loss", ge=0, lt=1
    )
    messages_field: str = setting(
        "messages", shapes="samples", compared="content", doc="column of conversations (`conversations` is known too)"
    )
    prompt_field: str = setting(
        "prompt", shapes="samples", compared="content", doc="column of prompts, in rows without messages"
    )
    completion_field: str = setting(
        "completion", shapes="samples", compared="content", doc="column of completions, in rows without messages"
    )
    instruction: str = setting(
        "", shapes="samples", doc="appended to a prompt that is a text, after a space; as data.instruction in training"
    )
    max_tokens: int | None = setting(
        None, unit="tokens", shapes="samples", doc="of a trace, prompt included; absent = the model's context", gt=1
    )
    too_long: TooLong = setting(
        "drop", shapes="samples", doc="traces above max_tokens: drop and count, truncate and count, or error"
    )


class SupervisedSection(Section):
    """The passes over the traces and the loss."""

    epochs: int = setting(1, unit="passes", shapes="update", doc="over all traces, each in an order of its own", gt=0)
    num_steps: int | None = setting(
        None, unit="steps", shapes="update", doc="end after so many optimizer steps; absent = after the epochs", gt=0
    )
    traces_per_step: int = setting(unit="traces", shapes="update", doc="traces per optimizer step", gt=0)
    loss_on: LossOn = setting(
        "all", shapes="update", doc="the assistant's tokens of all its turns, or of the last turn of each trace"
    )
    validate_every_steps: int = setting(
        0,
        unit="steps",
        shapes="nothing",
        doc="steps between validation losses; 0 = before the first and after the last",
    )
