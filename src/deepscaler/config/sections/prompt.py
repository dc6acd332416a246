"""How a prompt is made of a problem: system prompt, question, and switches of the chat template."""

from __future__ import annotations

from pydantic import StrictBool, StrictFloat, StrictInt, StrictStr, field_validator
from pydantic_core import PydanticCustomError

from deepscaler.config.setting import Section, setting

TemplateValue = StrictBool | StrictInt | StrictFloat | StrictStr


class PromptSettings(Section):
    """Settings of a section that asks problems; `data.prompt_format` applies them."""

    system_prompt: str = setting(
        "",
        shapes="samples",
        added=True,
        doc="system message of every prompt whose row has none of its own; empty = none",
    )
    prompt_template: str = setting(
        "",
        shapes="samples",
        added=True,
        doc="the user message, with the placeholder {problem} (and {instruction}, if it is to be there); empty = the "
        "problem, a space, the instruction",
    )
    template: dict[str, TemplateValue] = setting(
        {},
        shapes="samples",
        added=True,
        doc="variables of the model's chat template, such as enable_thinking = false; one that it does not read is "
        "refused",
    )

    @field_validator("prompt_template")
    @classmethod
    def _has_placeholder(cls, text: str) -> str:
        if text and "{problem}" not in text:
            raise PydanticCustomError("placeholder", "a text with the placeholder {name}", {"name": "{problem}"})
        return text
